"""The kernel's WireGuard driver over generic netlink (linux/wireguard.h, linux/genetlink.h): requests and answers.

PURE. Numbers are in the machine's own byte order, but for ports. An answer also holds the device's private key: it is
skipped like everything else that nobody here needs.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from mssclamp.wire import MalformedError
from mssclamp.wire.wireguard import KEY_LENGTH, Endpoint, Network, WireGuardPeer, endpoint, instant, network

_MESSAGE = struct.Struct("=IHHII")
# struct nlmsghdr: length with this header, type, flags, sequence number, port

_GENERIC = struct.Struct("=BBH")
# struct genlmsghdr: command, version, reserved; then attributes

_ATTRIBUTE = struct.Struct("=HH")
# struct nlattr: length with this header, type; then the value, padded to 4 bytes

_TYPE_MASK = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""

_CONTROLLER = 0x10
"""GENL_ID_CTRL, the family that knows the others' numbers."""

_GETFAMILY = 3
_FAMILY_ID, _FAMILY_NAME = 1, 2  # CTRL_ATTR_*
_FAMILY = b"wireguard\0"

_GET_DEVICE = 0
_VERSION = 1

_ERROR, _DONE = 2, 3
_REQUEST, _INTERRUPTED, _DUMP = 0x1, 0x10, 0x300

_AF_INET, _AF_INET6 = 2, 10

_SOCKADDR_IN = struct.Struct("=H2s4s8x")
# struct sockaddr_in: family, port (network order), address

_SOCKADDR_IN6 = struct.Struct("=H2s4x16sI")
# struct sockaddr_in6: family, port (network order), flow information, address, scope

_TIMESPEC = struct.Struct("=qq")
# struct __kernel_timespec: seconds, nanoseconds


class _Device(IntEnum):
    """WGDEVICE_A_*."""

    IFINDEX = 1
    LISTEN_PORT = 6
    FWMARK = 7
    PEERS = 8


class _Peer(IntEnum):
    """WGPEER_A_*."""

    PUBLIC_KEY = 1
    ENDPOINT = 4
    LAST_HANDSHAKE_TIME = 6
    RX_BYTES = 7
    TX_BYTES = 8
    ALLOWEDIPS = 9


class _AllowedIp(IntEnum):
    """WGALLOWEDIP_A_*."""

    FAMILY = 1
    IPADDR = 2
    CIDR_MASK = 3


@dataclass(frozen=True)
class Message:
    """One message of a datagram. `error` is errno's number in the messages that hold one, 0 for success."""

    kind: int
    flags: int
    sequence: int
    content: bytes

    @property
    def is_last(self) -> bool:
        """Whether nothing follows: the end of a dump, or an error in its place."""
        return self.kind in (_ERROR, _DONE)

    @property
    def is_interrupted(self) -> bool:
        """Whether the peers changed while they were listed, so that the listing may lack some."""
        return bool(self.flags & _INTERRUPTED)

    @property
    def error(self) -> int:
        """The kernel's errno; 0 for success."""
        return -struct.unpack_from("=i", self.content)[0] if self.is_last and len(self.content) >= 4 else 0


@dataclass
class _Listed:
    """A peer as far as it has been listed."""

    endpoint: Endpoint | None = None
    last_handshake: float | None = None
    received: int = 0
    sent: int = 0
    allowed: list[Network] = field(default_factory=list)


class PeerListing:
    """The peers of one dump: `take` its messages in order, then ask for `peers`."""

    def __init__(self) -> None:
        self._listed: dict[bytes, _Listed] = {}
        self._mark = self._port = 0

    def take(self, content: bytes) -> None:
        """One message's content. Raises MalformedError."""
        if len(content) < _GENERIC.size:
            raise MalformedError("no generic netlink header")
        for kind, value in _attributes(content[_GENERIC.size :]):
            if kind == _Device.FWMARK:
                self._mark = _number(value)
            elif kind == _Device.LISTEN_PORT:
                self._port = _number(value)
            elif kind == _Device.PEERS:
                for _, peer in _attributes(value):
                    self._take_peer(dict(_attributes(peer)))

    @property
    def peers(self) -> dict[bytes, WireGuardPeer]:
        """By public key."""
        return {
            key: WireGuardPeer(
                key, of.endpoint, tuple(of.allowed), of.last_handshake, of.received, of.sent, self._mark, self._port
            )
            for key, of in self._listed.items()
        }

    def _take_peer(self, values: dict[int, bytes]) -> None:
        key = values.get(_Peer.PUBLIC_KEY, b"")
        if len(key) != KEY_LENGTH:
            raise MalformedError(f"a public key of {len(key)} bytes")
        peer = self._listed.get(key)
        if peer is None:
            # Where its AllowedIPs do not fit one message, it comes again in the next with these and its key alone.
            peer = self._listed[key] = _Listed()
            if _Peer.ENDPOINT in values:
                peer.endpoint = _endpoint(values[_Peer.ENDPOINT])
            if _Peer.LAST_HANDSHAKE_TIME in values:
                peer.last_handshake = _instant(values[_Peer.LAST_HANDSHAKE_TIME])
            peer.received = _number(values.get(_Peer.RX_BYTES, b""))
            peer.sent = _number(values.get(_Peer.TX_BYTES, b""))
        for _, allowed in _attributes(values.get(_Peer.ALLOWEDIPS, b"")):
            peer.allowed.append(_allowed_ip(dict(_attributes(allowed))))


def family_request(sequence: int) -> bytes:
    """Asks for the number of WireGuard's family."""
    return _request(_CONTROLLER, 0, sequence, _GETFAMILY, _attribute(_FAMILY_NAME, _FAMILY))


def parse_family(content: bytes) -> int:
    """The number of WireGuard's family, from the controller's answer. Raises MalformedError."""
    for kind, value in _attributes(content[_GENERIC.size :]):
        if kind == _FAMILY_ID and len(value) == 2:
            return _number(value)
    raise MalformedError("no family number")


def peers_request(family: int, ifindex: int, sequence: int) -> bytes:
    """Asks for a device with all its peers."""
    device = _attribute(_Device.IFINDEX, struct.pack("=I", ifindex))
    return _request(family, _DUMP, sequence, _GET_DEVICE, device)


def messages(datagram: bytes) -> Iterator[Message]:
    """The messages of one datagram. Raises MalformedError for what is not whole."""
    at = 0
    while at < len(datagram):
        if len(datagram) - at < _MESSAGE.size:
            raise MalformedError("no netlink header")
        length, kind, flags, sequence, _ = _MESSAGE.unpack_from(datagram, at)
        if not _MESSAGE.size <= length <= len(datagram) - at:
            raise MalformedError(f"a message of {length} bytes in {len(datagram) - at}")
        yield Message(kind, flags, sequence, datagram[at + _MESSAGE.size : at + length])
        at += length + -length % 4


def _request(kind: int, flags: int, sequence: int, command: int, attributes: bytes) -> bytes:
    content = _GENERIC.pack(command, _VERSION, 0) + attributes
    return _MESSAGE.pack(_MESSAGE.size + len(content), kind, _REQUEST | flags, sequence, 0) + content


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if len(data) - at < _ATTRIBUTE.size:
            raise MalformedError("no attribute header")
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            raise MalformedError(f"an attribute of {length} bytes in {len(data) - at}")
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def _endpoint(value: bytes) -> Endpoint:
    family = _number(value[:2])
    if family == _AF_INET and len(value) == _SOCKADDR_IN.size:
        _, port, address = _SOCKADDR_IN.unpack(value)
        return endpoint(IPv4Address(address), int.from_bytes(port, "big"))
    if family == _AF_INET6 and len(value) == _SOCKADDR_IN6.size:
        _, port, address, scope = _SOCKADDR_IN6.unpack(value)
        zone = f"{IPv6Address(address)}%{scope}" if scope else address
        return endpoint(IPv6Address(zone), int.from_bytes(port, "big"))
    raise MalformedError(f"an endpoint of family {family} in {len(value)} bytes")


def _instant(value: bytes) -> float | None:
    if len(value) != _TIMESPEC.size:
        raise MalformedError(f"a time of {len(value)} bytes")
    return instant(*_TIMESPEC.unpack(value))


def _allowed_ip(values: dict[int, bytes]) -> Network:
    family = _number(values.get(_AllowedIp.FAMILY, b""))
    address = values.get(_AllowedIp.IPADDR, b"")
    length = _number(values.get(_AllowedIp.CIDR_MASK, b""))
    if len(address) != {_AF_INET: 4, _AF_INET6: 16}.get(family):
        raise MalformedError(f"an address of family {family} in {len(address)} bytes")
    try:
        return network(address, length)
    except ValueError:
        raise MalformedError(f"a prefix of {length} bits") from None
