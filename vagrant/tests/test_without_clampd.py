"""The black hole is real: what connections meet on a path that shrinks and says nothing, before clampd heals them.

The kernel's WireGuard sends with DF clear, so a router on an IPv4 path fragments what does not fit, and the black hole
is the fragments'. Over IPv6 no router fragments, and it is the missing "packet too big".
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from vmlab.checks import BLACK_HOLE, MTU_IN_BLACK_HOLE
from vmlab.site import Datagrams, Site, Transfer


@pytest.fixture(scope="module")
def bare(site: Site) -> Iterator[Site]:
    """Neither gateway has clampd, its programs included."""
    with site.without_clampd():
        yield site


@pytest.mark.parametrize("underlay", [4, 6])
def test_black_hole(bare: Site, underlay: int) -> None:
    """Small packets pass, a connection that was open hangs, and a new one hangs too. When fragments and messages pass
    again, everything goes on."""
    mtu = MTU_IN_BLACK_HOLE[underlay]
    with bare.underlay(underlay), Transfer(bare.hosts, 4) as transfer:
        transfer.goes_on()
        bare.path.black_hole(BLACK_HOLE)
        transfer.hangs(seconds=20)
        with Datagrams(bare.hosts, 4) as datagrams:
            assert datagrams.arrives(mtu)
            assert not datagrams.arrives(mtu + 1)
        with Transfer(bare.hosts, 4) as another:
            another.hangs(seconds=5)
        bare.path.clear()
        transfer.goes_on(timeout=60)
