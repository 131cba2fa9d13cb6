"""What the programs are tested with: peers, and builders of packets to and from them.

The builders compute checksums in their own way (integers modulo 65535), not in mssclamp.wire's.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import NamedTuple

from mssclamp.wire.clamp import Direction, Limits

TEST_RUN_IFINDEX = 1
"""BPF_PROG_TEST_RUN gives its packets the loopback device."""

ETHERNET = 14
"""Bytes of the link header."""

IPV4, IPV6 = 0x0800, 0x86DD
ARP, VLAN = 0x0806, 0x8100

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
DONT_FRAGMENT, MORE_FRAGMENTS = 0x4000, 0x2000

HOP_BY_HOP, TCP, UDP, ROUTING, FRAGMENT, ESP, AH, NOTHING, DESTINATION = 0, 6, 17, 43, 44, 50, 51, 59, 60

# TCP options.
END = b"\0"
NOP = b"\1"
WINDOW_SCALE = b"\3\3\7"
SACK_OK = b"\4\2"
TIMESTAMPS = b"\x08\x0a" + bytes(range(8))
MD5 = b"\x13\x12" + bytes(range(100, 116))
AO = b"\x1d\x10" + bytes(range(200, 214))
FAST_OPEN = b"\x22\x0a" + bytes(range(50, 58))


def mss(value: int) -> bytes:
    """The MSS option."""
    return b"\2\4" + value.to_bytes(2, "big")


# Peers. All addresses are such that bytes 12 and 13 of a bare IP packet spell its ethertype: BPF_PROG_TEST_RUN takes
# skb->protocol from there, whether the program is for a device with a link header or not. These bytes belong to
# the source: 8.0.0.0/16 and 2001:db8:86dd::/48.


@dataclass(frozen=True)
class Peer:
    """One peer of the tests. Its place in PEERS is its index in the kernel's maps."""

    name: str
    prefixes: tuple[str, ...]
    limits: Limits


PEERS = (
    Peer("enforced", ("8.0.1.0/24", "2001:db8:86dd:1::/64"), Limits.for_mtu(1340)),
    # 576 - 60 is less than the least MSS that is ever written
    Peer("narrow", ("8.0.1.128/25", "2001:db8:86dd:1:8000::/65"), Limits.for_mtu(576)),
    Peer("host", ("8.0.1.200/32", "2001:db8:86dd:1:8000::c8/128"), Limits.for_mtu(1423)),
    Peer("observed", ("8.0.2.0/24", "2001:db8:86dd:2::/64"), Limits.for_mtu(1340, enforce=False)),
    Peer("exempt", ("8.0.3.0/24", "2001:db8:86dd:3::/64"), Limits.for_mtu(1340, clamp=False)),
    Peer("jumbo", ("8.0.4.0/23", "2001:db8:86dd:4::/63"), Limits.for_mtu(9000)),
    Peer("carrying", ("8.0.6.0/24", "2001:db8:86dd:6::/64"), Limits.for_mtu(1319)),  # MSS 0x04ff and 0x04eb
)

STRANGERS = ("8.0.9.0/24", "2001:db8:86dd:9::/64")
"""Prefixes of a peer on another device alone."""

NEAR = {4: IPv4Address("8.0.250.7").packed, 6: IPv6Address("2001:db8:86dd:fa::7").packed}
"""This side of the device: belongs to no peer."""

ADDRESSES = {
    (peer, version): address.packed
    for peer, *addresses in (
        ("enforced", IPv4Address("8.0.1.7"), IPv6Address("2001:db8:86dd:1::7")),
        ("narrow", IPv4Address("8.0.1.128"), IPv6Address("2001:db8:86dd:1:8000::80")),
        ("host", IPv4Address("8.0.1.200"), IPv6Address("2001:db8:86dd:1:8000::c8")),
        ("observed", IPv4Address("8.0.2.255"), IPv6Address("2001:db8:86dd:2:ffff::ff")),
        ("exempt", IPv4Address("8.0.3.0"), IPv6Address("2001:db8:86dd:3::")),
        ("jumbo", IPv4Address("8.0.5.1"), IPv6Address("2001:db8:86dd:5::1")),
        ("carrying", IPv4Address("8.0.6.1"), IPv6Address("2001:db8:86dd:6::1")),
        ("stranger", IPv4Address("8.0.9.9"), IPv6Address("2001:db8:86dd:9::9")),
    )
    for version, address in zip((4, 6), addresses, strict=True)
}


@functools.cache
def peer_of(address: bytes) -> int | None:
    """The index of the peer whose prefix is the longest that holds the address: every prefix is tried."""
    number, width = int.from_bytes(address, "big"), len(address) * 8
    holders = [
        (network.prefixlen, index)
        for index, peer in enumerate(PEERS)
        for network in map(ip_network, peer.prefixes)
        if network.max_prefixlen == width
        and number >> (width - network.prefixlen) == int(network.network_address) >> (width - network.prefixlen)
    ]
    return max(holders)[1] if holders else None


def limits_of(address: bytes) -> Limits | None:
    """The limits of that peer: the model's view of the kernel's maps."""
    index = peer_of(address)
    return None if index is None else PEERS[index].limits


class Packet(NamedTuple):
    """One packet on one hook. `protocol` is skb->protocol where a real device states it."""

    data: bytes
    link_header: bool
    direction: Direction
    protocol: int | None = None

    @property
    def ethertype(self) -> int:
        """skb->protocol. BPF_PROG_TEST_RUN reads it from bytes 12 and 13, whatever the program."""
        return int.from_bytes(self.data[12:14], "big") if self.protocol is None else self.protocol

    @property
    def datagram(self) -> bytes:
        """The packet without its link header."""
        return self.data[ETHERNET:] if self.link_header else self.data


HOOKS = tuple((link_header, direction) for link_header in (True, False) for direction in Direction)


def smallest_test_run(data: bytes) -> int:
    """The least size of a packet that BPF_PROG_TEST_RUN takes, in bytes, by its ethertype.

    Behind the 14 bytes that it holds to be Ethernet, Linux (seen in 6.18) wants the fixed IP header, or refuses
    with EINVAL.
    """
    return {IPV4: ETHERNET + 20, IPV6: ETHERNET + 40}.get(int.from_bytes(data[12:14], "big"), ETHERNET)


# Builders.


def checksum(number: int) -> int:
    """The Internet checksum of data that is read as one big number of an even count of bytes.

    2**16 is 1 modulo 65535, so the number and the sum of its 16-bit digits leave the same remainder.
    """
    return -number % 0xFFFF


def tcp_segment(
    source: bytes,
    destination: bytes,
    options: bytes = b"",
    *,
    flags: int = SYN,
    payload: bytes = b"",
    words: int | None = None,
    checksum_error: int = 0,
) -> bytes:
    """A TCP segment. `options` must fill whole words unless `words`, the data offset, is given."""
    if words is None:
        assert len(options) % 4 == 0, options
        words = 5 + len(options) // 4
    body = options + payload
    header = struct.pack("!HHIIBBHHH", 40000, 443, 0x01020304, 0, words << 4, flags, 64240, 0, 0)
    number = int.from_bytes(header + body, "big")
    if len(body) % 2:
        number <<= 8
    number += int.from_bytes(source, "big") + int.from_bytes(destination, "big") + TCP + len(header) + len(body)
    found = (checksum(number) + checksum_error) % 0xFFFF
    return header[:16] + found.to_bytes(2, "big") + header[18:] + body


def ipv4(
    source: bytes,
    destination: bytes,
    payload: bytes,
    *,
    options: bytes = b"",
    protocol: int = TCP,
    fragment: int = DONT_FRAGMENT,
    version: int = 4,
    words: int | None = None,
    total: int | None = None,
) -> bytes:
    """An IPv4 packet. `fragment` is the word with flags and offset, `words` and `total` the two length fields."""
    if words is None:
        words = 5 + len(options) // 4
    if total is None:
        total = 20 + len(options) + len(payload)
    start = struct.pack("!BBHHHBB", version << 4 | words, 0, total, 0x5AA5, fragment, 64, protocol)
    rest = source + destination + options
    found = checksum(int.from_bytes(start + b"\0\0" + rest, "big"))
    return start + found.to_bytes(2, "big") + rest + payload


class Extension(NamedTuple):
    """An IPv6 extension header: its kind, and all of it but its first byte."""

    kind: int
    body: bytes


def extension(kind: int, size: int = 8, *, units: int | None = None) -> Extension:
    """An extension header of `size` bytes, filled with padding; `units` is its length field if that is to lie."""
    if units is None:
        units = size // 8 - 1
    if kind == ROUTING:
        content = bytes(size - 2)  # type 0, no segments left
    else:
        content = b""
        while len(content) < size - 2:
            padding = min(size - 2 - len(content) - 2, 255)
            content += bytes((1, padding)) + bytes(padding)
    return Extension(kind, bytes((units,)) + content)


def fragment_header(offset: int = 0, *, more: bool = False) -> Extension:
    """A fragment header; `offset` is in units of 8 bytes."""
    return Extension(FRAGMENT, struct.pack("!BHI", 0, offset << 3 | more, 0x5AA5A55A))


def ipv6(
    source: bytes,
    destination: bytes,
    payload: bytes,
    *,
    extensions: tuple[Extension, ...] = (),
    protocol: int = TCP,
    version: int = 6,
    length: int | None = None,
) -> bytes:
    """An IPv6 packet; `protocol` is what follows the extension headers, `length` the payload length field."""
    for kind, body in reversed(extensions):
        payload = bytes((protocol,)) + body + payload
        protocol = kind
    if length is None:
        length = len(payload)
    return struct.pack("!IHBB", version << 28 | 0x12345, length, protocol, 64) + source + destination + payload


def ethernet(datagram: bytes, ethertype: int) -> bytes:
    """A frame."""
    return b"\x02\0\0\0\0\1\x02\0\0\0\0\2" + ethertype.to_bytes(2, "big") + datagram
