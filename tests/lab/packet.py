"""TCP segments as bytes, read and written by plain arithmetic: on purpose none of the project's own code."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

TCP = 6
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


@dataclass(frozen=True)
class Segment:
    """The fields of a TCP segment that the tests look at."""

    version: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    sequence: int
    flags: int
    mss: int | None
    checksum_right: bool

    @property
    def is_syn(self) -> bool:
        return bool(self.flags & SYN)

    @property
    def is_syn_ack(self) -> bool:
        return self.flags & (SYN | ACK) == SYN | ACK


def parse_segment(packet: bytes) -> Segment | None:
    """The TCP segment in an IP packet without extension headers; None if it is something else."""
    if len(packet) < 20:
        return None
    version = packet[0] >> 4
    if version == 4 and packet[9] == TCP:
        start, end = 4 * (packet[0] & 15), struct.unpack_from("!H", packet, 2)[0]
        addresses = packet[12:20]
    elif version == 6 and len(packet) >= 40 and packet[6] == TCP:
        start, end = 40, 40 + struct.unpack_from("!H", packet, 4)[0]
        addresses = packet[8:40]
    else:
        return None
    tcp = packet[start:end]
    if len(tcp) < 20:
        return None
    source_port, destination_port, sequence = struct.unpack_from("!HHI", tcp)
    half = len(addresses) // 2
    return Segment(
        version=version,
        source=str(ipaddress.ip_address(addresses[:half])),
        destination=str(ipaddress.ip_address(addresses[half:])),
        source_port=source_port,
        destination_port=destination_port,
        sequence=sequence,
        flags=tcp[13],
        mss=_mss(tcp[20 : 4 * (tcp[12] >> 4)]),
        checksum_right=_checksum(_pseudo_header(addresses, len(tcp)) + tcp) == 0,
    )


def build_syn(
    source: str,
    destination: str,
    *,
    mss: int | None = 1460,
    options: bytes | None = None,
    source_port: int = 40000,
    destination_port: int = 80,
    sequence: int = 0,
    flags: int = SYN,
    payload: bytes = b"",
) -> bytes:
    """An IP packet with a TCP segment and right checksums; `options` stands in for the MSS option."""
    if options is None:
        options = b"" if mss is None else struct.pack("!BBH", 2, 4, mss)
    options += bytes(-len(options) % 4)
    addresses = b"".join(ipaddress.ip_address(one).packed for one in (source, destination))
    header = struct.pack(
        "!HHIIBBHHH",
        source_port,
        destination_port,
        sequence,
        0,
        (5 + len(options) // 4) << 4,
        flags,
        64240,
        0,
        0,
    )
    tcp = bytearray(header + options + payload)
    struct.pack_into("!H", tcp, 16, _checksum(_pseudo_header(addresses, len(tcp)) + tcp))
    if len(addresses) == 32:
        return struct.pack("!IHBB", 6 << 28, len(tcp), TCP, 64) + addresses + tcp
    ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), sequence & 0xFFFF, 0x4000, 64, TCP, 0) + addresses)
    struct.pack_into("!H", ip, 10, _checksum(ip))
    return bytes(ip + tcp)


def _mss(options: bytes) -> int | None:
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        if at + 1 >= len(options) or options[at + 1] < 2:
            return None
        if options[at] == 2 and options[at + 1] == 4 and at + 4 <= len(options):
            value: int = struct.unpack_from("!H", options, at + 2)[0]
            return value
        at += options[at + 1]
    return None


def _pseudo_header(addresses: bytes, length: int) -> bytes:
    if len(addresses) == 8:
        return addresses + struct.pack("!BBH", 0, TCP, length)
    return addresses + struct.pack("!II", length, TCP)


def _checksum(data: bytes | bytearray) -> int:
    padded = bytes(data) + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
