"""IP headers: what the parsers say of whole, cut, and random ones."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.packets import DESTINATION, HOP_BY_HOP, NEAR, ROUTING, TCP, UDP, extension, fragment_header, ipv4, ipv6
from mssclamp.wire import MalformedError, ip

SOURCE4, DESTINATION4 = bytes((192, 0, 2, 1)), bytes((198, 51, 100, 2))
SOURCE6, DESTINATION6 = NEAR[6], bytes(15) + b"\1"
CHAIN = (extension(HOP_BY_HOP), extension(ROUTING, 24), fragment_header(more=True), extension(DESTINATION, 16))


def test_ipv4() -> None:
    headers = ip.parse_ipv4(ipv4(SOURCE4, DESTINATION4, b"payload", options=bytes(8), fragment=0x2000 | 185) + b"tail")
    assert headers == ip.IpHeaders(
        version=4,
        source=SOURCE4,
        destination=DESTINATION4,
        protocol=TCP,
        fragment_offset=185,
        transport=28,
        end=35,
    )


def test_ipv6() -> None:
    headers = ip.parse_ipv6(ipv6(SOURCE6, DESTINATION6, b"payload", extensions=CHAIN, protocol=UDP) + b"tail")
    assert headers == ip.IpHeaders(
        version=6,
        source=SOURCE6,
        destination=DESTINATION6,
        protocol=UDP,
        fragment_offset=0,
        transport=40 + 8 + 24 + 8 + 16,
        end=40 + 8 + 24 + 8 + 16 + 7,
    )


def test_ipv6_walk_ends_at_a_later_fragment() -> None:
    chain = (CHAIN[0], fragment_header(3), CHAIN[3])
    headers = ip.parse_ipv6(ipv6(SOURCE6, DESTINATION6, b"", extensions=chain))
    assert (headers.fragment_offset, headers.protocol, headers.transport) == (3, DESTINATION, 56)


@pytest.mark.parametrize(
    ("count", "protocol"),
    [(ip.MAX_EXTENSION_HEADERS, TCP), (ip.MAX_EXTENSION_HEADERS + 1, DESTINATION), (30, DESTINATION)],
)
def test_ipv6_walk_ends_after_eight(count: int, protocol: int) -> None:
    headers = ip.parse_ipv6(ipv6(SOURCE6, DESTINATION6, b"", extensions=count * (extension(DESTINATION),)))
    assert (headers.protocol, headers.transport) == (protocol, 40 + 8 * 8)


def test_ipv4_cut_off_at_every_length() -> None:
    packet = ipv4(SOURCE4, DESTINATION4, bytes(40), options=bytes(8))
    for length in range(20):
        with pytest.raises(MalformedError):
            ip.parse_ipv4(packet[:length])
    whole = ip.parse_ipv4(packet)
    for length in range(20, len(packet)):
        assert ip.parse_ipv4(packet[:length]) == whole


def test_ipv6_cut_off_at_every_length() -> None:
    packet = ipv6(SOURCE6, DESTINATION6, bytes(40), extensions=CHAIN)
    last_header = 40 + 8 + 24 + 8
    for length in range(last_header + 8):
        with pytest.raises(MalformedError):
            ip.parse_ipv6(packet[:length])
    whole = ip.parse_ipv6(packet)
    for length in range(last_header + 8, len(packet)):
        assert ip.parse_ipv6(packet[:length]) == whole


@pytest.mark.parametrize("first", [0x44, 0x40, 0x55, 0x65, 0x05, 0xF5])
def test_ipv4_first_byte(first: int) -> None:
    packet = ipv4(SOURCE4, DESTINATION4, b"")
    with pytest.raises(MalformedError):
        ip.parse_ipv4(bytes((first,)) + packet[1:])


@pytest.mark.parametrize("first", [0x45, 0x00, 0x50, 0x70, 0xF0])
def test_ipv6_first_byte(first: int) -> None:
    packet = ipv6(SOURCE6, DESTINATION6, b"")
    with pytest.raises(MalformedError):
        ip.parse_ipv6(bytes((first,)) + packet[1:])


@given(st.binary(max_size=120), st.sampled_from([b"", b"\x45", b"\x60\0\0\0\0\x20\0", b"\x60\0\0\0\0\x20\x2c"]))
def test_random_bytes_are_read_or_refused(data: bytes, start: bytes) -> None:
    for parse in (ip.parse_ipv4, ip.parse_ipv6):
        with contextlib.suppress(MalformedError):
            headers = parse(start + data)
            assert headers.transport >= 20
            assert len(headers.source) == len(headers.destination) == (4 if headers.version == 4 else 16)
