"""The model: the hand-written cases of the programs' tests, and what must hold of any packet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.cases import CASES, FRAMES, Case
from bpf.generator import generate
from bpf.packets import (
    ADDRESSES,
    DESTINATION,
    END,
    HOOKS,
    IPV4,
    IPV6,
    NEAR,
    NOP,
    SYN,
    extension,
    ipv4,
    ipv6,
    limits_of,
    mss,
    tcp_segment,
)
from mssclamp.wire import checksum, tcp
from mssclamp.wire.clamp import Direction, Limits, Reason, clamp

LIMITS = Limits.for_mtu(1340)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    for link_header, direction in HOOKS:
        packet, expected = case.packets(link_header=link_header, direction=direction)
        found = clamp(packet.data, packet.ethertype, link_header, direction, limits_of)
        assert found == (expected, case.reason)


@pytest.mark.parametrize(("data", "reason"), [frame[1:] for frame in FRAMES], ids=[frame[0] for frame in FRAMES])
def test_frame(data: bytes, reason: Reason | None) -> None:
    for direction in Direction:
        assert clamp(data, int.from_bytes(data[12:14], "big"), True, direction, limits_of) == (data, reason)


def test_limits() -> None:
    assert Limits.for_mtu(1340) == Limits(1300, 1280)
    assert Limits.for_mtu(560) == Limits(536, 536)
    with pytest.raises(ValueError, match="below 536"):
        Limits(535, 1280)


# Options as they come: some right, some wrong, with the MSS at any offset.
_values = st.integers(0, 0xFFFF)
_pieces = st.one_of(
    _values.map(mss),
    st.sampled_from([NOP, NOP, NOP, END, b"\3\3\7", b"\4\2"]),
    st.binary(max_size=6).map(lambda data: bytes((254, len(data) + 2)) + data),
    st.binary(max_size=4),
)
_option_lists = (
    st.lists(_pieces, max_size=8).map(lambda pieces: b"".join(pieces)[:40]).map(lambda d: d + NOP * (-len(d) % 4))
)


@st.composite
def _datagrams(draw: st.DrawFn, options: st.SearchStrategy[bytes] = _option_lists) -> tuple[bytes, int, int]:
    """A SYN, where its TCP header starts, and its ethertype; its checksum is right."""
    version = draw(st.sampled_from([4, 6]))
    source, destination = NEAR[version], ADDRESSES["enforced", version]
    flags = SYN | draw(st.sampled_from([0, 0x10, 0xC0]))
    segment = tcp_segment(source, destination, draw(options), flags=flags, payload=draw(st.binary(max_size=9)))
    if version == 4:
        datagram = ipv4(source, destination, segment, options=NOP * 4 * draw(st.integers(0, 10)))
    else:
        chain = (extension(DESTINATION, 16),) * draw(st.integers(0, 8))
        datagram = ipv6(source, destination, segment, extensions=chain)
    return datagram, len(datagram) - len(segment), IPV4 if version == 4 else IPV6


def _model(datagram: bytes, ethertype: int, limits: Limits = LIMITS) -> tuple[bytes, Reason | None]:
    return clamp(datagram, ethertype, False, Direction.EGRESS, lambda _: limits)


def _mss_offsets(datagram: bytes, at: int) -> list[int]:
    """Where the list's MSS values stand in the datagram."""
    start = at + 20
    options = datagram[start : at + (datagram[at + 12] >> 4) * 4]
    return [start + option.offset + 2 for option in tcp.parse_options(options) if option.kind == tcp.MSS]


def _value(datagram: bytes, at: int) -> int:
    return int.from_bytes(datagram[at : at + 2], "big")


def _checksum_is_right(datagram: bytes, at: int) -> bool:
    source, destination = (
        (datagram[12:16], datagram[16:20]) if datagram[0] >> 4 == 4 else (datagram[8:24], datagram[24:40])
    )
    return checksum.transport_checksum(source, destination, 6, datagram[at:]) == 0


@given(_datagrams())
def test_nothing_but_too_large_values_and_the_checksum_changes(syn: tuple[bytes, int, int]) -> None:
    datagram, at, ethertype = syn
    after, reason = _model(datagram, ethertype)
    if reason is not Reason.CLAMPED:
        assert after == datagram
        return
    limit = LIMITS.mss4 if ethertype == IPV4 else LIMITS.mss6
    values_at = _mss_offsets(datagram, at)
    lowered = [v for v in values_at if _value(datagram, v) > limit]
    assert lowered
    for v in values_at:
        assert _value(after, v) == min(_value(datagram, v), limit)  # so it is never raised
    free = {v + i for v in lowered for i in (0, 1)} | {at + 16, at + 17}
    assert all(a == b for i, (a, b) in enumerate(zip(datagram, after, strict=True)) if i not in free)


@given(_datagrams())
def test_a_right_checksum_stays_right(syn: tuple[bytes, int, int]) -> None:
    datagram, at, ethertype = syn
    assert _checksum_is_right(datagram, at)
    assert _checksum_is_right(_model(datagram, ethertype)[0], at)


@given(_datagrams(), st.integers(1, 0xFFFE))
def test_a_wrong_checksum_stays_wrong(syn: tuple[bytes, int, int], error: int) -> None:
    datagram, at, ethertype = syn
    wrong = (_value(datagram, at + 16) + error) % 0xFFFF
    datagram = datagram[: at + 16] + wrong.to_bytes(2, "big") + datagram[at + 18 :]
    assert not _checksum_is_right(datagram, at)
    assert not _checksum_is_right(_model(datagram, ethertype)[0], at)


@given(st.integers(0, 36), _values)
def test_at_every_offset(offset: int, value: int) -> None:
    options = (offset * NOP + mss(value)).ljust(40, NOP)
    source, destination = NEAR[4], ADDRESSES["enforced", 4]
    after, reason = _model(ipv4(source, destination, tcp_segment(source, destination, options)), IPV4)
    assert reason is (Reason.CLAMPED if value > LIMITS.mss4 else Reason.FITS)
    expected = (offset * NOP + mss(min(value, LIMITS.mss4))).ljust(40, NOP)
    assert after == ipv4(source, destination, tcp_segment(source, destination, expected))


@given(_datagrams())
def test_twice_is_once(syn: tuple[bytes, int, int]) -> None:
    datagram, _, ethertype = syn
    once, reason = _model(datagram, ethertype)
    assert _model(once, ethertype) == (once, Reason.FITS if reason is Reason.CLAMPED else reason)


@given(_datagrams())
def test_observing_changes_nothing_and_says_what_would_be(syn: tuple[bytes, int, int]) -> None:
    datagram, _, ethertype = syn
    _, enforced = _model(datagram, ethertype)
    after, observed = _model(datagram, ethertype, Limits.for_mtu(1340, enforce=False))
    assert after == datagram
    assert observed is (Reason.WOULD_CLAMP if enforced is Reason.CLAMPED else enforced)


@given(_datagrams(), st.binary(max_size=60))
def test_whatever_follows_is_left_alone(syn: tuple[bytes, int, int], garbage: bytes) -> None:
    datagram, _, ethertype = syn
    after, reason = _model(datagram, ethertype)
    assert _model(datagram + garbage, ethertype) == (after + garbage, reason)


@given(_datagrams(options=st.just(NOP + mss(1460) + 3 * NOP)))
def test_cut_off_at_every_length(syn: tuple[bytes, int, int]) -> None:
    datagram, _, ethertype = syn
    for length in range(len(datagram)):
        after, reason = _model(datagram[:length], ethertype)
        assert after == datagram[:length]
        assert reason in (Reason.BAD_IP, Reason.BAD_TCP)
    assert _model(datagram, ethertype)[1] is Reason.CLAMPED


@given(st.binary(max_size=120), st.sampled_from([IPV4, IPV6, 0x0806]), st.sampled_from(HOOKS))
def test_any_bytes_at_all(data: bytes, ethertype: int, hook: tuple[bool, Direction]) -> None:
    after, reason = clamp(data, ethertype, *hook, lambda _: LIMITS)
    assert after == data or reason is Reason.CLAMPED
    assert len(after) == len(data)


def test_generated_packets_change_only_when_clamped() -> None:
    for packet in generate(5, 5000):
        after, reason = clamp(packet.data, packet.ethertype, packet.link_header, packet.direction, limits_of)
        assert (after != packet.data) == (reason is Reason.CLAMPED)
