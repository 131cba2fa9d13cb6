"""The programs that answer oversize packets, on hand-written ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from bpf.answer_witness import check_answer
from bpf.answering import REDIRECT, SHOT, AnsweringKernel, Comparison, peer_record
from bpf.kernel import UNSPEC
from bpf.outgoing import INDEX, PEERS, Outgoing, address_of
from bpf.outgoing_cases import CASES, Case
from bpf.packets import ARP, IPV4, NEAR, SYN, ethernet, ipv4, mss, smallest_test_run, tcp_segment
from mssclamp.datapath import abi
from mssclamp.wire import too_big
from mssclamp.wire.too_big import Outcome

pytestmark = pytest.mark.bpf

ENFORCED = INDEX["enforced 1340"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(answering: AnsweringKernel, case: Case) -> None:
    comparison = Comparison(answering)
    for link_header in case.link_headers:
        packet = case.packet(link_header=link_header)
        judgement, answer = comparison.check(packet)
        assert judgement.outcome is case.outcome, packet
        if judgement.size:
            assert judgement.size == case.size_on_wire(link_header=link_header), packet
        if answer is not None:
            check_answer(packet, judgement.size, judgement.mtu, answer)
    comparison.check_counts()


def _oversize(version: int = 4, *, link_header: bool = True) -> Outgoing:
    return next(
        case.packet(link_header=link_header) for case in CASES if (case.version, case.description) == (version, "TCP")
    )


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("link_header", [True, False])
def test_cut_off_at_every_length(answering: AnsweringKernel, version: int, link_header: bool) -> None:
    comparison = Comparison(answering)
    whole = _oversize(version, link_header=link_header)
    for length in range(smallest_test_run(whole.data), len(whole.data)):
        judgement, _ = comparison.check(whole._replace(data=whole.data[:length]))
        assert judgement.outcome is Outcome.FITS
    assert comparison.check(whole)[0].outcome is Outcome.ANSWERED
    comparison.check_counts()


@pytest.mark.parametrize("version", [4, 6])
def test_what_follows_counts(answering: AnsweringKernel, version: int) -> None:
    comparison = Comparison(answering)
    whole = _oversize(version)
    for length in range(1, 64):
        longer = whole._replace(data=whole.data + bytes(length))
        assert comparison.check(longer)[0].size == 1341 + length
    comparison.check_counts()


# What the maps say.


def test_without_a_builder_nobody_is_answered(answering: AnsweringKernel) -> None:
    packet = _oversize()
    before = answering.counters(ENFORCED)
    answering.configure(builder=0)
    try:
        verdict, data, skb = answering.run(packet)
    finally:
        answering.configure()
    assert (verdict, data, skb.mark) == (UNSPEC, packet.data, packet.mark)
    assert answering.counters(ENFORCED) - before == Counter(oversize=1, unanswerable=1)


def test_small_packets_are_not_looked_at(answering: AnsweringKernel) -> None:
    """The agent sets the bound to the least MTU that it answers for: here, on purpose, it is set too high."""
    packet = _oversize()
    before = answering.counters(ENFORCED)
    config = abi.Config(77, 2**32 - 1, 2**32 - 1, len(packet.datagram), 0)
    answering.instance.put_config(config)
    try:
        assert answering.run(packet)[:2] == (UNSPEC, packet.data)
        assert answering.counters(ENFORCED) == before
        config.small_packet -= 1
        answering.instance.put_config(config)
        assert answering.run(packet)[0] == REDIRECT
    finally:
        answering.configure()


@pytest.fixture
def enforced(answering: AnsweringKernel) -> Iterator[AnsweringKernel]:
    """The programs; what a test puts in force for one peer is undone."""
    yield answering
    answering.instance.put_peer(ENFORCED, peer_record(PEERS[ENFORCED].towards))


def test_a_peer_without_a_value_is_no_peer(enforced: AnsweringKernel) -> None:
    before = enforced.counters(ENFORCED)
    enforced.instance.put_peer(ENFORCED, abi.Peer())
    assert enforced.run(_oversize())[0] == UNSPEC
    assert enforced.counters(ENFORCED) == before


def test_a_trial_ends_by_itself(enforced: AnsweringKernel) -> None:
    towards, packet = PEERS[ENFORCED].towards, _oversize()
    before = enforced.counters(ENFORCED)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    enforced.instance.put_peer(ENFORCED, peer_record(towards, enforce_until=now + 3600 * 10**9))
    assert enforced.run(packet)[0] == REDIRECT
    enforced.instance.put_peer(ENFORCED, peer_record(towards, enforce_until=now))
    assert enforced.run(packet)[0] == UNSPEC
    assert enforced.counters(ENFORCED) - before == Counter(oversize=2, too_big_sent=1, would_answer=1)


def test_an_oversize_syn_is_answered_and_a_smaller_one_clamped(enforced: AnsweringKernel) -> None:
    towards = PEERS[ENFORCED].towards
    enforced.instance.put_peer(ENFORCED, peer_record(towards, clamp=True))
    source, destination = NEAR[4], address_of("enforced 1340", 4)

    def syn(value: int, payload: int) -> bytes:
        segment = tcp_segment(source, destination, mss(value), flags=SYN, payload=bytes(payload))
        return ethernet(ipv4(source, destination, segment), IPV4)

    largest = 1340 - 44
    verdict, data, _ = enforced.run(Outgoing(syn(1460, largest), link_header=True))
    assert (verdict, data) == (UNSPEC, syn(1300, largest))
    verdict, data, _ = enforced.run(Outgoing(syn(1460, largest + 1), link_header=True))
    assert (verdict, len(data)) == (REDIRECT, too_big.ORDER.size + 14 + too_big.QUOTE)
    assert syn(1460, largest + 1).startswith(data[too_big.ORDER.size :])


# The private pair's other end.


def _order(version: int, *, link_header: bool) -> bytes:
    packet = _oversize(version, link_header=link_header)
    judgement = too_big.Judgement(Outcome.ANSWERED, 1341, 1340)
    return too_big.order(packet.data, packet.ethertype, link_header, 1, judgement)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("link_header", [True, False])
def test_orders_that_are_none(answering: AnsweringKernel, version: int, link_header: bool) -> None:
    order = _order(version, link_header=link_header)
    assert answering.build(order) == (REDIRECT, too_big.answer(order))
    refused = {
        "magic": order[:10] + bytes((order[10] ^ 1,)) + order[11:],
        "link header": order[:8] + b"\4\0" + order[10:],
        "another protocol": order[:12] + ARP.to_bytes(2, "big") + order[14:],
    }
    for why, frame in refused.items():
        assert too_big.answer(frame) is None, why
        assert answering.build(frame)[0] == SHOT, why


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("link_header", [True, False])
def test_orders_cut_off_at_every_length(answering: AnsweringKernel, version: int, link_header: bool) -> None:
    order = _order(version, link_header=link_header)
    for length in range(smallest_test_run(order), len(order)):
        assert too_big.answer(order[:length]) is None
        assert answering.build(order[:length])[0] == SHOT, length


@pytest.mark.parametrize("mtu", [576, 1280, 1340, 0x0102, 65535])
@pytest.mark.parametrize("size", [577, 1281, 0x0102, 65535])
def test_orders_of_every_size(answering: AnsweringKernel, mtu: int, size: int) -> None:
    """Both bytes of each number, at its place."""
    for version in (4, 6):
        packet = _oversize(version)
        judgement = too_big.Judgement(Outcome.ANSWERED, size, mtu)
        order = too_big.order(packet.data, packet.ethertype, True, 1, judgement)
        verdict, answer = answering.build(order)
        assert (verdict, answer) == (REDIRECT, too_big.answer(order))
        if size > mtu and (version == 4 or mtu >= 1280):
            check_answer(packet, size, mtu, answer)
