"""Flows that wait: who they are, and that each is told once."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from mssclamp.daemon.stalled import LIFE, MOST, Segment, StalledFlows

FOUR = bytes.fromhex("4500058c 00014000 40060000 c0000209 0a070102 1388 0050") + bytes(60)
SIX = bytes.fromhex("60000000 05640640") + ip_address("fd00::9").packed + ip_address("2001:db8:7::1").packed
SIX += bytes.fromhex("1388 0050") + bytes(40)


def segment(port: int = 5000, size: int = 1420, sequence: int = 0) -> Segment:
    head = FOUR[:20] + port.to_bytes(2, "big") + FOUR[22:24] + sequence.to_bytes(4, "big") + FOUR[28:]
    return Segment(7, 4, size, 0, head)


@pytest.mark.parametrize("link", [0, 14])
def test_addresses(link: int) -> None:
    four = Segment(7, 4, 1420, link, bytes(link) + FOUR)
    assert (str(four.source), str(four.destination)) == ("192.0.2.9", "10.7.1.2")
    six = Segment(7, 6, 1420, link, bytes(link) + SIX)
    assert (str(six.source), str(six.destination)) == ("fd00::9", "2001:db8:7::1")
    assert four.flow == FOUR[12:24]
    assert six.flow == SIX[8:44]


@pytest.mark.parametrize("family", [4, 6])
def test_a_head_cut_short(family: int) -> None:
    whole = FOUR if family == 4 else SIX
    for length in range(len(whole)):
        cut = Segment(7, family, 1420, 0, whole[:length])
        assert (cut.destination is None) == (length < (20 if family == 4 else 40))
        assert (cut.source is None) == (length < (16 if family == 4 else 24))
        flows = StalledFlows()
        assert not flows.add("one", cut, 10.0)
        assert flows.add("one", cut, 10.0) == (length >= (28 if family == 4 else 48))


def test_sequence_numbers() -> None:
    assert segment(sequence=0x01020304).sequence == b"\1\2\3\4"
    options = bytes([0x46]) + FOUR[1:20] + bytes(4) + bytes.fromhex("1388 0050 0a0b0c0d")
    assert Segment(7, 4, 1420, 14, bytes(14) + options).sequence == bytes.fromhex("0a0b0c0d")
    six = Segment(7, 6, 1420, 0, SIX[:44] + bytes.fromhex("0a0b0c0d"))
    assert six.sequence == bytes.fromhex("0a0b0c0d")


def test_a_flow_that_makes_no_progress_is_told_apart() -> None:
    flows = StalledFlows()
    assert not flows.add("one", segment(sequence=1000), 10.0)
    assert not flows.add("one", segment(sequence=2380), 11.0)
    assert flows.add("one", segment(sequence=2380), 12.0)
    assert not flows.add("two", segment(sequence=2380), 12.0)
    assert not flows.add("one", segment(5001, sequence=2380), 12.0)
    assert not flows.add("one", segment(sequence=2380), 12.1 + LIFE)


def test_only_what_does_not_fit_and_once() -> None:
    flows = StalledFlows()
    for port, size in ((1, 1420), (2, 1328), (3, 1329)):
        flows.add("one", segment(port, size), 10.0)
    flows.add("two", segment(4), 10.0)
    assert flows.take("one", 1328, 11.0) == [segment(1, 1420), segment(3, 1329)]
    assert flows.take("one", 1328, 11.0) == []
    assert flows.take("two", 1328, 11.0) == [segment(4)]
    assert flows.take("three", 1328, 11.0) == []


def test_of_a_flow_the_last_segment_counts() -> None:
    flows = StalledFlows()
    flows.add("one", segment(1, 1420), 10.0)
    flows.add("one", segment(2), 10.0)
    flows.add("one", segment(1, 1400), 12.0)
    assert flows.take("one", 1328, 13.0) == [segment(2), segment(1, 1400)]


def test_they_are_held_for_a_while() -> None:
    flows = StalledFlows()
    flows.add("one", segment(1), 10.0)
    flows.add("one", segment(2), 11.0)
    assert flows.take("one", 1328, 10.5 + LIFE) == [segment(2)]


def test_they_are_so_many_at_most() -> None:
    flows = StalledFlows()
    for port in range(MOST + 10):
        flows.add("one", segment(port), 10.0)
    taken = flows.take("one", 1328, 10.0)
    assert (len(taken), taken[0], taken[-1]) == (MOST, segment(10), segment(MOST + 9))


def test_a_peer_is_forgotten() -> None:
    flows = StalledFlows()
    flows.add("one", segment(), 10.0)
    flows.forget("one")
    flows.forget("nobody")
    assert flows.take("one", 1328, 10.0) == []


def test_what_is_old_is_dropped() -> None:
    """Flows come and go for months; what nobody will be told any more takes no memory."""
    flows = StalledFlows()
    for port in range(100):
        flows.add("one", segment(port), 10.0)
    flows.add("two", segment(), 10.0)
    flows.add("one", segment(5000), 10.1 + LIFE)
    assert len(flows._flows["one"]) == 1
    flows.expire(10.1 + LIFE)
    assert flows._flows.keys() == {"one"}
    flows.expire(10.2 + 2 * LIFE)
    assert not flows._flows
