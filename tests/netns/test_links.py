"""Real TCP through a gateway with clampd, over every kind of link (lab.topology draws the line).

Each connection carries random bytes both ways and compares their hashes. The MSS is read where the packet
arrives: of what leaves towards the peer, at the site; of what comes from it, at the client, or in the
gateway's own socket.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab import Connection, Lab, Namespace, peer_table, transfer
from lab.topology import CLIENT, GATEWAY, SITE, SITE_PREFIXES, VLAN, Ends, Line, line, mss_for

pytestmark = pytest.mark.netns

# Each well below what its device takes. 1328 is what a path of 1400 leaves to WireGuard's padding.
PEER_MTU = {"veth": 1400, "tagged": 1388, "vlan": 1400, "vxlan": 1300, "gre": 1300, "wireguard": 1328}

TIMESTAMPS = 12
"""Bytes of the TCP option that Linux takes off the MSS for its segments."""


@dataclass(frozen=True)
class Clamped:
    """A line with an enforcing clampd on its gateway."""

    kind: str
    line: Line
    ends: Ends

    def limit(self, family: int) -> int:
        return mss_for(PEER_MTU[self.kind], family)


@contextlib.contextmanager
def clamped_line(kind: str) -> Iterator[Clamped]:
    """Build the line over this kind of link, see that it does not clamp by itself, and start clampd."""
    with Lab() as lab:
        built = line(lab, kind)
        ends = Ends(lab, built)
        unclamped = mss_for(1500, 4), mss_for(1500, 6)
        assert (ends.mss(4)[0], ends.mss(6)[0]) == unclamped, "the test would prove nothing"
        clampd = lab.clampd(
            built.gateway,
            'mode = "enforce"\n' + peer_table("site", built.device, SITE_PREFIXES, PEER_MTU[kind]),
        )
        clampd.attached(built.device)
        yield Clamped(kind, built, ends)
        assert clampd.running, clampd.output()


@pytest.fixture(scope="module", params=["veth", "tagged", "vxlan", "wireguard"])
def clamped(request: pytest.FixtureRequest) -> Iterator[Clamped]:
    with clamped_line(request.param) as built:
        yield built


@pytest.fixture(params=[True, False], ids=["offloads", "no-offloads"])
def offloads(request: pytest.FixtureRequest, clamped: Clamped) -> bool:
    """Whether checksums are left to the devices (CHECKSUM_PARTIAL) or complete on every wire."""
    on: bool = request.param
    clamped.line.offloads(on)
    return on


@pytest.mark.parametrize("family", [4, 6])
def test_client_connects(clamped: Clamped, offloads: bool, family: int) -> None:
    connection = transfer(clamped.line.client, clamped.line.site, SITE[family])
    assert_syns(clamped, connection, family, offloads)


@pytest.mark.parametrize("family", [4, 6])
def test_client_accepts(clamped: Clamped, offloads: bool, family: int) -> None:
    connection = transfer(clamped.line.site, clamped.line.client, CLIENT[family])
    assert_syns(clamped, connection, family, offloads)


@pytest.mark.parametrize("family", [4, 6])
def test_gateway_connects(clamped: Clamped, offloads: bool, family: int) -> None:
    """The gateway's own kernel makes the SYN, and meets the SYN-ACK after the ingress hook."""
    connection = transfer(clamped.line.gateway, clamped.line.site, SITE[family])
    assert_own_syn(clamped, connection, connection.client_mss, family, offloads)


@pytest.mark.parametrize("family", [4, 6])
def test_gateway_accepts(clamped: Clamped, offloads: bool, family: int) -> None:
    connection = transfer(clamped.line.site, clamped.line.gateway, GATEWAY[family])
    assert_own_syn(clamped, connection, connection.server_mss, family, offloads)


@pytest.mark.parametrize("family", [4, 6])
def test_smaller_offers_stay(clamped: Clamped, family: int) -> None:
    """A host that asks for less than the limit gets what it asked for."""
    small = 900
    route = {4: "10.2.0.0/24", 6: "fd00:2::/64"}[family]
    with smaller_route(clamped.line.client, route, small):
        connection = transfer(clamped.line.client, clamped.line.site, SITE[family], size=5000)
    assert clamped.ends.syn(clamped.ends.at_site, connection).mss == small


def test_tags_are_kept(clamped: Clamped) -> None:
    """What comes over the tagged cable bears the gateway's tag still, and nothing else ever gets one."""
    transfer(clamped.line.client, clamped.line.site, SITE[4], size=5000)
    tags = {frame.vlan for frame in clamped.ends.at_site.frames() if not frame.outgoing}
    assert tags == {VLAN if clamped.kind == "tagged" else None}


@pytest.mark.parametrize("kind", ["vlan", "gre"])
def test_kinds_that_not_every_kernel_has(kind: str) -> None:
    with clamped_line(kind) as clamped:
        line = clamped.line
        for family in (4, 6):
            assert_syns(clamped, transfer(line.client, line.site, SITE[family]), family, offloads=True)
            assert_syns(clamped, transfer(line.site, line.client, CLIENT[family]), family, offloads=True)
            own = transfer(line.gateway, line.site, SITE[family])
            assert_own_syn(clamped, own, own.client_mss, family, offloads=True)


def assert_syns(clamped: Clamped, connection: Connection, family: int, offloads: bool) -> None:
    """SYN and SYN-ACK fit the peer at both ends, whichever way each went."""
    for capture in (clamped.ends.at_site, clamped.ends.at_client):
        segment = clamped.ends.syn(capture, connection)
        assert segment.mss == clamped.limit(family)
        assert segment.checksum_right or offloads
    for used in (connection.client_mss, connection.server_mss):
        assert clamped.limit(family) - TIMESTAMPS <= used <= clamped.limit(family)


def assert_own_syn(clamped: Clamped, connection: Connection, own_mss: int, family: int, offloads: bool) -> None:
    """The gateway's SYN fits the peer, and so do the segments that the gateway's socket sends."""
    segment = clamped.ends.syn(clamped.ends.at_site, connection)
    assert segment.mss == clamped.limit(family)
    assert segment.checksum_right or offloads
    assert clamped.limit(family) - TIMESTAMPS <= own_mss <= clamped.limit(family)


class smaller_route:
    """While inside, the host offers this MSS to destinations of a prefix."""

    def __init__(self, namespace: Namespace, prefix: str, mss: int) -> None:
        via = "via 10.1.0.1" if ":" not in prefix else "via fd00:1::1"
        self._namespace = namespace
        self._route = f"{prefix} {via} dev lan advmss {mss}"

    def __enter__(self) -> None:
        self._namespace.ip(f"route add {self._route}")

    def __exit__(self, *_: object) -> None:
        self._namespace.ip(f"route delete {self._route}")
