"""The underlay: which devices the outer packets to each endpoint leave by.

No event tells when a route to one address changes, and a big gateway's tables never rest: so the kernel is asked again
and again, which costs it some microseconds for each endpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from mssclamp.daemon.outer import key_of
from mssclamp.daemon.policy import Policy
from mssclamp.datapath import abi
from mssclamp.datapath.links import Link
from mssclamp.datapath.routes import RouteSocket
from mssclamp.errors import DatapathError
from mssclamp.pmtu.table import Address, Outer, Peer
from mssclamp.wire.mtu import IPV6_MIN_MTU

log = logging.getLogger(__name__)

_INTERVAL = 2.0
"""Seconds from one look to the next where there are few endpoints."""

_ENDPOINTS_A_SECOND = 200
"""Asked for at the most, on average."""


@dataclass(frozen=True)
class Way:
    """How packets to one endpoint leave: by which devices (ifindexes), and the smallest MTU of these, bytes."""

    devices: frozenset[int]
    mtu: int | None


def ask_kernel(asked: Collection[tuple[Address, int]]) -> dict[tuple[Address, int], frozenset[int]]:
    """The output devices for addresses and marks."""
    with RouteSocket() as kernel:
        return {each: kernel.out_of(*each) for each in asked}


class Underlay:
    """The ways to all endpoints, as they were last."""

    def __init__(
        self,
        ask: Callable[[Collection[tuple[Address, int]]], Mapping[tuple[Address, int], frozenset[int]]] = ask_kernel,
    ) -> None:
        self._ask = ask
        self._next = float("-inf")
        self._asked: set[tuple[Address, int]] = set()
        self._links: dict[int, int] = {}
        self._ways: dict[tuple[Address, int], Way] = {}

    def is_due(self, now: float) -> bool:
        """Whether it is time to ask again."""
        return now >= self._next

    def look(self, outers: Iterable[Outer], links: Iterable[Link], now: float) -> set[tuple[Address, int]]:
        """Asks again if it is time, or if endpoints or devices are others; returns whose way is another than before."""
        asked = {(outer.address, outer.mark) for outer in outers}
        mtus = {link.index: link.mtu for link in links}
        if asked == self._asked and mtus == self._links and now < self._next:
            return set()
        self._next = now + max(_INTERVAL, len(asked) / _ENDPOINTS_A_SECOND)
        self._asked, self._links = asked, mtus
        try:
            told = self._ask(asked) if asked else {}
        except (DatapathError, OSError) as error:
            log.warning("the ways to the endpoints cannot be asked for: %s", error)
            return set()
        ways = {
            each: Way(devices, min((mtus[index] for index in devices if index in mtus), default=None))
            for each, devices in told.items()
        }
        changed = {each for each, way in ways.items() if each in self._ways and self._ways[each] != way}
        self._ways = ways
        return changed

    def way(self, outer: Outer) -> Way | None:
        """How packets to this endpoint leave."""
        return self._ways.get((outer.address, outer.mark))

    @property
    def devices(self) -> frozenset[int]:
        """All devices that carry outer packets."""
        return frozenset().union(*(way.devices for way in self._ways.values()))


def carriers(
    peers: Iterable[Peer], underlay: Underlay, links: Iterable[Link], policy: Policy
) -> list[tuple[Peer, list[str]]]:
    """Peers with the devices that carry their outer packets, where we know all of these and may attach to them."""
    names = {link.index: link.name for link in links}
    found = []
    for peer in peers if policy.config.underlay.attach else ():
        way = None if peer.facts.outer is None else underlay.way(peer.facts.outer)
        if way is not None and way.devices and way.devices <= names.keys():
            carrying = [names[index] for index in way.devices]
            if all(map(policy.may_carry, carrying)):
                found.append((peer, carrying))
    return found


def endpoint(peer: Peer, link: Link, policy: Policy) -> tuple[bytes, tuple[str, int, int]]:
    """A peer's endpoint, with what the programs are to know of it (`reconcile.Wanted`). `link`: the peer's device."""
    outer = peer.facts.outer
    assert outer is not None
    enforced = policy.is_enforced(peer)
    take = enforced and policy.config.underlay.take_icmp and _is_known_better(peer)
    flags = abi.ENDPOINT_TAKE_ICMP if take else 0
    if link.kind == "tun":
        flags |= abi.ENDPOINT_BY_LENGTH | (abi.ENDPOINT_SET_DF if enforced else 0)
    return bytes(key_of(outer)), (peer.facts.id, flags, outer.source_port)


def _is_known_better(peer: Peer) -> bool:
    """Whether ICMP about the peer's outer packets may be kept from the stack, for what probes have found serves better.

    Not where nothing was found or the operator's word stands: there the kernel's own path MTU is all that there is.
    Nor where IPv6 packets of 1280 bytes fit only if the tunnel's are fragmented (RFC 8200, section 5).
    """
    value, learned = peer.value, peer.learned
    if peer.searching and value.state != "pinned":
        return True  # or the answers to our own probes would make the kernel fragment the next ones
    if value.mtu is None or value.state == "pinned" or learned is None or learned.source != "probe":
        return False
    if not learned.exact or value.mtu >= IPV6_MIN_MTU:
        return True
    return all(network.version == 4 for network in peer.facts.prefixes)


def nested(peers: Iterable[Peer], underlay: Underlay, ifindexes: Mapping[str, int]) -> dict[str, str]:
    """Peers whose outer packets go to an address behind another peer, with that peer: a tunnel in a tunnel."""
    all_peers = list(peers)
    managed = {ifindexes[peer.facts.device]: peer.facts.device for peer in all_peers if peer.facts.device in ifindexes}
    found: dict[str, str] = {}
    for peer in all_peers:
        way = None if peer.facts.outer is None else underlay.way(peer.facts.outer)
        if peer.facts.outer is None or way is None or managed.keys().isdisjoint(way.devices):
            continue
        devices = {managed[index] for index in way.devices if index in managed} - {peer.facts.device}
        address = peer.facts.outer.address
        holders = [
            (network.prefixlen, other.facts.id)
            for other in all_peers
            if other.facts.device in devices
            for network in other.facts.prefixes
            if network.version == address.version and address in network
        ]
        if holders:
            found[peer.facts.id] = max(holders)[1]
    return found
