"""TCP headers: flags, data offset, and the list of options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mssclamp.wire import MalformedError

SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10

CHECKSUM_OFFSET: Final = 16

FLAGS_END: Final = 14
"""Behind the flags: with this much of a header its kind of segment is known."""

END_OF_LIST: Final = 0
NO_OPERATION: Final = 1
MSS: Final = 2
MD5: Final = 19
AUTHENTICATION: Final = 29

MSS_LENGTH: Final = 4


@dataclass(frozen=True, slots=True)
class TcpStart:
    """What the first 14 bytes of a TCP header say. `header_length` is the data offset in bytes, unchecked."""

    header_length: int
    flags: int


@dataclass(frozen=True, slots=True)
class Option:
    """One option that has a length byte. `offset` is from the list's start, `value` follows the length."""

    kind: int
    offset: int
    value: bytes


def parse_start(segment: bytes) -> TcpStart:
    """The part of a TCP header up to its flags (RFC 9293, section 3.1)."""
    # source port (2), destination port (2), sequence number (4), acknowledgment number (4),
    # data offset (4 bits), reserved (4 bits), CWR ECE URG ACK PSH RST SYN FIN,
    # window (2), checksum (2), urgent pointer (2)
    if len(segment) < FLAGS_END:
        raise MalformedError("TCP: cut off before the flags")
    return TcpStart(header_length=(segment[12] >> 4) * 4, flags=segment[13])


def parse_options(data: bytes) -> list[Option]:
    """The options in `data`, the bytes from TCP's fixed header to its data offset (RFC 9293, section 3.2).

    The list ends with `data` or at an end-of-list byte, whatever follows that. No-operations are left out. An
    MSS option of a length other than 4 is malformed, as is any option that does not fit.
    """
    options = []
    at = 0
    while at < len(data):
        kind = data[at]
        if kind == END_OF_LIST:
            break
        if kind == NO_OPERATION:
            at += 1
            continue
        if at + 1 >= len(data):
            raise MalformedError("TCP option: no room for its length")
        length = data[at + 1]
        if length < 2:
            raise MalformedError("TCP option: length below 2")
        if at + length > len(data):
            raise MalformedError("TCP option: longer than the header")
        if kind == MSS and length != MSS_LENGTH:
            raise MalformedError("TCP option: MSS of a length other than 4")
        options.append(Option(kind, at, data[at + 2 : at + length]))
        at += length
    return options
