"""Which devices carry outer packets: when the kernel is asked, and what became different."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address, ip_network

import pytest

from mssclamp.daemon.underlay import Underlay, Way, nested
from mssclamp.datapath.links import ARPHRD_ETHER, Link
from mssclamp.pmtu.table import Address, Outer, Peer, PeerFacts, Value

Asked = tuple[Address, int]

ONE = Outer(ip_address("198.51.100.7"), 17, 51820)
TWO = Outer(ip_address("2001:db8::7"), 17, 51820, mark=5)
ETH0, ETH1 = Link(2, "eth0", 1500, ARPHRD_ETHER, ""), Link(3, "eth1", 1400, ARPHRD_ETHER, "")


class Kernel:
    """Its routes: output devices by address and mark."""

    def __init__(self) -> None:
        self.routes: dict[Asked, frozenset[int]] = {}
        self.asked: list[set[Asked]] = []

    def ask(self, asked: Collection[Asked]) -> dict[Asked, frozenset[int]]:
        self.asked.append(set(asked))
        return {each: self.routes.get(each, frozenset()) for each in asked}

    def lead(self, outer: Outer, *devices: int) -> None:
        self.routes[outer.address, outer.mark] = frozenset(devices)


@pytest.fixture
def kernel() -> Kernel:
    kernel = Kernel()
    kernel.lead(ONE, 2)
    kernel.lead(TWO, 2, 3)
    return kernel


def test_ways(kernel: Kernel) -> None:
    underlay = Underlay(kernel.ask)
    assert underlay.look([ONE, TWO], [ETH0, ETH1], 0.0) == set()  # known for the first time: no other than before
    assert underlay.way(ONE) == Way(frozenset({2}), 1500)
    assert underlay.way(TWO) == Way(frozenset({2, 3}), 1400)  # every next hop counts
    assert underlay.devices == {2, 3}
    assert underlay.way(Outer(ONE.address, 17, 51820, mark=9)) is None
    assert underlay.way(Outer(ONE.address, 47)) == underlay.way(ONE)  # ports and protocols do not matter


def test_no_way_at_all(kernel: Kernel) -> None:
    kernel.lead(ONE)
    underlay = Underlay(kernel.ask)
    underlay.look([ONE], [ETH0], 0.0)
    assert underlay.way(ONE) == Way(frozenset(), None)
    assert underlay.devices == frozenset()


def test_the_kernel_is_asked_now_and_then(kernel: Kernel) -> None:
    underlay = Underlay(kernel.ask)
    for tick in range(40):
        underlay.look([ONE, TWO], [ETH0, ETH1], tick / 4)
    assert len(kernel.asked) == 5


def test_of_many_endpoints_it_is_asked_seldom(kernel: Kernel) -> None:
    outers = [Outer(ip_address(0x0A000000 + number), 17, 1) for number in range(2000)]
    underlay = Underlay(kernel.ask)
    for tick in range(40):
        underlay.look(outers, [ETH0], tick / 4)
    assert len(kernel.asked) == 1


def test_peers_behind_one_address_are_asked_for_once(kernel: Kernel) -> None:
    underlay = Underlay(kernel.ask)
    underlay.look([ONE, Outer(ONE.address, 17, 4711), TWO], [ETH0], 0.0)
    assert kernel.asked == [{(ONE.address, 0), (TWO.address, 5)}]


def test_other_endpoints_and_devices_are_asked_for_at_once(kernel: Kernel) -> None:
    underlay = Underlay(kernel.ask)
    underlay.look([ONE], [ETH0, ETH1], 0.0)
    underlay.look([ONE, TWO], [ETH0, ETH1], 0.1)
    underlay.look([ONE, TWO], [ETH0], 0.2)
    underlay.look([ONE, TWO], [ETH0], 0.3)
    assert len(kernel.asked) == 3


def test_without_endpoints_nobody_is_asked(kernel: Kernel) -> None:
    underlay = Underlay(kernel.ask)
    underlay.look([ONE], [ETH0], 0.0)
    assert underlay.look([], [ETH0], 0.1) == set()
    assert (len(kernel.asked), underlay.way(ONE), underlay.devices) == (1, None, frozenset())


def test_another_way_is_told_once(kernel: Kernel) -> None:
    underlay = Underlay(kernel.ask)
    underlay.look([ONE, TWO], [ETH0, ETH1], 0.0)
    kernel.lead(ONE, 3)
    assert underlay.look([ONE, TWO], [ETH0, ETH1], 1.0) == set()  # not asked yet
    assert underlay.look([ONE, TWO], [ETH0, ETH1], 2.5) == {(ONE.address, 0)}
    assert underlay.look([ONE, TWO], [ETH0, ETH1], 5.0) == set()


def test_another_mtu_on_the_way_is_another_way(kernel: Kernel) -> None:
    underlay = Underlay(kernel.ask)
    underlay.look([ONE, TWO], [ETH0, ETH1], 0.0)
    smaller = Link(3, "eth1", 1280, ARPHRD_ETHER, "")
    assert underlay.look([ONE, TWO], [ETH0, smaller], 0.1) == {(TWO.address, 5)}
    assert underlay.way(TWO) == Way(frozenset({2, 3}), 1280)


# -- tunnels in tunnels


def peer(name: str, device: str, *prefixes: str, outer: Outer | None = None) -> Peer:
    facts = PeerFacts(name, name, device, tuple(map(ip_network, prefixes)), outer=outer)
    return Peer(facts, Value(1400, "unprobed", "device", ""), 0.0)


IFINDEXES = {"eth0": 2, "wg0": 7, "gre7": 8}


def found(*peers: Peer, leads: dict[Outer, int]) -> dict[str, str]:
    kernel = Kernel()
    for outer, index in leads.items():
        kernel.lead(outer, index)
    underlay = Underlay(kernel.ask)
    underlay.look([each.facts.outer for each in peers if each.facts.outer is not None], [ETH0], 0.0)
    return nested(peers, underlay, IFINDEXES)


def test_a_tunnel_in_a_tunnel() -> None:
    inner = Outer(ip_address("10.99.4.1"), 47)
    peers = [
        peer("inner", "gre7", "10.7.0.0/16", outer=inner),
        peer("all", "wg0", "0.0.0.0/0"),
        peer("near", "wg0", "10.99.0.0/16", outer=ONE),
        peer("nearest", "wg0", "10.99.4.0/24", "fd00::/8"),
    ]
    assert found(*peers, leads={inner: 7, ONE: 2}) == {"inner": "nearest"}
    assert found(*peers[:3], leads={inner: 7, ONE: 2}) == {"inner": "near"}
    assert found(*peers[:1], leads={inner: 7, ONE: 2}) == {}
    assert found(*peers, leads={inner: 2, ONE: 2}) == {}  # past the tunnel, whatever its prefixes say


def test_no_tunnel_is_inside_itself() -> None:
    """As with 0.0.0.0/0 behind it: its own packets go past it, by a mark or a route of their own."""
    outer = Outer(ip_address("198.51.100.7"), 17, 51820)
    assert found(peer("all", "wg0", "0.0.0.0/0", outer=outer), leads={outer: 7}) == {}
