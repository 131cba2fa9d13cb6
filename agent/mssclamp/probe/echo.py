"""Probes by ICMP and ICMPv6 echo: to any address, changing nothing.

The packets carry DF and leave at the size that was asked for, whatever the kernel believes of the path
(IP_PMTUDISC_PROBE: only the device's MTU limits them). An answer counts only if identifier, sequence number, every
byte of the random payload and its sender are right. ICMP errors are shown, never believed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Final, Self

from mssclamp.errors import ClampdError, ForbiddenError, RequestError
from mssclamp.pmtu.constants import BASE_MTU4, BASE_MTU6, MAX_PACKET
from mssclamp.pmtu.search import Probe, Round, Search
from mssclamp.wire import MalformedError, icmp
from mssclamp.wire.mtu import IpVersion

Address = IPv4Address | IPv6Address

# Linux's numbers where Python's socket module lacks them.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_ICMP_FILTER, _ICMPV6_FILTER, _SOL_RAW = 1, 1, 255

_ORIGIN_LOCAL, _ORIGINS_ICMP = 1, (2, 3)
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")
# struct sock_extended_err: errno | origin | type | code | pad | info | data; behind it the address that said so

_FRAGMENTATION_NEEDED = {(3, 4), (2, 0)}
_RECEIVE_BUFFER = 1 << 20

_WAKING_SIZE, _WAKING_SEQUENCE, _WAKING_SECONDS = 100, 0xFFFF, 1.5


@dataclass(frozen=True)
class Hint:
    """What somebody on the way said about a probe by ICMP. `mtu`: the size that it names, if it is a "too big"."""

    sender: str
    error: str
    mtu: int | None

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.sender} says: too big, MTU {self.mtu}" if self.mtu else f"{self.sender} says: {self.error}"


class EchoProber:
    """A raw socket to one address. Raises ForbiddenError without CAP_NET_RAW."""

    def __init__(self, address: Address, device: str | None = None) -> None:
        if address.is_multicast or address.is_unspecified:
            raise RequestError(f"{address} is no single host's address", fix="name one host's")
        self.address = address
        self.version: IpVersion = 4 if address.version == 4 else 6
        self.hints: list[Hint] = []
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._outstanding: dict[int, bytes] = {}
        self._target = _target(address)
        self._socket = self._open(device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def measure(self, on_round: Callable[[Round], None] = lambda _: None) -> Search:
        """Searches to the end; `on_round` hears of every round when it is over. Raises ClampdError."""
        ceiling = self._device_mtu() + 1
        self._wake()
        search = Search(min(BASE_MTU4 if self.version == 4 else BASE_MTU6, ceiling - 1), ceiling)
        search.start(time.monotonic())
        told = 0
        while not search.done:
            self._send(search)
            deadline = search.next_deadline()
            if deadline is None:
                break
            self._receive(search, deadline)
            search.on_timeout(time.monotonic())
            for ended in search.rounds[told:-1]:
                on_round(ended)
                told = ended.number
        self._collect_errors()
        for ended in search.rounds[told:]:
            on_round(ended)
        return search

    # sending

    def _send(self, search: Search) -> None:
        for probe in search.probes_to_send(time.monotonic()):
            limit = self._send_one(probe)
            if limit is not None:
                search.on_refused(limit + 1, time.monotonic())
            elif probe.number not in self._outstanding:
                search.on_not_sent(probe.number)

    def _send_one(self, probe: Probe) -> int | None:
        """Sends it, or returns the device's MTU where that is smaller; the probe is outstanding only if it left."""
        payload = os.urandom(icmp.payload_size(probe.size, self.version))
        echo = icmp.Echo(self._identifier, probe.number & 0xFFFF, payload)
        message = icmp.build_request(echo, self.version)
        for _ in range(3):  # an ICMP error that came before makes the next call fail, once
            try:
                self._socket.sendto(message, self._target)
            except OSError as error:
                limit = self._collect_errors()
                if error.errno == errno.EMSGSIZE and limit is not None:
                    return limit
                self._judge(error)
                continue
            self._outstanding[probe.number] = payload
            break
        return None

    def _judge(self, error: OSError) -> None:
        """Raises what no other try can mend; what may be a stranger's word or a full queue passes."""
        if error.errno == errno.ENETUNREACH or (error.errno == errno.EHOSTUNREACH and not self.hints):
            raise ClampdError(f"this machine has no route to {self.address}", fix="see `ip route get`")
        if error.errno == errno.EADDRNOTAVAIL:
            raise ClampdError(f"this machine has no address from which to reach {self.address}", fix="see `ip address`")
        if error.errno in (errno.EPERM, errno.EACCES):
            what = "a firewall rule" if error.errno == errno.EPERM else "it is a broadcast or prohibited address"
            raise ClampdError(f"this machine may not send to {self.address}: {what}")
        if error.errno == errno.EINVAL:
            raise RequestError(f"{self.address} is nothing to send to", fix="name the device too, as in fe80::1%eth0")

    def _device_mtu(self) -> int:
        """The MTU of the device that leads there: the kernel refuses a packet over it, and says the limit.

        A device that takes the largest packet of all gets it; its answer is none of ours.
        """
        payload = os.urandom(icmp.payload_size(MAX_PACKET, self.version))
        message = icmp.build_request(icmp.Echo(self._identifier ^ 0xFFFF, 0, payload), self.version)
        try:
            self._socket.sendto(message, self._target)
        except OSError as error:
            limit = self._collect_errors()
            if limit is not None:
                return limit
            self._judge(error)
            raise ClampdError(f"cannot send to {self.address}: {error.strerror}") from None
        return MAX_PACKET

    def _wake(self) -> None:
        """One small echo first: neighbours get resolved and tunnels shake hands before round trips are measured."""
        payload = os.urandom(icmp.payload_size(_WAKING_SIZE, self.version))
        echo = icmp.Echo(self._identifier, _WAKING_SEQUENCE, payload)
        try:
            self._socket.sendto(icmp.build_request(echo, self.version), self._target)
        except OSError as error:
            self._collect_errors()
            self._judge(error)
            return
        until = time.monotonic() + _WAKING_SECONDS
        while (left := until - time.monotonic()) > 0:
            select.select([self._socket], [], [], left)
            while (reply := self._next_reply()) is not None:
                if self._ours(reply) == echo:
                    return

    # receiving

    def _receive(self, search: Search, deadline: float) -> None:
        """Takes what comes until the deadline, or until one answer has changed what there is to do."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        # Rounded up: the search's timers must be due when we come back.
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1)
        for _, events in ready:
            if events & select.POLLERR:
                self._collect_errors()
            while (reply := self._next_reply()) is not None:
                self._take(reply, search)

    def _next_reply(self) -> tuple[bytes, str] | None:
        try:
            received, sender = self._socket.recvfrom(MAX_PACKET + 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:  # an ICMP error, told in full by the error queue
            self._collect_errors()
            return b"", ""
        return received, sender[0]

    def _take(self, reply: tuple[bytes, str], search: Search) -> None:
        now = time.monotonic()
        echo = self._ours(reply)
        if echo is not None and self._outstanding.get(echo.sequence) == echo.payload:
            search.on_answer(echo.sequence, now)

    def _ours(self, reply: tuple[bytes, str]) -> icmp.Echo | None:
        """An echo reply from the right address and with our identifier; its payload is not compared yet."""
        received, sender = reply
        try:
            echo = icmp.parse_reply(received, self.version)
        except MalformedError:
            return None
        return echo if echo.identifier == self._identifier and sender == self._target[0] else None

    def _collect_errors(self) -> int | None:
        """Empties the error queue: what strangers say becomes hints. Returns the kernel's own limit, if it told one."""
        limit = None
        while True:
            try:
                _, control, _, _ = self._socket.recvmsg(1, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except OSError:
                break
            for level, kind, value in control:
                if (level, kind) not in {(socket.SOL_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)}:
                    continue
                number, origin, icmp_type, code, _, info, _ = _EXTENDED_ERROR.unpack_from(value)
                if origin == _ORIGIN_LOCAL and number == errno.EMSGSIZE:
                    limit = info
                elif origin in _ORIGINS_ICMP:
                    mtu = info if (icmp_type, code) in _FRAGMENTATION_NEEDED else None
                    hint = Hint(_offender(value[_EXTENDED_ERROR.size :]), os.strerror(number).lower(), mtu)
                    if hint not in self.hints:
                        self.hints.append(hint)
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # or the next call fails for it
        return limit

    def _open(self, device: str | None) -> socket.socket:
        v4 = self.version == 4
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP) if v4 else (socket.AF_INET6, socket.getprotobyname("ipv6-icmp"))
        )
        try:
            made = socket.socket(family, socket.SOCK_RAW, protocol)
        except PermissionError:
            raise ForbiddenError("probing needs root or CAP_NET_RAW", fix="use sudo") from None
        with contextlib.ExitStack() as undo:
            undo.callback(made.close)
            only = ~(1 << icmp.ECHO_REPLY[4]) & 0xFFFFFFFF
            if v4:
                made.setsockopt(socket.SOL_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
                made.setsockopt(socket.SOL_IP, _IP_RECVERR, 1)
                made.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", only))
            else:
                word, bit = divmod(icmp.ECHO_REPLY[6], 32)
                blocked = [~(1 << bit) & 0xFFFFFFFF if i == word else 0xFFFFFFFF for i in range(8)]
                made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
                made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
                made.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("=8I", *blocked))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if device is not None:
                try:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
                except OSError as error:
                    raise RequestError(f"{device}: {error.strerror}", fix="`ip link` lists the devices") from None
            undo.pop_all()
        return made


def _target(address: Address) -> tuple[str, int] | tuple[str, int, int, int]:
    """The socket address, with the number of the device that a link-local address names."""
    try:
        found = socket.getaddrinfo(str(address), None, type=socket.SOCK_RAW, flags=socket.AI_NUMERICHOST)
    except OSError:
        raise RequestError(f"{address}: no such device", fix="`ip link` lists the devices") from None
    target = found[0][4]
    return (str(target[0]), 0) if len(target) == 2 else (str(target[0]), 0, 0, int(target[3]))


def _offender(address: bytes) -> str:
    """Who sent the error: struct sockaddr_in or sockaddr_in6."""
    family = int.from_bytes(address[:2], sys.byteorder) if len(address) >= 2 else 0
    if family == socket.AF_INET:
        return str(IPv4Address(address[4:8]))
    if family == socket.AF_INET6:
        return str(IPv6Address(address[8:24]))
    return "somebody"
