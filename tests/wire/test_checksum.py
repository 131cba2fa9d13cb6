"""Checksums: known answers, and the incremental update against the full sum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from mssclamp.wire import checksum

words = st.integers(0, 0xFFFF)


@pytest.mark.parametrize(
    ("data", "right"),
    [
        ("", 0xFFFF),
        ("0000", 0xFFFF),
        ("ffff", 0x0000),
        ("0001f203f4f5f6f7", 0x220D),  # RFC 1071, section 3: the sum is ddf2
        ("4500003044224000800600008c7c19acae241e2b", 0x442E),  # an IPv4 header
        ("01", 0xFEFF),
        ("0102ff", 0xFFFC),
    ],
)
def test_known_sums(data: str, right: int) -> None:
    assert checksum.internet_checksum(bytes.fromhex(data)) == right


@given(st.binary(max_size=200))
def test_full_sum_is_scapys(data: bytes) -> None:
    assert checksum.internet_checksum(data) == scapy_checksum(data)


@given(st.binary(max_size=200).filter(lambda data: len(data) % 2 == 0))
def test_over_data_that_holds_its_checksum_it_is_zero(data: bytes) -> None:
    right = checksum.internet_checksum(data)
    assert checksum.internet_checksum(data + right.to_bytes(2, "big")) == 0


def test_swapping_the_bytes_of_every_word_swaps_the_sum() -> None:  # RFC 1071, section 2 B
    data = bytes.fromhex("0001f203f4f5f6f7")
    swapped = bytes.fromhex("010003f2f5f4f7f6")
    assert checksum.ones_complement_sum(data) == 0xDDF2
    assert checksum.ones_complement_sum(swapped) == 0xF2DD


@given(st.binary(min_size=8, max_size=80), st.data())
def test_update_is_the_full_sum_again(data: bytes, draws: st.DataObject) -> None:
    """Several values of the data change, at any offsets; the checksum lies outside."""
    changed, differences = bytearray(data), []
    for _ in range(draws.draw(st.integers(1, 4))):
        at, new = draws.draw(st.integers(0, len(data) - 2)), draws.draw(words)
        old = int.from_bytes(changed[at : at + 2], "big")
        changed[at : at + 2] = new.to_bytes(2, "big")
        differences.append(checksum.difference(old, new, odd=at % 2 == 1))
    updated = checksum.updated(checksum.internet_checksum(data), differences)
    if any(changed):
        assert updated == checksum.internet_checksum(bytes(changed))
    else:
        assert updated in (0x0000, 0xFFFF)  # of nothing but zeros either zero is right


@given(words, words, words, words, st.booleans())
def test_a_wrong_checksum_stays_as_wrong(right: int, error: int, old: int, new: int, odd: bool) -> None:
    change = [checksum.difference(old, new, odd=odd)]
    wrong = checksum.fold(right + error)
    of_right, of_wrong = checksum.updated(right, change), checksum.updated(wrong, change)
    assert (of_wrong - of_right - error) % 0xFFFF == 0


def test_the_example_of_rfc_1624() -> None:  # section 4: a result that RFC 1141's equation gets wrong
    assert checksum.updated(0xDD2F, [checksum.difference(0x5555, 0x3285, odd=False)]) == 0x0000


@pytest.mark.parametrize("addresses", [(bytes(range(4)), bytes(range(4, 8))), (bytes(range(16)), bytes(range(16, 32)))])
def test_transport_checksum_verifies(addresses: tuple[bytes, bytes]) -> None:
    segment = bytearray(range(1, 28))
    segment[16:18] = b"\0\0"
    right = checksum.transport_checksum(*addresses, 6, bytes(segment))
    segment[16:18] = right.to_bytes(2, "big")
    assert checksum.transport_checksum(*addresses, 6, bytes(segment)) == 0
    assert checksum.transport_checksum(*addresses, 17, bytes(segment)) != 0


def test_pseudo_headers() -> None:
    four, six = bytes(range(8)), bytes(range(32))
    assert checksum.pseudo_header(four[:4], four[4:], 6, 0x1234) == four + b"\0\6\x12\x34"
    assert checksum.pseudo_header(six[:16], six[16:], 6, 0x1234) == six + b"\0\0\x12\x34\0\0\0\6"
