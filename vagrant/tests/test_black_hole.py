"""The same black holes as in test_without_clampd.py, with a clampd that does not search: the operator steers."""

from __future__ import annotations

import contextlib

import pytest
from vmlab.checks import BLACK_HOLE, HEAL_SECONDS, MTU_IN_BLACK_HOLE, four_transfers
from vmlab.machine import wait_for
from vmlab.site import Site

NO_PROBES = 'mode = "enforce"\n[[device]]\nname = "wg*"\nprobe = false\n'


@pytest.mark.parametrize("underlay", [pytest.param(4, marks=pytest.mark.smoke), 6])
def test_pinned(site: Site, underlay: int) -> None:
    """The operator's value heals open connections: both families inside, both directions."""
    mtu = MTU_IN_BLACK_HOLE[underlay]
    gateways = (site.gw_a, site.gw_b)
    with contextlib.ExitStack() as stack:
        for gateway in gateways:
            stack.enter_context(gateway.configured(NO_PROBES))
        stack.enter_context(site.underlay(underlay))
        transfers = stack.enter_context(four_transfers(site))
        site.path.black_hole(BLACK_HOLE)
        for transfer in transfers:
            transfer.hangs(seconds=1)
        for gateway in gateways:
            stack.enter_context(gateway.pinned(mtu))
        for transfer in transfers:
            transfer.goes_on(timeout=HEAL_SECONDS)
        for transfer in transfers:
            wait_for(lambda t=transfer: t.state()["path_mtu"] == mtu, "the sender to be told")  # type: ignore[misc]
