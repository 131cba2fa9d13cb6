"""Answers to packets over their peer's MTU, as a model: what the programs in the kernel must make of a packet.

The tests run both on the same packets and compare bytes, verdicts and counts. So this is written to be read beside
the rules, one after the other, and not to be fast. `judge` is what the program on a device's egress decides, `order`
the frame that it sends to the private pair, `answer` what the program at the pair's other end makes of that frame.
Rate limits are no part of this: they need a clock.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mssclamp.wire import MalformedError, checksum, ip
from mssclamp.wire.mtu import ETHERNET_HEADER, IPV4_HEADER, IPV6_HEADER, IPV6_MIN_MTU, UDP_HEADER, IpVersion

# Specification constants.

PROTOCOL_ICMP: Final = 1
PROTOCOL_UDP: Final = 17
PROTOCOL_ICMPV6: Final = 58

DONT_FRAGMENT: Final = 0x4000

FRAGMENTATION_NEEDED: Final = (3, 4)
"""ICMP's type and code (RFC 792; the MTU in its last 16 bits: RFC 1191, section 4)."""

PACKET_TOO_BIG: Final = (2, 0)
"""ICMPv6's (RFC 4443, section 3.2)."""

ICMP_ERRORS: Final = frozenset({3, 4, 5, 11, 12})
"""Unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122, section 3.2.2)."""

ICMPV6_REDIRECT: Final = 137
"""RFC 4443, section 2.4 e.2; the errors (e.1) are the types below 128."""

JUMBO_HEADER: Final = 8
"""A hop-by-hop header with the jumbo payload option alone (RFC 2675, section 2)."""

# Implementation constants.

QUOTE: Final = 256
"""Bytes of the packet in the answer; it is cut down before anybody else sees it."""

QUOTED_TRANSPORT: Final = 8
"""Ports and TCP's sequence number: with less of the transport header in the quote the answer is ignored."""

HOP_LIMIT: Final = 64
INTERNETWORK_CONTROL: Final = 0xC0
"""The answer's type of service in IPv4, as the kernel's own errors have it (RFC 1812, section 4.3.2.5)."""

MAGIC: Final = 0xC1A3
"""In every order, so that nothing else on the pair is taken for one."""

ORDER: Final = struct.Struct("=IHHHH2s")
# ifindex (4) | MTU (2) | size (2) | link header (2) | magic (2)          in the place of the Ethernet addresses
# ethertype (2, network order)


class Outcome(Enum):
    """What becomes of a packet on egress; all but ANSWERED goes on as it came."""

    UNREADABLE = "unreadable"
    """No IP, or no whole IP header, or a super-packet of a kind whose segments we cannot size."""
    NO_PEER = "no peer"
    FITS = "fits"
    DF_CLEAR = "df clear"
    """Oversize IPv4 that may be fragmented."""
    NO_EVIDENCE = "no evidence"
    """Oversize, but nothing proves the peer's MTU."""
    FORBIDDEN = "forbidden"
    """Oversize, and the standards forbid an answer, or its sender could make nothing of it."""
    WOULD_ANSWER = "would answer"
    """The peer is only observed."""
    ANSWERED = "answered"


OVERSIZE: Final = frozenset(Outcome) - {Outcome.UNREADABLE, Outcome.NO_PEER, Outcome.FITS}
"""Those that count as oversize."""


@dataclass(frozen=True, slots=True)
class Towards:
    """What is in force for one peer: its MTU (bytes), whether there is evidence for it, and what to do."""

    mtu: int
    answer: bool = True
    enforce: bool = True


Lookup = Callable[[bytes], Towards | None]
"""From a destination (4 or 16 bytes) to the peer whose prefix is the longest to hold it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """An outcome and, of oversize packets, the bytes on the wire, the MTU to tell, and the family."""

    outcome: Outcome
    size: int = 0
    mtu: int = 0
    family: IpVersion = 4


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A packet as far as its size matters. Without `transport` its headers cannot be followed to their end."""

    family: IpVersion
    source: bytes
    destination: bytes
    df: bool
    later_fragment: bool
    protocol: int
    transport: int | None


def judge(
    packet: bytes,
    ethertype: int,
    link_header: bool,
    lookup: Lookup,
    *,
    gso_size: int = 0,
    group_frame: bool = False,
) -> Judgement:
    """What becomes of a packet that leaves through a device.

    `ethertype`, `gso_size` (bytes, 0 for a packet that goes out as it is) and `group_frame` (sent to a link-layer
    broadcast or multicast address) are the kernel's words for the packet, `link_header` says whether 14 bytes of
    Ethernet stand before the IP header.
    """
    datagram = packet[ETHERNET_HEADER:] if link_header else packet
    outgoing = _parse(datagram, ethertype)
    if outgoing is None:
        return Judgement(Outcome.UNREADABLE)
    peer = lookup(outgoing.destination)
    if peer is None:
        return Judgement(Outcome.NO_PEER)
    size = _size_on_wire(datagram, outgoing, gso_size)
    if size is None:
        return Judgement(Outcome.UNREADABLE)
    # Smaller values would be ignored (RFC 8201, section 4): the tunnel below must fragment.
    mtu = max(peer.mtu, IPV6_MIN_MTU) if outgoing.family == 6 else peer.mtu
    if size <= mtu:
        return Judgement(Outcome.FITS)
    if outgoing.family == 4 and not outgoing.df:
        outcome = Outcome.DF_CLEAR
    elif not peer.answer:
        outcome = Outcome.NO_EVIDENCE
    elif group_frame or _is_forbidden(datagram, outgoing) or not _is_quotable(outgoing):
        outcome = Outcome.FORBIDDEN
    elif not peer.enforce:
        outcome = Outcome.WOULD_ANSWER
    else:
        outcome = Outcome.ANSWERED
    return Judgement(outcome, size, mtu, outgoing.family)


def _parse(datagram: bytes, ethertype: int) -> _Outgoing | None:
    if ethertype == ip.ETHERTYPE_IPV4:
        try:
            headers = ip.parse_ipv4(datagram)
        except MalformedError:
            return None
        return _Outgoing(
            family=4,
            source=headers.source,
            destination=headers.destination,
            df=bool(int.from_bytes(datagram[6:8], "big") & DONT_FRAGMENT),
            later_fragment=headers.fragment_offset != 0,
            protocol=headers.protocol,
            transport=headers.transport,
        )
    if ethertype != ip.ETHERTYPE_IPV6 or len(datagram) < IPV6_HEADER or datagram[0] >> 4 != 6:
        return None
    protocol, transport, later = datagram[6], None, False
    try:
        headers = ip.parse_ipv6(datagram)
    except MalformedError:
        pass  # a chain that is cut off
    else:
        later = headers.fragment_offset != 0
        if not later and headers.protocol not in ip.EXTENSION_HEADERS:
            protocol, transport = headers.protocol, headers.transport
    return _Outgoing(6, datagram[8:24], datagram[24:40], True, later, protocol, transport)


def _size_on_wire(datagram: bytes, outgoing: _Outgoing, gso_size: int) -> int | None:
    """Of a super-packet the size of its segments, each headers and `gso_size` bytes; None where we cannot tell."""
    if not gso_size:
        return len(datagram)
    transport = outgoing.transport
    if transport is None:
        return None
    if outgoing.protocol == PROTOCOL_UDP:
        header = UDP_HEADER
    elif outgoing.protocol == ip.PROTOCOL_TCP and transport + 12 < len(datagram):
        header = (datagram[transport + 12] >> 4) * 4
    else:
        return None
    if outgoing.family == 6 and datagram[6] == ip.HOP_BY_HOP and datagram[4:6] == b"\0\0":
        transport -= JUMBO_HEADER  # Linux's mark of a super-packet over 64 KiB; its segments have none
    return min(transport + header + gso_size, len(datagram))


def _is_forbidden(datagram: bytes, outgoing: _Outgoing) -> bool:
    """RFC 1122, section 3.2.2, and RFC 4443, section 2.4 e."""
    if outgoing.later_fragment:
        return True
    if _is_nobody(outgoing.source) or _is_group(outgoing.destination):
        return True
    if outgoing.transport is None:
        return True  # for all we know it is an error
    kind = datagram[outgoing.transport : outgoing.transport + 1]
    if (outgoing.family, outgoing.protocol) == (4, PROTOCOL_ICMP):
        return not kind or kind[0] in ICMP_ERRORS
    if (outgoing.family, outgoing.protocol) == (6, PROTOCOL_ICMPV6):
        return not kind or kind[0] < 128 or kind[0] == ICMPV6_REDIRECT
    return False


def _is_quotable(outgoing: _Outgoing) -> bool:
    return outgoing.transport is not None and outgoing.transport + QUOTED_TRANSPORT <= QUOTE


def _is_group(address: bytes) -> bool:
    """Multicast; in IPv4 all that is no unicast address (from 224.0.0.0 up)."""
    return address[0] >= 224 if len(address) == 4 else address[0] == 0xFF


def _is_nobody(address: bytes) -> bool:
    """An address that no answer could reach: groups, unspecified, loopback."""
    if _is_group(address):
        return True
    if len(address) == 4:
        return address[0] in (0, 127)
    return int.from_bytes(address, "big") in (0, 1)


def order(packet: bytes, ethertype: int, link_header: bool, ifindex: int, judgement: Judgement) -> bytes:
    """The frame to the private pair: the order, and behind it the start of the packet, its link header included."""
    link = ETHERNET_HEADER if link_header else 0
    head = ORDER.pack(ifindex, judgement.mtu, judgement.size & 0xFFFF, link, MAGIC, ethertype.to_bytes(2, "big"))
    return head + packet[: link + QUOTE]


def answer(frame: bytes) -> bytes | None:
    """The answer that an order becomes, as an Ethernet frame (a device without link header drops that); None for
    whatever is no order.
    """
    if len(frame) < ORDER.size:
        return None
    _, mtu, size, link, magic, _ = ORDER.unpack_from(frame)
    ethertype = frame[ORDER.size - 2 : ORDER.size]
    if magic != MAGIC or link not in (0, ETHERNET_HEADER):
        return None
    # The packet came to us from the host that its link header names, or from this machine: that is where it goes.
    addresses = frame[ORDER.size : ORDER.size + 12] if link else bytes(12)
    quote = frame[ORDER.size + link :]
    if len(quote) < QUOTE:
        return None
    match int.from_bytes(ethertype, "big"):
        case ip.ETHERTYPE_IPV4:
            datagram = _answer4(quote, mtu, size)
        case ip.ETHERTYPE_IPV6:
            datagram = _answer6(quote, mtu, size)
        case _:
            return None
    return addresses[6:] + addresses[:6] + ethertype + datagram


def _answer4(quote: bytes, mtu: int, size: int) -> bytes:
    #  type 3, code 4, checksum (2), unused (2), next-hop MTU (2), quote
    old, check = (int.from_bytes(quote[at : at + 2], "big") for at in (2, 10))
    check = checksum.updated(check, [checksum.difference(old, size, odd=False)])
    quote = quote[:2] + size.to_bytes(2, "big") + quote[4:10] + check.to_bytes(2, "big") + quote[12:]
    message = struct.pack("!BBHHH", *FRAGMENTATION_NEEDED, 0, 0, mtu) + quote
    message = _with_checksum(message, 2, checksum.internet_checksum(message))
    # From whom the packet wanted to go to: that always routes back through the device.
    source, destination = quote[16:20], quote[12:16]
    total = IPV4_HEADER + len(message)
    header = struct.pack("!BBHHHBBH", 0x45, INTERNETWORK_CONTROL, total, 0, 0, HOP_LIMIT, PROTOCOL_ICMP, 0)
    header += source + destination
    return _with_checksum(header, 10, checksum.internet_checksum(header)) + message


def _answer6(quote: bytes, mtu: int, size: int) -> bytes:
    #  type 2, code 0, checksum (2), MTU (4), quote
    length = (size - IPV6_HEADER) & 0xFFFF  # `size` is cut to 16 bits, of which 65,575 has one too many
    quote = quote[:4] + length.to_bytes(2, "big") + quote[6:]
    message = struct.pack("!BBHI", *PACKET_TOO_BIG, 0, mtu) + quote
    source, destination = quote[24:40], quote[8:24]
    check = checksum.transport_checksum(source, destination, PROTOCOL_ICMPV6, message)
    header = struct.pack("!IHBB", 6 << 28, len(message), PROTOCOL_ICMPV6, HOP_LIMIT)
    return header + source + destination + _with_checksum(message, 2, check)


def _with_checksum(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + value.to_bytes(2, "big") + data[at + 2 :]
