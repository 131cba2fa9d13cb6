"""TCP probes and the answers to them, byte by byte."""

from __future__ import annotations

import pytest

from mssclamp.wire import MalformedError, checksum, tcp
from mssclamp.wire.tcp_probe import HEADER, Reset, Syn, parse_quote, parse_reset, payload_size

SOURCE, DESTINATION = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
SYN = Syn(SOURCE, DESTINATION, 61441, 65000, 0x01020304, b"payload")


@pytest.mark.parametrize(("size", "version", "payload"), [(1500, 4, 1460), (1500, 6, 1440), (100, 4, 60)])
def test_payload_size(size: int, version: int, payload: int) -> None:
    assert payload_size(size, version) == payload


def test_syn() -> None:
    segment = SYN.build()
    assert segment[:14] == b"\xf0\x01\xfd\xe8\x01\x02\x03\x04\0\0\0\0\x50\x02"
    assert segment[18:] == b"\0\0payload"
    start = tcp.parse_start(segment)
    assert (start.header_length, start.flags) == (20, tcp.SYN)


@pytest.mark.parametrize("size", [4, 16])
def test_checksum(size: int) -> None:
    source, destination = SOURCE * (size // 4), DESTINATION * (size // 4)
    segment = Syn(source, destination, 61441, 65000, 7, b"odd").build()
    assert checksum.transport_checksum(source, destination, 6, segment) == 0


@pytest.mark.parametrize(
    ("sequence", "payload", "acknowledgment"),
    [(5, b"", 6), (5, b"abc", 9), (0xFFFFFFFF, b"", 0), (0xFFFFFFFE, b"a", 0)],
)
def test_acknowledgment(sequence: int, payload: bytes, acknowledgment: int) -> None:
    assert Syn(SOURCE, DESTINATION, 1, 2, sequence, payload).acknowledgment == acknowledgment


def segment(flags: int) -> bytes:
    return HEADER.pack(65000, 61441, 0, 0xCAFEBABE, 0x50, flags, 0, 0xABCD, 0)


def ipv4(content: bytes, *, options: bytes = b"", after: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    length = words * 4 + len(content)
    head = bytes([0x40 | words, 0]) + length.to_bytes(2, "big") + bytes([0, 1, 0, 0, 64, 6, 0, 0])
    return head + DESTINATION + SOURCE + options + content + after


RESET = segment(tcp.RST | tcp.ACK)


@pytest.mark.parametrize(
    ("received", "version"),
    [
        (ipv4(RESET), 4),
        (ipv4(RESET, options=b"\x01" * 8, after=b"\0\0"), 4),
        (RESET, 6),
        (segment(tcp.RST | tcp.ACK | 0x08) + b"reason", 6),
    ],
)
def test_reset(received: bytes, version: int) -> None:
    assert parse_reset(received, version) == Reset(65000, 61441, 0xCAFEBABE)


@pytest.mark.parametrize(
    ("received", "version"),
    [
        (b"", 4),
        (b"", 6),
        (RESET[:19], 6),
        (ipv4(RESET[:19], after=b"\0"), 4),
        (segment(tcp.RST), 6),
        (segment(tcp.ACK), 6),
        (segment(tcp.SYN | tcp.ACK), 6),
        (segment(tcp.SYN | tcp.RST | tcp.ACK), 6),
        (RESET, 4),
    ],
)
def test_what_is_no_reset(received: bytes, version: int) -> None:
    with pytest.raises(MalformedError):
        parse_reset(received, version)


def test_quote() -> None:
    for length in range(len(SYN.build()) + 1):
        quote = SYN.build()[:length]
        if length < 8:
            with pytest.raises(MalformedError):
                parse_quote(quote)
        else:
            assert parse_quote(quote) == (61441, 65000, 0x01020304)
