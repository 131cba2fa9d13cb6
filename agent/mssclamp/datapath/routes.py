"""Routes of this network namespace: the only place that lists and replaces them.

Plain netlink rather than a library: what is written back must be what was listed, byte for byte but for the MTU, and
a listing must not cost more than the kernel takes to make it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from mssclamp.errors import DatapathError
from mssclamp.wire import route as route_message
from mssclamp.wire.route import AF_INET, AF_INET6, DESTINATION_LENGTH_AT, Place, Route

_HEADER = struct.Struct("=IHHII")
# struct nlmsghdr: length with this header, type, flags, sequence number, port

_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26

_NLMSG_ERROR = 2
_NLMSG_DONE = 3

_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLM_F_DUMP_INTR = 0x10
_NLM_F_DUMP = 0x300
_NLM_F_REPLACE = 0x100

_SOL_NETLINK = 270
_NETLINK_GET_STRICT_CHK = 12

_PATIENCE = 5.0
"""Seconds that the kernel has for an answer."""

_TRIES = 5
"""Listings begun again because the table changed meanwhile."""


class RouteSocket:
    """A netlink socket for routes."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(_PATIENCE)
        # So that the kernel filters listings, instead of sending a full table of the Internet (Linux 4.20).
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def of_device(self, ifindex: int) -> list[bytes]:
        """The messages of all unicast routes out of a device, both families, every table."""
        return [
            message
            for family in (AF_INET, AF_INET6)
            for message in self._list(route_message.request(family, ifindex=ifindex))
        ]

    def at(self, places: set[Place]) -> list[Route]:
        """All routes that stand at these places, out of whatever device."""
        found: list[Route] = []
        for family, table in sorted({(family, table) for family, _, table, _, _ in places}):
            # A table may be long: only what can be meant is kept and taken apart.
            lengths = {place[1].prefixlen for place in places if (place[0], place[2]) == (family, table)}
            messages = self._list(route_message.request(family, table=table), lengths)
            found += [route for route in map(route_message.parse, messages) if route.place in places]
        return found

    def out_of(self, address: IPv4Address | IPv6Address, mark: int = 0) -> frozenset[int]:
        """ifindexes of the devices by which packets to an address may leave: empty where there is no route."""
        self._send(_RTM_GETROUTE, 0, route_message.lookup_request(address, mark))
        for kind, _, content in self._answers():
            if kind == _RTM_NEWROUTE:
                route = route_message.parse(content)
                return route.ifindexes if route.type == route_message.UNICAST else frozenset()
            break
        return frozenset()

    def replace(self, route: Route) -> None:
        """Puts the route in the place of the one that stands there, atomically; there must be one.

        Raises DatapathError if the kernel refuses.
        """
        self._send(_RTM_NEWROUTE, _NLM_F_ACK | _NLM_F_REPLACE, route_message.encode(route))
        for kind, _, content in self._answers():
            if kind == _NLMSG_ERROR:
                problem = -struct.unpack_from("=i", content)[0]
                if problem:
                    raise DatapathError(f"the kernel refuses to change the route: {os.strerror(problem)}")
                return

    def _list(self, request: bytes, lengths: Collection[int] = range(129)) -> list[bytes]:
        """What is asked for, as far as destinations have prefixes of these lengths."""
        for _ in range(_TRIES):
            self._send(_RTM_GETROUTE, _NLM_F_DUMP, request)
            found = self._listing(lengths)
            if found is not None:
                return found
        raise DatapathError(f"the routes changed {_TRIES} times while they were listed")

    def _listing(self, lengths: Collection[int]) -> list[bytes] | None:
        """One listing to its end; None if it is not of one piece."""
        found: list[bytes] = []
        whole = True
        for kind, flags, content in self._answers():
            whole = whole and not flags & _NLM_F_DUMP_INTR
            if kind == _RTM_NEWROUTE:
                if content[DESTINATION_LENGTH_AT] in lengths:
                    found.append(content)
            elif kind in (_NLMSG_DONE, _NLMSG_ERROR):
                problem = -struct.unpack_from("=i", content)[0] if len(content) >= 4 else 0
                if problem not in (0, errno.ENOENT, errno.ENODEV):  # no such table or device: no routes
                    raise DatapathError(f"the kernel does not list its routes: {os.strerror(problem)}")
                break
        return found if whole else None

    def _send(self, kind: int, flags: int, content: bytes) -> None:
        self._sequence += 1
        length = _HEADER.size + len(content)
        self._socket.send(_HEADER.pack(length, kind, _NLM_F_REQUEST | flags, self._sequence, 0) + content)

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        """Type, flags and content of each message that answers the last request."""
        while True:
            try:
                received = self._socket.recv(1 << 16)
            except TimeoutError:
                raise DatapathError("the kernel did not answer about its routes") from None
            at = 0
            while at < len(received):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(received, at)
                if sequence == self._sequence:
                    yield kind, flags, received[at + _HEADER.size : at + length]
                at += length + -length % 4
