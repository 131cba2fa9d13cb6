"""TCP probes: a SYN with payload to a closed port, and the RST that says how much of it arrived.

RFC 9293, section 3.10.7.1: a segment for a connection that does not exist is answered by a RST whose acknowledgment
number is the segment's sequence number plus its length, the SYN counting as one. So the small answer names the large
segment: what it measures is the way there alone.

PURE.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from mssclamp.wire import MalformedError, checksum, ip, tcp
from mssclamp.wire.mtu import TCP_HEADER, IpVersion, fixed_headers

HEADER: Final = struct.Struct("!HHIIBBHHH")
# source port (2) | destination port (2) | sequence number (4) | acknowledgment number (4)
# data offset, reserved (1) | flags (1) | window (2) | checksum (2) | urgent pointer (2)

QUOTED: Final = struct.Struct("!HHI")
# source port (2) | destination port (2) | sequence number (4)       what every ICMP error quotes (RFC 792)

_DATA_OFFSET = (TCP_HEADER // 4) << 4
_WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Syn:
    """A probe. `source` and `destination`: 4 or 16 bytes; it has no options."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    sequence: int
    payload: bytes

    @property
    def acknowledgment(self) -> int:
        """What the RST says if all of it arrived."""
        return (self.sequence + 1 + len(self.payload)) & 0xFFFFFFFF

    def build(self) -> bytes:
        """The segment, checksum included, without an IP header."""
        head = self._head(0) + self.payload
        summed = checksum.transport_checksum(self.source, self.destination, ip.PROTOCOL_TCP, head)
        return self._head(summed) + self.payload

    def _head(self, summed: int) -> bytes:
        return HEADER.pack(
            self.source_port, self.destination_port, self.sequence, 0, _DATA_OFFSET, tcp.SYN, _WINDOW, summed, 0
        )


@dataclass(frozen=True, slots=True)
class Reset:
    """A RST with ACK, as it came."""

    source_port: int
    destination_port: int
    acknowledgment: int


def payload_size(packet_size: int, version: IpVersion) -> int:
    """Bytes of payload that make a SYN of this IP packet size."""
    return packet_size - fixed_headers(version)


def parse_reset(received: bytes, version: IpVersion) -> Reset:
    """A RST as a raw socket delivers it: with its IP header in IPv4, without in IPv6.

    Raises MalformedError for anything else. Checksums are not verified: the acknowledgment number is proof enough.
    """
    segment = received
    if version == 4:
        headers = ip.parse_ipv4(received)
        segment = received[headers.transport : headers.end]
    if len(segment) < HEADER.size:
        raise MalformedError("TCP: shorter than the header")
    source, destination, _, acknowledgment, _, flags, _, _, _ = HEADER.unpack_from(segment)
    if flags & (tcp.SYN | tcp.RST | tcp.ACK) != tcp.RST | tcp.ACK:
        raise MalformedError("TCP: no RST that acknowledges")
    return Reset(source, destination, acknowledgment)


def parse_quote(quote: bytes) -> tuple[int, int, int]:
    """Source port, destination port and sequence number of a segment that an ICMP error quotes."""
    if len(quote) < QUOTED.size:
        raise MalformedError("TCP: quoted without its sequence number")
    source, destination, sequence = QUOTED.unpack_from(quote)
    return source, destination, sequence
