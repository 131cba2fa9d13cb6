"""ICMP and ICMPv6 echo: requests to send, and answers to tell from everybody else's.

PURE.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from mssclamp.wire import MalformedError, checksum, ip
from mssclamp.wire.mtu import IpVersion, outer_ip_header

ECHO_REQUEST: Final = {4: 8, 6: 128}
ECHO_REPLY: Final = {4: 0, 6: 129}
"""RFC 792; RFC 4443, section 4."""

HEADER: Final = struct.Struct("!BBHHH")
# type (1) | code (1) | checksum (2) | identifier (2) | sequence number (2)

IDENTIFIER_OFFSET: Final = 4


@dataclass(frozen=True, slots=True)
class Echo:
    """An echo request or its reply; `payload` is what the reply must bring back."""

    identifier: int
    sequence: int
    payload: bytes


def payload_size(packet_size: int, version: IpVersion) -> int:
    """Bytes of payload that make an echo of this IP packet size."""
    return packet_size - outer_ip_header(version) - HEADER.size


def build_request(echo: Echo, version: IpVersion) -> bytes:
    """The message without its IP header. In IPv6 the checksum is left to the kernel, which knows the addresses."""
    head = HEADER.pack(ECHO_REQUEST[version], 0, 0, echo.identifier, echo.sequence)
    if version == 6:
        return head + echo.payload
    summed = checksum.internet_checksum(head + echo.payload)
    return HEADER.pack(ECHO_REQUEST[version], 0, summed, echo.identifier, echo.sequence) + echo.payload


def parse_reply(received: bytes, version: IpVersion) -> Echo:
    """An echo reply as a raw socket delivers it: with its IP header in IPv4, without in IPv6.

    Raises MalformedError for anything else. Checksums were verified by the kernel.
    """
    message = received
    if version == 4:
        headers = ip.parse_ipv4(received)
        message = received[headers.transport : headers.end]
    return _parse(message, ECHO_REPLY[version])


def parse_quote(quote: bytes, version: IpVersion) -> Echo:
    """An echo request as an ICMP error quotes it, from its ICMP header on; the payload may be cut off anywhere.

    Raises MalformedError for anything else.
    """
    return _parse(quote, ECHO_REQUEST[version])


def _parse(message: bytes, kind: int) -> Echo:
    if len(message) < HEADER.size:
        raise MalformedError("ICMP: shorter than the header")
    found, code, _, identifier, sequence = HEADER.unpack_from(message)
    if (found, code) != (kind, 0):
        raise MalformedError("ICMP: neither echo nor reply as expected")
    return Echo(identifier, sequence, message[HEADER.size :])
