"""`route_mtu`: which routes of a device are to have which MTU, and which are left alone and why.

PURE: routes as the kernel lists them, peers, and what was written before come in; changes go out. Only an MTU is ever
put in or taken out, never a route. A route is ours only while it is exactly as we left it: whatever else has an MTU is
its owner's. But the kernel has a hand in it: when a device's MTU sinks below an IPv6 route's, it lowers the route's to
that, and lifts it again with the device's (rt6_mtu_change). So in an IPv6 route of ours the device's MTU is ours too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from mssclamp.wire.route import UNICAST, Attribute, Flag, Metric, Place, Route

Network = IPv4Network | IPv6Network

Written = Mapping[bytes, frozenset[int]]
"""MTUs that may stand in a route by our doing, by the route's identity. Several: a change was cut short."""

MIN_MTU6 = 1280
"""RFC 8200, section 5: no IPv6 route has less."""

MAIN_TABLE = 254

_NAMED = 4
"""Routes or prefixes that one sentence names."""

_OPERATORS_PROTOCOLS = {0, 2, 3, 4, 9, 16}
"""unspec, kernel, boot, static, ra, dhcp: nobody keeps a copy of such a route and compares."""

_DAEMONS = {
    1: "ICMP redirects", 8: "gated", 10: "mrt", 11: "zebra", 12: "bird", 13: "dnrouted", 14: "xorp", 15: "ntk",
    17: "mrouted", 18: "keepalived", 42: "babel", 99: "openr", 186: "bgp", 187: "isis", 188: "ospf", 189: "rip",
    192: "eigrp",
}  # fmt: skip

_KNOWN_ATTRIBUTES = {
    Attribute.DST, Attribute.OIF, Attribute.GATEWAY, Attribute.PRIORITY, Attribute.PREFSRC, Attribute.FLOW,
    Attribute.TABLE, Attribute.VIA, Attribute.PREF,
}  # fmt: skip

_KNOWN_FLAGS = Flag.PERVASIVE | Flag.ONLINK | Flag.LINKDOWN


@dataclass(frozen=True)
class RoutePeer:
    """A peer of the device. `mtu` (bytes): to be written into its routes; None: they stay without."""

    name: str
    prefixes: tuple[Network, ...]
    mtu: int | None


@dataclass(frozen=True)
class Change:
    """Give the route this MTU (bytes), or take ours out of it (None)."""

    route: Route
    mtu: int | None

    @property
    def result(self) -> Route:
        """The route as it is to be."""
        return self.route.with_mtu(self.mtu)


@dataclass(frozen=True)
class Plan:
    """What to do about a device's routes. `ours`: those that have our MTU when it is done, by identity."""

    changes: tuple[Change, ...] = ()
    ours: Mapping[bytes, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def plan(device: str, device_mtu: int, routes: Sequence[Route], peers: Sequence[RoutePeer], written: Written) -> Plan:
    """What makes the routes of a device what they should be. With no peers: what undoes everything."""
    there = [route for route in routes if _is_candidate(route)]
    prefixes = _Prefixes(peers, there, device_mtu)
    changes: list[Change] = []
    ours: dict[bytes, int] = {}
    left_alone: dict[str, list[str]] = defaultdict(list)
    for route in there:
        has_ours = _has_ours(route, written, device_mtu)
        wanted = prefixes.wanted(route.destination)
        why = None
        if wanted is not None:
            why = _obstacle(route, has_ours=has_ours) or prefixes.harm(route, wanted)
        if why is not None:
            left_alone[why].append(route_text(route))
        elif wanted is not None:
            ours[route.identity] = wanted
            if route.mtu != wanted:
                changes.append(Change(route, wanted))
            continue
        if has_ours:
            changes.append(Change(route, None))
    problems = [f"{device}: route_mtu leaves {listed(names)} alone: {why}" for why, names in left_alone.items()]
    lacking = prefixes.without_route()
    if lacking:
        problems.append(
            f"{device}: route_mtu finds no route inside {listed(lacking)}; give the prefix a route of its own"
        )
    return Plan(tuple(changes), ours, tuple(problems))


def contested(places: Collection[Place], routes: Iterable[Route]) -> set[Place]:
    """Those places where several routes stand: the kernel might replace another than the one that is meant."""
    standing: dict[Place, set[tuple[bytes, int | None]]] = {place: set() for place in places}
    for route in routes:
        if route.place in standing:
            standing[route.place].add((route.identity, route.mtu))
    return {place for place, found in standing.items() if len(found) > 1}


def route_text(route: Route) -> str:
    """A route for people."""
    table = "" if route.table_id == MAIN_TABLE else f" (table {route.table_id})"
    return f"{route.destination}{table}"


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _is_candidate(route: Route) -> bool:
    return route.type == UNICAST and not route.flags & Flag.CLONED and not _is_local(route.destination)


def _is_local(network: Network) -> bool:
    """Destinations that are each link's own, whatever a peer's prefixes say."""
    return network.is_link_local or network.is_multicast


def _has_ours(route: Route, written: Written, device_mtu: int) -> bool:
    values = written.get(route.identity)
    if values is None or route.mtu is None:
        return False
    return route.mtu in values or (route.destination.version == 6 and route.mtu == device_mtu)


def _obstacle(route: Route, *, has_ours: bool) -> str | None:
    """What forbids us to touch this route, in words; None if nothing does."""
    kinds = {kind for kind, _ in route.attributes}
    if Attribute.NH_ID in kinds:
        return "a nexthop object"
    if Attribute.MULTIPATH in kinds or route.ifindex is None:
        return "several next hops"
    if kinds & {Attribute.ENCAP, Attribute.ENCAP_TYPE}:
        return "an encapsulation"
    if route.protocol not in _OPERATORS_PROTOCOLS:
        return f"made by {_DAEMONS.get(route.protocol, f'routing protocol {route.protocol}')}"
    unknown = kinds - _KNOWN_ATTRIBUTES
    if unknown:
        return f"attribute {min(unknown)}, which clampd does not know"
    metrics = {kind for kind, _ in route.metrics if not Metric.LOCK <= kind <= Metric.FASTOPEN_NO_COOKIE}
    if metrics:
        return f"metric {min(metrics)}, which clampd does not know"
    flags = route.flags & ~_KNOWN_FLAGS
    if flags:
        return f"flags {flags:#x}, which clampd does not know"
    if route.source_length:
        return "for some sources only"
    if route.expires:
        return "expires by itself, and would not be the same afterwards"
    if (route.mtu is not None or route.locks_mtu) and not has_ours:
        return "an MTU of its own"
    return None


_Key = tuple[int, int, int]
"""A network: IP version, address, prefix length. Many of them are made, and these are cheaper than networks."""


class _Prefixes:
    """The peers' prefixes beside the routes of a device."""

    def __init__(self, peers: Sequence[RoutePeer], routes: Sequence[Route], device_mtu: int) -> None:
        self._device_mtu = device_mtu
        self._owners = {_key(prefix): peer for peer in peers for prefix in peer.prefixes}
        self._sorted = sorted(self._owners)
        self._lengths = _lengths(self._owners)
        self._routes = routes
        # By table, where all packets' routes can be: one for a certain TOS leads only some of a prefix's packets.
        self._tables: dict[int, set[_Key]] = defaultdict(set)
        for route in routes:
            if not route.tos:
                self._tables[route.table_id].add(_key(route.destination))
        self._table_lengths = {table: _lengths(keys) for table, keys in self._tables.items()}

    def wanted(self, destination: Network) -> int | None:
        """The MTU for a route to there: that of the peer with the longest prefix around it."""
        around = next(self._around(_key(destination)), None)
        return None if around is None else self._value(self._owners[around], destination.version)

    def harm(self, route: Route, mtu: int) -> str | None:
        """Which other peer, reached by this very route, this MTU would make smaller than it has to be."""
        key = version, first, length = _key(route.destination)
        owner = self._owners[next(self._around(key))]
        last = int(route.destination.broadcast_address)
        lengths = self._table_lengths.get(route.table_id, ())
        for at in range(bisect_left(self._sorted, (version, first, length + 1)), len(self._sorted)):
            inner = self._sorted[at]
            if inner[:2] > (version, last):
                break
            other = self._owners[inner]
            allowed = self._value(other, version) or self._device_mtu
            if other is owner or allowed <= mtu:
                continue
            if not any(wider[2] > length and wider in self._tables[route.table_id] for wider in _wider(inner, lengths)):
                return f"it leads to {other.name} too, whose packets may be larger"
        return None

    def without_route(self) -> list[str]:
        """Prefixes whose peer has an MTU to write and no route to write it into."""
        served: set[_Key] = set()
        for route in self._routes:
            around = list(self._around(_key(route.destination)))
            served.update(each for each in around if self._owners[each] is self._owners[around[0]])
        return [
            f"{prefix} of {peer.name}"
            for peer in dict.fromkeys(self._owners.values())
            for prefix in peer.prefixes
            if self._value(peer, prefix.version) is not None and _key(prefix) not in served and not _is_local(prefix)
        ]

    def _around(self, key: _Key) -> Iterator[_Key]:
        """The prefixes that hold a network, the longest first."""
        return (wider for wider in _wider(key, self._lengths) if wider in self._owners)

    def _value(self, peer: RoutePeer, version: int) -> int | None:
        """What is to stand in the peer's routes; nothing where the device takes no more anyway."""
        if peer.mtu is None:
            return None
        mtu = max(peer.mtu, MIN_MTU6) if version == 6 else peer.mtu
        return mtu if mtu < self._device_mtu else None


def _key(network: Network) -> _Key:
    return network.version, int(network.network_address), network.prefixlen


def _lengths(keys: Iterable[_Key]) -> list[int]:
    return sorted({length for _, _, length in keys}, reverse=True)


def _wider(key: _Key, lengths: Iterable[int]) -> Iterator[_Key]:
    """The networks of these lengths that hold a network (itself among them)."""
    version, address, own = key
    bits = 32 if version == 4 else 128
    for length in lengths:
        if length <= own:
            yield version, address >> (bits - length) << (bits - length), length
