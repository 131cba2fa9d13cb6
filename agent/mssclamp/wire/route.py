"""rtnetlink's route messages (rtnetlink(7), linux/rtnetlink.h): from bytes to `Route` and back.

PURE. Attributes and metrics stay bytes, in the kernel's order: what nobody looks at goes back as it came. All numbers
are in the machine's own byte order, addresses in network order.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Network = IPv4Network | IPv6Network

Place = tuple[int, Network, int, int, int]
"""What the kernel finds a route by that it is to replace: family, destination, table, TOS, priority."""

AF_INET = 2
AF_INET6 = 10

UNICAST = 1
"""rtm_type RTN_UNICAST: packets go out of a device. All others are the kernel's own business."""

_HEADER = struct.Struct("=BBBBBBBBI")
# struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags

_ATTRIBUTE = struct.Struct("=HH")
# struct rtattr: length with this header, type; then the value, padded to 4 bytes

_NEXT_HOP = struct.Struct("=HBBi")
# struct rtnexthop: length with its attributes, flags, weight - 1, ifindex

_TYPE_MASK = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""

DESTINATION_LENGTH_AT = 1
"""Where in a message the length of its destination's prefix stands (one byte, bits)."""


class Attribute(IntEnum):
    """RTA_*, as far as they have a meaning here."""

    DST = 1
    OIF = 4
    GATEWAY = 5
    PRIORITY = 6
    PREFSRC = 7
    METRICS = 8
    MULTIPATH = 9
    FLOW = 11
    CACHEINFO = 12
    TABLE = 15
    MARK = 16
    VIA = 18
    PREF = 20
    ENCAP_TYPE = 21
    ENCAP = 22
    NH_ID = 30


class Metric(IntEnum):
    """RTAX_*, as far as they have a meaning here; up to FASTOPEN_NO_COOKIE they are known."""

    LOCK = 1
    MTU = 2
    FASTOPEN_NO_COOKIE = 17


class Flag(IntEnum):
    """Bits of rtm_flags: what an operator may set, and what the kernel tells."""

    PERVASIVE = 0x2
    ONLINK = 0x4
    LINKDOWN = 0x10
    """The kernel tells it and does not want to hear it."""
    CLONED = 0x200
    """No route but the kernel's note about one destination."""
    FIB_MATCH = 0x2000
    """Asks a look-up for the route of the table, with every next hop, in place of what one packet would get."""


@dataclass(frozen=True)
class Route:
    """One route. `attributes` and `metrics` are (type, value); metrics and the kernel's statistics are not among the
    attributes.
    """

    family: int
    destination: Network
    source_length: int
    tos: int
    table: int
    """As in the header, one byte: `table_id` is the whole number."""
    protocol: int
    scope: int
    type: int
    flags: int
    attributes: tuple[tuple[int, bytes], ...]
    metrics: tuple[tuple[int, bytes], ...] = ()
    expires: bool = False
    """Whether the kernel takes it away by itself some day."""

    @property
    def ifindex(self) -> int | None:
        """The output device, if there is exactly one."""
        return self._number(Attribute.OIF)

    @property
    def ifindexes(self) -> frozenset[int]:
        """The output devices of all its next hops."""
        found = {self.ifindex} if self.ifindex is not None else set()
        hops = dict(self.attributes).get(Attribute.MULTIPATH, b"")
        at = 0
        while at + _NEXT_HOP.size <= len(hops):
            length, _, _, ifindex = _NEXT_HOP.unpack_from(hops, at)
            if length < _NEXT_HOP.size:
                break
            found.add(ifindex)
            at += length + -length % 4
        return frozenset(found)

    @property
    def table_id(self) -> int:
        """The routing table."""
        number = self._number(Attribute.TABLE)
        return self.table if number is None else number

    @property
    def priority(self) -> int:
        """What `ip route` calls metric: the smaller wins."""
        return self._number(Attribute.PRIORITY) or 0

    @property
    def mtu(self) -> int | None:
        """Its own MTU, bytes."""
        value = dict(self.metrics).get(Metric.MTU)
        return None if value is None else int.from_bytes(value, sys.byteorder)

    @property
    def locks_mtu(self) -> bool:
        """Whether path MTU discovery is off for it (`mtu lock`)."""
        return bool(int.from_bytes(dict(self.metrics).get(Metric.LOCK, b""), sys.byteorder) & 1 << Metric.MTU)

    @property
    def place(self) -> Place:
        """Where it stands among all routes."""
        return self.family, self.destination, self.table_id, self.tos, self.priority

    @cached_property
    def identity(self) -> bytes:
        """All that is said about it but the MTU: two listings of one route that differ in no more are equal here."""
        return encode(self.with_mtu(None))

    def with_mtu(self, mtu: int | None) -> Route:
        """The same route with this MTU (bytes), or with none."""
        metrics = [each for each in self.metrics if each[0] != Metric.MTU]
        if mtu is not None:
            metrics.append((Metric.MTU, mtu.to_bytes(4, sys.byteorder)))
        return replace(self, metrics=tuple(sorted(metrics)))

    def _number(self, wanted: Attribute) -> int | None:
        return next((int.from_bytes(value, sys.byteorder) for kind, value in self.attributes if kind == wanted), None)


def parse(message: bytes) -> Route:
    """The route of one RTM_NEWROUTE message, without its netlink header. Raises ValueError if it is none."""
    if len(message) < _HEADER.size:
        raise ValueError("too short for a route message")
    family, length, source_length, tos, table, protocol, scope, kind, flags = _HEADER.unpack_from(message)
    attributes = tuple(_attributes(message[_HEADER.size :]))
    values = dict(attributes)
    address = int.from_bytes(values.get(Attribute.DST, b""), "big")
    if family == AF_INET:
        destination: Network = IPv4Network((address, length))
    elif family == AF_INET6:
        destination = IPv6Network((address, length))
    else:
        raise ValueError(f"address family {family}")
    return Route(
        family=family,
        destination=destination,
        source_length=source_length,
        tos=tos,
        table=table,
        protocol=protocol,
        scope=scope,
        type=kind,
        flags=flags,
        attributes=tuple(each for each in attributes if each[0] not in (Attribute.METRICS, Attribute.CACHEINFO)),
        metrics=tuple(sorted(_attributes(values.get(Attribute.METRICS, b"")))),
        # struct rta_cacheinfo: the third number is the time left.
        expires=any(values.get(Attribute.CACHEINFO, b"")[8:12]),
    )


def encode(route: Route) -> bytes:
    """The message that makes the kernel have this route. What the kernel only tells is left out."""
    header = _HEADER.pack(
        route.family,
        route.destination.prefixlen,
        route.source_length,
        route.tos,
        route.table,
        route.protocol,
        route.scope,
        route.type,
        route.flags & (Flag.ONLINK | Flag.PERVASIVE),
    )
    metrics = _join(route.metrics)
    nested = ((int(Attribute.METRICS), metrics),) if metrics else ()
    return header + _join((*route.attributes, *nested))


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute with its header and padding."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def request(family: int, *, ifindex: int | None = None, table: int | None = None) -> bytes:
    """What asks for a listing: routes out of a device, in a table. The kernel filters (strict checking on)."""
    kind = UNICAST if ifindex is not None else 0
    asked = [(Attribute.OIF, ifindex), (Attribute.TABLE, table)]
    numbers = [(int(which), number.to_bytes(4, sys.byteorder)) for which, number in asked if number is not None]
    return _HEADER.pack(family, 0, 0, 0, 0, 0, 0, kind, 0) + _join(numbers)


def lookup_request(address: IPv4Address | IPv6Address, mark: int) -> bytes:
    """What asks for the route to an address that packets with this mark take."""
    family = AF_INET if address.version == 4 else AF_INET6
    asked = [(int(Attribute.DST), address.packed)]
    if mark:
        asked.append((int(Attribute.MARK), mark.to_bytes(4, sys.byteorder)))
    return _HEADER.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, Flag.FIB_MATCH) + _join(asked)


def _join(attributes: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(attribute(kind, value) for kind, value in attributes)


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(content):
        length, kind = _ATTRIBUTE.unpack_from(content, at)
        if length < _ATTRIBUTE.size or at + length > len(content):
            raise ValueError(f"an attribute of {length} bytes at {at} of {len(content)}")
        yield kind & _TYPE_MASK, content[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4
