"""The rewrite of the MSS option, as a model: what the programs in the kernel must do to a packet.

The tests run both on the same packets and compare bytes and reasons. So this is written to be read beside the
rules, one after the other, and not to be fast. The first rule that applies decides; a packet changes in the
last one alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from mssclamp.wire import MalformedError, checksum, ip, tcp
from mssclamp.wire.mtu import ETHERNET_HEADER, MIN_MSS, TCP_HEADER, mss_for_mtu


class Reason(IntEnum):
    """What became of a packet that was looked at; each is counted. Names are public, in lower case."""

    CLAMPED = 0
    WOULD_CLAMP = 1
    """The peer is only observed: the packet went on as it came."""
    FITS = 2
    NO_MSS = 3
    """A SYN without the option stands for 536 or 1220 bytes (RFC 9293, section 3.7.1): left so."""
    NO_PEER = 4
    CLAMP_OFF = 5
    SYN_RST = 6
    TCP_AO = 7
    """TCP-AO's digest covers the options (RFC 5925, section 5.1)."""
    BAD_IP = 8
    BAD_TCP = 9
    BAD_OPTIONS = 10
    LATER_FRAGMENT = 11
    """What looks like its TCP header is payload."""
    EXT_HEADERS = 12
    """More IPv6 extension headers than are followed."""
    FAILED = 13
    """The kernel refused a change, the packet went on unchanged. The model never says this."""


class Direction(Enum):
    """Which hook of the device the packet passes: the peer is whom it comes from, or whom it goes to."""

    INGRESS = "ingress"
    EGRESS = "egress"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is in force for one peer: the largest MSS by family (bytes), and what to do about larger ones."""

    mss4: int
    mss6: int
    clamp: bool = True
    enforce: bool = True

    def __post_init__(self) -> None:
        if min(self.mss4, self.mss6) < MIN_MSS:
            raise ValueError(f"an MSS limit below {MIN_MSS}: {self.mss4}, {self.mss6}")

    @classmethod
    def for_mtu(cls, mtu: int, *, clamp: bool = True, enforce: bool = True) -> Self:
        """The limits that a peer MTU stands for."""
        return cls(mss_for_mtu(mtu, 4), mss_for_mtu(mtu, 6), clamp, enforce)


Lookup = Callable[[bytes], Limits | None]
"""From an address (4 or 16 bytes) to the limits of the peer whose prefix is the longest to hold it."""


def clamp(
    packet: bytes, ethertype: int, link_header: bool, direction: Direction, lookup: Lookup
) -> tuple[bytes, Reason | None]:
    """The packet as it leaves, and what is counted: None for what is not a SYN over IP.

    `ethertype` is the kernel's word for the packet (skb->protocol); `link_header` says whether 14 bytes of
    Ethernet stand before the IP header. VLAN tags are in the kernel's metadata, not in the bytes.
    """
    start = ETHERNET_HEADER if link_header else 0
    datagram, reason = _clamp_datagram(packet[start:], ethertype, direction, lookup)
    return packet[:start] + datagram, reason


def _clamp_datagram(
    datagram: bytes, ethertype: int, direction: Direction, lookup: Lookup
) -> tuple[bytes, Reason | None]:
    # IP.
    try:
        if ethertype == ip.ETHERTYPE_IPV4:
            headers = ip.parse_ipv4(datagram)
        elif ethertype == ip.ETHERTYPE_IPV6:
            headers = ip.parse_ipv6(datagram)
        else:
            return datagram, None
    except MalformedError:
        return datagram, Reason.BAD_IP
    if headers.version == 4 and headers.protocol != ip.PROTOCOL_TCP:
        return datagram, None
    if headers.fragment_offset != 0:
        return datagram, Reason.LATER_FRAGMENT  # of IPv6 we cannot know whether it is TCP
    if headers.version == 6 and headers.protocol in ip.EXTENSION_HEADERS:
        return datagram, Reason.EXT_HEADERS
    if headers.protocol != ip.PROTOCOL_TCP:
        return datagram, None

    # A SYN?
    try:
        start = tcp.parse_start(datagram[headers.transport :])
    except MalformedError:
        return datagram, Reason.BAD_TCP
    if not start.flags & tcp.SYN:
        return datagram, None
    if start.flags & tcp.RST:
        return datagram, Reason.SYN_RST

    # Whose?
    limits = lookup(headers.destination if direction is Direction.EGRESS else headers.source)
    if limits is None:
        return datagram, Reason.NO_PEER
    if not limits.clamp:
        return datagram, Reason.CLAMP_OFF

    # Whole?
    if not headers.transport <= headers.end <= len(datagram):
        return datagram, Reason.BAD_IP
    if start.header_length < TCP_HEADER or headers.transport + start.header_length > headers.end:
        return datagram, Reason.BAD_TCP

    # The options.
    options_at = headers.transport + TCP_HEADER
    try:
        options = tcp.parse_options(datagram[options_at : headers.transport + start.header_length])
    except MalformedError:
        return datagram, Reason.BAD_OPTIONS
    if any(option.kind == tcp.AUTHENTICATION for option in options):
        return datagram, Reason.TCP_AO
    if not any(option.kind == tcp.MSS for option in options):
        return datagram, Reason.NO_MSS

    limit = limits.mss4 if headers.version == 4 else limits.mss6
    values_at = [
        options_at + option.offset + 2
        for option in options
        if option.kind == tcp.MSS and int.from_bytes(option.value, "big") > limit
    ]
    if not values_at:
        return datagram, Reason.FITS
    if not limits.enforce:
        return datagram, Reason.WOULD_CLAMP
    return _lowered(datagram, headers.transport, values_at, limit), Reason.CLAMPED


def _lowered(datagram: bytes, transport: int, values_at: list[int], limit: int) -> bytes:
    """The datagram with `limit` at all of these offsets, and the TCP checksum brought up to date."""
    lowered = bytearray(datagram)
    differences = []
    for at in values_at:
        old = int.from_bytes(datagram[at : at + 2], "big")
        # The sum runs from the start of the TCP header, so that is where parity counts from.
        differences.append(checksum.difference(old, limit, odd=(at - transport) % 2 == 1))
        lowered[at : at + 2] = limit.to_bytes(2, "big")
    checksum_at = transport + tcp.CHECKSUM_OFFSET
    old = int.from_bytes(datagram[checksum_at : checksum_at + 2], "big")
    lowered[checksum_at : checksum_at + 2] = checksum.updated(old, differences).to_bytes(2, "big")
    return bytes(lowered)
