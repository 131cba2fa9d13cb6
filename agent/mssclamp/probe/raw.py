"""What all probing sockets share: how they are opened, sent from, and what ICMP errors say about their packets.

Packets carry DF and leave at the size that was asked for, whatever the kernel believes of the path (IP_PMTUDISC_PROBE:
only the device's MTU limits them). One socket serves one device and IP version, and many targets at once: a *flow* is a
number that all packets to one target bear on one occasion, and by which their answers are found.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from mssclamp.errors import ClampdError, ForbiddenError, RequestError
from mssclamp.pmtu.constants import MAX_PACKET
from mssclamp.pmtu.table import Address
from mssclamp.wire.mtu import IpVersion

Target = tuple[str, int] | tuple[str, int, int, int]

# Linux's numbers where Python's socket module lacks them.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_IP_RECVERR, _IPV6_RECVERR, _IP_PKTINFO = 11, 25, 8
_SO_COOKIE = 57
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33

_ORIGIN_LOCAL, _ORIGINS_ICMP = 1, (2, 3)
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")
# struct sock_extended_err: errno | origin | type | code | pad | info | data; behind it the address that said so

_FRAGMENTATION_NEEDED = {(3, 4), (2, 0)}
_BUFFER = 1 << 20
_QUOTE = 512
"""Bytes of a quoted packet that are looked at."""

_TAKEN = 256
"""Packets taken at a time."""

_TRIES = 3


class TooLarge(Exception):
    """This machine sends nothing of that size: `limit` is the largest that it does, bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class NotSent(Exception):
    """The packet did not leave, for a reason that passes: a full queue, or a stranger's word."""


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


@dataclass(frozen=True)
class Reply:
    """What came about one probe: an answer, or an ICMP error (`hint`).

    `proof`: whoever sent this had the probe before him. An answer always is; an error where it quotes what nobody can
    know who has not seen the probe, and says that it was too big to go on.
    """

    flow: int
    number: int
    hint: Hint | None = None
    proof: bool = True


@dataclass(frozen=True)
class Complaint:
    """An ICMP error from the error queue. `quote`: the packet that it is about, from its transport header on."""

    hint: Hint
    destination: str
    quote: bytes

    @property
    def is_too_big(self) -> bool:
        """Whether it says "too big", and not in the name of the very host that the packet was for."""
        return self.hint.mtu is not None and self.hint.sender != self.destination


class RawSocket(ABC):
    """A raw socket for probes. ForbiddenError without CAP_NET_RAW, RequestError for a device that is not there.

    `priority` marks its packets for the programs in the kernel (needs CAP_NET_ADMIN).
    """

    def __init__(self, version: IpVersion, protocol: int, device: str | None, priority: int | None) -> None:
        self.version: IpVersion = version
        self._family = socket.AF_INET if version == 4 else socket.AF_INET6
        self._device = device
        self._complaints: list[Complaint] = []
        try:
            self._socket = socket.socket(self._family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        except PermissionError:
            raise ForbiddenError("probing needs root or CAP_NET_RAW", fix="use sudo") from None
        with contextlib.ExitStack() as undo:
            undo.callback(self._socket.close)
            self._set_up(priority)
            undo.pop_all()

    def _set_up(self, priority: int | None) -> None:
        # First of all: until then everybody's packets come in.
        self._filter(self._socket)
        if self.version == 4:
            self._socket.setsockopt(socket.SOL_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
            self._socket.setsockopt(socket.SOL_IP, _IP_RECVERR, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, _BUFFER)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, plain, _BUFFER)
        if priority is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, struct.pack("=I", priority))
        if self._device is not None:
            bind_to_device(self._socket, self._device)

    @abstractmethod
    def _filter(self, made: socket.socket) -> None:
        """Keeps in the kernel what is none of ours."""

    @abstractmethod
    def aim(self, address: Address) -> int:
        """A new flow to this address. ClampdError if this machine cannot reach it."""

    @abstractmethod
    def leave(self, flow: int) -> None:
        """Ends a flow: what still comes for it is nobody's."""

    @abstractmethod
    def send(self, flow: int, number: int, size: int) -> None:
        """Sends a probe of `size` bytes (IP packet). TooLarge, NotSent; ClampdError where another try is in vain."""

    @abstractmethod
    def _answered(self, received: bytes, sender: str) -> Reply | None:
        """Which probe this answers, if any."""

    @abstractmethod
    def _quoted(self, complaint: Complaint) -> Reply | None:
        """Which probe this is about, if any."""

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def cookie(self) -> int:
        """By which programs in the kernel know the socket (bpf_get_socket_cookie)."""
        return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), sys.byteorder)

    def close(self) -> None:
        """Closes it."""
        self._socket.close()

    @property
    def has_complaints(self) -> bool:
        """Whether ICMP errors were met while sending: `replies` has them, a selector no longer says so."""
        return bool(self._complaints)

    def replies(self) -> list[Reply]:
        """What has come about our probes; a bounded part of it, so call again while the socket is readable."""
        found: list[Reply | None] = []
        for _ in range(_TAKEN):
            try:
                received, sender = self._socket.recvfrom(MAX_PACKET + 1)
            except BlockingIOError:
                break
            except OSError:  # an ICMP error, told in full by the error queue
                self._collect()
                continue
            found.append(self._answered(received, sender[0]))
        self._collect()
        found += map(self._quoted, self._complaints)
        self._complaints.clear()
        return [each for each in found if each is not None]

    def _is_from(self, sender: str, packed: bytes) -> bool:
        return socket.inet_pton(self._family, sender.partition("%")[0]) == packed

    def _transmit(self, message: bytes, target: Target, source: bytes | None = None) -> None:
        """Sends one packet; `source` (4 or 16 bytes) where the message depends on it."""
        error = OSError()
        for _ in range(_TRIES):  # an ICMP error that came before makes the next call fail, once
            try:
                self._socket.sendmsg([message], _packet_info(source), 0, target)
            except OSError as failure:
                error = failure
            else:
                return
            before = len(self._complaints)
            limit = self._collect()
            if error.errno == errno.EMSGSIZE and limit is not None:
                raise TooLarge(limit)
            if len(self._complaints) == before:  # so it was no stranger's word
                break
        else:
            raise NotSent
        judge(error, target[0], self._device)
        raise NotSent

    def _collect(self) -> int | None:
        """Empties the error queue. Returns the kernel's own limit, if it told one."""
        limit = None
        while True:
            try:
                quote, control, _, name = self._socket.recvmsg(_QUOTE, 512, socket.MSG_ERRQUEUE)
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
                    self._complaints.append(Complaint(hint, name[0] if name else "", quote))
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # or the next call fails for it
        return limit


def bind_to_device(made: socket.socket, device: str) -> None:
    """SO_BINDTODEVICE; RequestError if there is no such device."""
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
    except OSError as error:
        raise RequestError(f"{device}: {error.strerror}", fix="`ip link` lists the devices") from None


def target_of(address: Address) -> Target:
    """The socket address, with the number of the device that a link-local address names."""
    try:
        found = socket.getaddrinfo(str(address), None, type=socket.SOCK_RAW, flags=socket.AI_NUMERICHOST)
    except OSError:
        raise RequestError(f"{address}: no such device", fix="`ip link` lists the devices") from None
    target = found[0][4]
    return (str(target[0]), 0) if len(target) == 2 else (str(target[0]), 0, 0, int(target[3]))


def judge(error: OSError, address: str, device: str | None = None) -> None:
    """Raises what no other try can mend; a full queue passes."""
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        by = f" by {device}" if device else ""
        raise ClampdError(f"this machine has no route to {address}{by}", fix="see `ip route get`")
    if error.errno == errno.EADDRNOTAVAIL:
        raise ClampdError(f"this machine has no address from which to reach {address}", fix="see `ip address`")
    if error.errno in (errno.EPERM, errno.EACCES):
        what = "a firewall rule" if error.errno == errno.EPERM else "it is a broadcast or prohibited address"
        raise ClampdError(f"this machine may not send to {address}: {what}")
    if error.errno == errno.EINVAL:
        raise RequestError(f"{address} is nothing to send to", fix="name the device too, as in fe80::1%eth0")
    if error.errno in (errno.ENODEV, errno.ENXIO, errno.ENETDOWN):
        raise ClampdError(f"cannot send to {address}: {device or 'the device'} is down or gone")


def _packet_info(source: bytes | None) -> list[tuple[int, int, bytes]]:
    if source is None:
        return []
    if len(source) == 4:  # struct in_pktinfo: index | address to send from | not used
        return [(socket.SOL_IP, _IP_PKTINFO, bytes(4) + source + bytes(4))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source + bytes(4))]  # struct in6_pktinfo: address | index


def _offender(address: bytes) -> str:
    """Who sent the error: struct sockaddr_in or sockaddr_in6."""
    family = int.from_bytes(address[:2], sys.byteorder) if len(address) >= 2 else 0
    if family == socket.AF_INET:
        return str(IPv4Address(address[4:8]))
    if family == socket.AF_INET6:
        return str(IPv6Address(address[8:24]))
    return "somebody"
