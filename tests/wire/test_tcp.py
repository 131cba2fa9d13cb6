"""TCP headers: the list of options, whole, cut, malformed and random."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.packets import AO, END, MD5, NOP, SACK_OK, TIMESTAMPS, WINDOW_SCALE, mss, tcp_segment
from mssclamp.wire import MalformedError, tcp
from mssclamp.wire.tcp import Option


def test_start() -> None:
    segment = tcp_segment(bytes(4), bytes(4), mss(1460) + TIMESTAMPS + 2 * NOP, flags=0x12)
    assert tcp.parse_start(segment) == tcp.TcpStart(header_length=36, flags=0x12)
    for length in range(14):
        with pytest.raises(MalformedError):
            tcp.parse_start(segment[:length])
    for length in range(14, len(segment)):
        assert tcp.parse_start(segment[:length]) == tcp.parse_start(segment)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b"", []),
        (3 * NOP, []),
        (END + mss(1460), []),
        (mss(1460), [Option(2, 0, b"\5\xb4")]),
        (NOP + mss(1460) + 3 * NOP, [Option(2, 1, b"\5\xb4")]),
        (mss(1460) + END + b"\2\1\0", [Option(2, 0, b"\5\xb4")]),
        (
            mss(1460) + SACK_OK + TIMESTAMPS + NOP + WINDOW_SCALE,
            [Option(2, 0, b"\5\xb4"), Option(4, 4, b""), Option(8, 6, TIMESTAMPS[2:]), Option(3, 17, b"\7")],
        ),
        (2 * mss(536), [Option(2, 0, b"\2\x18"), Option(2, 4, b"\2\x18")]),
        (36 * NOP + mss(1), [Option(2, 36, b"\0\1")]),
        (MD5 + NOP + NOP, [Option(tcp.MD5, 0, MD5[2:])]),
        (AO, [Option(tcp.AUTHENTICATION, 0, AO[2:])]),
        (b"\xfd\6" + mss(1460), [Option(253, 0, mss(1460))]),
    ],
)
def test_options(data: bytes, options: list[Option]) -> None:
    assert tcp.parse_options(data) == options


@pytest.mark.parametrize(
    "data",
    [
        b"\2",
        b"\xfd",
        b"\xfd\0",
        b"\xfd\1",
        b"\xfd\3",
        b"\xfd\xff\0\0",
        b"\2\2",
        b"\2\3\0",
        b"\2\4\5",
        b"\2\5\0\0\0",
        b"\2\0\5\xb4",
        mss(1460) + b"\xfd",
        NOP + mss(1460)[:3],
    ],
)
def test_malformed_options(data: bytes) -> None:
    with pytest.raises(MalformedError):
        tcp.parse_options(data)


def test_cut_off_at_every_length() -> None:
    data = mss(1460) + SACK_OK + TIMESTAMPS + NOP + WINDOW_SCALE
    ends = {0, 4, 6, 16, 17, 20}
    for length in range(len(data) + 1):
        if length in ends:
            assert tcp.parse_options(data[:length]) == [o for o in tcp.parse_options(data) if o.offset < length]
        else:
            with pytest.raises(MalformedError):
                tcp.parse_options(data[:length])


@given(st.binary(max_size=40))
def test_random_bytes_are_options_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        end = 0
        for option in tcp.parse_options(data):
            assert data[option.offset] == option.kind
            assert data[option.offset + 1] == len(option.value) + 2
            assert set(data[end : option.offset]) <= {1}
            end = option.offset + 2 + len(option.value)
        assert end <= len(data)
        assert set(data[end:].partition(b"\0")[0]) <= {1}
