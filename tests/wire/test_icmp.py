"""Echo requests and replies, byte by byte."""

from __future__ import annotations

import pytest

from mssclamp.wire import MalformedError, checksum
from mssclamp.wire.icmp import Echo, build_request, parse_quote, parse_reply, payload_size

ECHO = Echo(0x1234, 7, b"payload")


@pytest.mark.parametrize(("size", "version", "payload"), [(1500, 4, 1472), (1500, 6, 1452), (576, 4, 548)])
def test_payload_size(size: int, version: int, payload: int) -> None:
    assert payload_size(size, version) == payload


def test_request_of_ipv4() -> None:
    message = build_request(ECHO, 4)
    assert message[:2] == b"\x08\x00"
    assert message[4:] == b"\x12\x34\x00\x07payload"
    assert checksum.internet_checksum(message) == 0


def test_request_of_ipv6() -> None:
    assert build_request(ECHO, 6) == b"\x80\x00\x00\x00\x12\x34\x00\x07payload"


def ipv4(message: bytes, *, options: bytes = b"", after: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    length = words * 4 + len(message)
    head = bytes([0x40 | words, 0]) + length.to_bytes(2, "big") + bytes([0, 1, 0, 0, 64, 1, 0, 0])
    return head + bytes([192, 0, 2, 1, 192, 0, 2, 2]) + options + message + after


REPLY4 = b"\x00\x00\xab\xcd\x12\x34\x00\x07payload"
REPLY6 = b"\x81\x00\xab\xcd\x12\x34\x00\x07payload"


@pytest.mark.parametrize(
    ("received", "version"),
    [(ipv4(REPLY4), 4), (ipv4(REPLY4, options=b"\x01" * 8), 4), (ipv4(REPLY4, after=b"\0\0"), 4), (REPLY6, 6)],
)
def test_reply(received: bytes, version: int) -> None:
    assert parse_reply(received, version) == ECHO


@pytest.mark.parametrize(
    ("received", "version"),
    [
        (b"", 4),
        (b"", 6),
        (ipv4(b"\x00\x00\xab\xcd\x12\x34\x00"), 4),
        (ipv4(build_request(ECHO, 4)), 4),
        (ipv4(b"\x00\x01" + REPLY4[2:]), 4),
        (build_request(ECHO, 6), 6),
        (REPLY6[:7], 6),
        (REPLY4, 6),
    ],
)
def test_no_reply(received: bytes, version: int) -> None:
    with pytest.raises(MalformedError):
        parse_reply(received, version)


@pytest.mark.parametrize("version", [4, 6])
def test_quote(version: int) -> None:
    request = build_request(ECHO, version)
    for length in range(len(request) + 1):
        if length < 8:
            with pytest.raises(MalformedError):
                parse_quote(request[:length], version)
        else:
            assert parse_quote(request[:length], version) == Echo(0x1234, 7, b"payload"[: length - 8])


@pytest.mark.parametrize(("quote", "version"), [(REPLY4, 4), (REPLY6, 6), (build_request(ECHO, 4), 6)])
def test_what_is_no_quoted_request(quote: bytes, version: int) -> None:
    with pytest.raises(MalformedError):
        parse_quote(quote, version)
