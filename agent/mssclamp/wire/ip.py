"""IP headers: from the start of a packet to its transport header, past options and extension headers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mssclamp.wire import MalformedError
from mssclamp.wire.mtu import IPV4_HEADER, IPV6_HEADER, IpVersion

ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_IPV6: Final = 0x86DD

PROTOCOL_TCP: Final = 6

HOP_BY_HOP: Final = 0
ROUTING: Final = 43
FRAGMENT: Final = 44
DESTINATION_OPTIONS: Final = 60

EXTENSION_HEADERS: Final = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS})
"""Those that may stand before a readable TCP header (RFC 8200, section 4; others hide what follows)."""

EXTENSION_HEADER_UNIT: Final = 8
"""Extension headers are a multiple of this; their length field does not count the first one."""

# Implementation constant.
MAX_EXTENSION_HEADERS: Final = 8
"""How far the walk goes: RFC 8200 (section 4.1) knows six places for them, one of them twice."""


@dataclass(frozen=True, slots=True)
class IpHeaders:
    """Where an IP packet's headers lead. Offsets are bytes from the start of the IP header.

    `transport` and `protocol` are what the walk ended at: the transport header, unless

    - `fragment_offset` is not 0: what lies there is payload of a later fragment;
    - `protocol` is in EXTENSION_HEADERS: there are more of them than MAX_EXTENSION_HEADERS.

    `end` is what the length field says: it may be less than the packet's bytes (Ethernet pads short frames),
    or, in a packet cut short, more. Nothing has been checked against it.
    """

    version: IpVersion
    source: bytes
    destination: bytes
    protocol: int
    fragment_offset: int
    transport: int
    end: int


def parse_ipv4(packet: bytes) -> IpHeaders:
    """The IPv4 header at the start of `packet` (RFC 791, section 3.1); its options are not looked at."""
    #  0                   1                   2                   3
    #  version|IHL |  DSCP, ECN    |         total length          |
    #        identification        |flags|   fragment offset       |
    #    TTL       |   protocol    |        checksum               |
    #                      source                                  |
    #                   destination                                |  options...
    if len(packet) < IPV4_HEADER:
        raise MalformedError("IPv4: shorter than the header")
    version, words = packet[0] >> 4, packet[0] & 0x0F
    if version != 4:
        raise MalformedError("IPv4: version")
    if words * 4 < IPV4_HEADER:
        raise MalformedError("IPv4: header length")
    return IpHeaders(
        version=4,
        source=packet[12:16],
        destination=packet[16:20],
        protocol=packet[9],
        fragment_offset=int.from_bytes(packet[6:8], "big") & 0x1FFF,
        transport=words * 4,
        end=int.from_bytes(packet[2:4], "big"),
    )


def parse_ipv6(packet: bytes) -> IpHeaders:
    """The IPv6 header at the start of `packet` and its extension headers (RFC 8200, sections 3 and 4)."""
    #  0                   1                   2                   3
    #  version| traffic class |           flow label                |
    #       payload length          |  next header  |  hop limit    |
    #                   source (16), destination (16)              |  extension headers...
    if len(packet) < IPV6_HEADER:
        raise MalformedError("IPv6: shorter than the header")
    if packet[0] >> 4 != 6:
        raise MalformedError("IPv6: version")
    protocol, fragment_offset, at = packet[6], 0, IPV6_HEADER
    for _ in range(MAX_EXTENSION_HEADERS):
        if protocol not in EXTENSION_HEADERS:
            break
        # next header | length - 1 in units of 8 | ...           routing, hop-by-hop and destination options
        # next header | reserved | fragment offset (13), 0, 0, M | identification (4)                fragment
        header = packet[at : at + EXTENSION_HEADER_UNIT]
        if len(header) < EXTENSION_HEADER_UNIT:
            raise MalformedError("IPv6: extension header cut off")
        if protocol == FRAGMENT:
            fragment_offset = int.from_bytes(header[2:4], "big") >> 3
            at += EXTENSION_HEADER_UNIT
        else:
            at += (header[1] + 1) * EXTENSION_HEADER_UNIT
        protocol = header[0]
        if fragment_offset:  # the rest of the chain, if there is more, was in the first fragment
            break
    return IpHeaders(
        version=6,
        source=packet[8:24],
        destination=packet[24:40],
        protocol=protocol,
        fragment_offset=fragment_offset,
        transport=at,
        end=IPV6_HEADER + int.from_bytes(packet[4:6], "big"),
    )
