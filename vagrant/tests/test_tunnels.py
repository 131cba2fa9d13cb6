"""Tunnels beside WireGuard: what clampd takes for their overhead, against what a capture shows."""

from __future__ import annotations

import pytest
from vmlab.addresses import OUTER_B
from vmlab.checks import BLACK_HOLE, HEAL_SECONDS, Record, answers, opens_clamped, outer_size
from vmlab.machine import wait_for
from vmlab.site import Datagrams, Site, Transfer
from vmlab.tunnels import DEVICE, KINDS, Kind, peer_table, tunnel

MTU = 1300
SAMPLE = 1000


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_tunnel(site: Site, kind: Kind, record: Record) -> None:
    with tunnel(site, kind), site.gw_a.configured(peer_table(MTU)):
        site.gw_a.attached(DEVICE)
        measured = _overhead(site, kind)
        record(f"overhead of {kind.name}", measured)
        (peer,) = site.gw_a.peers(DEVICE)
        assert measured == kind.overhead
        if kind.outer == 4:  # a peer without an endpoint is taken to be reached over IPv4
            assert peer["overhead"] == kind.overhead
        for family in kind.inner:
            opens_clamped(site.others, DEVICE, family, MTU)
            answers(site.others, family, MTU)


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.outer == 6], ids=lambda kind: kind.name)
def test_overhead_over_ipv6(site: Site, kind: Kind) -> None:
    """The endpoint says which IP the tunnel runs over."""
    text = peer_table(MTU) + f'endpoint = "{OUTER_B[6]}"\n'
    with tunnel(site, kind), site.gw_a.configured(text):
        (peer,) = site.gw_a.peers(DEVICE)
        assert peer["overhead"] == kind.overhead


@pytest.mark.parametrize("kind", [KINDS[name] for name in ("gre", "ipip", "sit", "vxlan")], ids=lambda kind: kind.name)
def test_found(site: Site, kind: Kind) -> None:
    """A black hole under the tunnel: found by probes and healed, with an open connection."""
    family = kind.inner[0]
    with (
        tunnel(site, kind),
        site.gw_a.configured(peer_table(None)),
        Transfer(site.others, family) as transfer,
    ):
        transfer.goes_on()
        site.path.black_hole(BLACK_HOLE)
        transfer.goes_on(timeout=HEAL_SECONDS)

        def exact() -> bool:
            (peer,) = site.gw_a.peers(DEVICE)
            return (peer["state"], peer["mtu"], peer["exact"]) == ("confirmed", BLACK_HOLE - kind.overhead, True)

        wait_for(exact, f"{BLACK_HOLE - kind.overhead} to be found", timeout=HEAL_SECONDS)


def _overhead(site: Site, kind: Kind) -> int:
    """Outer less inner size, as the other gateway's underlay sees it."""
    family = kind.inner[0]
    with site.gw_b.make("Capture", device="eth1") as outer, Datagrams(site.others, family) as datagrams:
        return outer_size(outer, datagrams, SAMPLE, OUTER_B[kind.outer]) - SAMPLE
