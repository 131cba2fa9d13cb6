"""The model of answers: the programs' hand-written cases, two answers spelled out, and what must always hold."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.outgoing import LARGEST_TEST_RUN, Outgoing, towards
from bpf.outgoing_cases import CASES, Case
from bpf.outgoing_generator import generate
from bpf.packets import ETHERNET, IPV4, IPV6, UDP, checksum, ethernet, ipv4, ipv6, smallest_test_run
from mssclamp.wire import too_big
from mssclamp.wire.too_big import OVERSIZE, Judgement, Outcome, Towards


def _judge(packet: Outgoing) -> Judgement:
    return too_big.judge(
        packet.data,
        packet.ethertype,
        packet.link_header,
        towards,
        gso_size=packet.gso_size,
        group_frame=packet.group_frame,
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    for link_header in case.link_headers:
        judgement = _judge(case.packet(link_header=link_header))
        assert judgement.outcome is case.outcome
        assert (judgement.outcome in OVERSIZE) == bool(judgement.size)
        if judgement.size:
            assert judgement.size == case.size_on_wire(link_header=link_header)


# Two answers, written out.

SOURCE = {4: b"\x08\0\xfa\7", 6: bytes.fromhex("20010db886dd00fa0000000000000007")}
DESTINATION = {4: b"\x08\0\7\7", 6: bytes.fromhex("20010db886dd00070000000000000007")}
PAYLOAD = struct.pack("!HHHH", 40000, 443, 1400, 0) + bytes(range(256)) * 6


@pytest.mark.parametrize("link_header", [True, False])
def test_an_answer_in_ipv4(link_header: bool) -> None:
    sent = ipv4(SOURCE[4], DESTINATION[4], PAYLOAD, protocol=UDP)
    # A super-packet, of which one segment is 1341 bytes: what is quoted is a packet of that size.
    quote = ipv4(SOURCE[4], DESTINATION[4], PAYLOAD, protocol=UDP, total=1341)[:256]
    message = b"\3\4\0\0\0\0" + (1340).to_bytes(2, "big") + quote
    message = message[:2] + checksum(int.from_bytes(message, "big")).to_bytes(2, "big") + message[4:]
    header = bytes.fromhex("45c0011c 00000000 40010000") + DESTINATION[4] + SOURCE[4]
    header = header[:10] + checksum(int.from_bytes(header, "big")).to_bytes(2, "big") + header[12:]
    _assert_answered(sent, IPV4, link_header, Judgement(Outcome.ANSWERED, 1341, 1340, 4), header + message)


@pytest.mark.parametrize("link_header", [True, False])
def test_an_answer_in_ipv6(link_header: bool) -> None:
    sent = ipv6(SOURCE[6], DESTINATION[6], PAYLOAD, protocol=UDP)
    quote = ipv6(SOURCE[6], DESTINATION[6], PAYLOAD, protocol=UDP, length=1301)[:256]
    message = b"\2\0\0\0" + (1340).to_bytes(4, "big") + quote
    pseudo = DESTINATION[6] + SOURCE[6] + (264).to_bytes(4, "big") + (58).to_bytes(4, "big")
    message = message[:2] + checksum(int.from_bytes(pseudo + message, "big")).to_bytes(2, "big") + message[4:]
    header = bytes.fromhex("60000000 0108 3a 40") + DESTINATION[6] + SOURCE[6]
    _assert_answered(sent, IPV6, link_header, Judgement(Outcome.ANSWERED, 1341, 1340, 6), header + message)


def _assert_answered(sent: bytes, ethertype: int, link_header: bool, judgement: Judgement, expected: bytes) -> None:
    packet = ethernet(sent, ethertype) if link_header else sent
    order = too_big.order(packet, ethertype, link_header, 0x01020304, judgement)
    link = 14 if link_header else 0
    assert order[:12] == struct.pack("=IHHHH", 0x01020304, 1340, 1341, link, 0xC1A3)
    assert order[12:] == ethertype.to_bytes(2, "big") + packet[: link + 256]
    addresses = b"\x02\0\0\0\0\2\x02\0\0\0\0\1" if link_header else bytes(12)
    assert too_big.answer(order) == addresses + ethertype.to_bytes(2, "big") + expected


def test_the_largest_payload_of_ipv6_survives_sixteen_bits() -> None:
    order = too_big.order(bytes(40 + 65535), IPV6, False, 1, Judgement(Outcome.ANSWERED, 40 + 65535, 1500, 6))
    answer = too_big.answer(order)
    assert answer is not None
    assert answer[ETHERNET + 48 + 4 : ETHERNET + 48 + 6] == b"\xff\xff"


# Whatever comes.


@given(st.binary(max_size=1600), st.sampled_from([IPV4, IPV6, 0x0806]), st.booleans(), st.integers(0, 0xFFFF))
def test_any_bytes_at_all(data: bytes, ethertype: int, link_header: bool, gso_size: int) -> None:
    judgement = too_big.judge(data, ethertype, link_header, lambda _: Towards(576), gso_size=gso_size)
    assert (judgement.outcome in OVERSIZE) == (judgement.size > judgement.mtu)
    assert judgement.size <= len(data)


@given(st.binary(max_size=400), st.sampled_from([0, 14]), st.sampled_from([b"\x08\0", b"\x86\xdd", b"\x08\6"]))
def test_any_order_at_all(data: bytes, link: int, ethertype: bytes) -> None:
    assert too_big.answer(data) is None  # without the magic
    frame = struct.pack("=IHHHH", 1, 1280, 1300, link, 0xC1A3) + ethertype + data
    answer = too_big.answer(frame)
    assert (answer is None) == (len(data) < link + 256 or ethertype == b"\x08\6")


def test_generated_packets_are_those_that_a_test_run_takes() -> None:
    assert list(generate(7, 300)) == list(generate(7, 300))
    hits = dict.fromkeys(Outcome, 0)
    for packet in generate(7, 10_000):
        assert smallest_test_run(packet.data) <= len(packet.data) <= LARGEST_TEST_RUN
        hits[_judge(packet).outcome] += 1
    assert min(hits.values()) >= 50, hits
