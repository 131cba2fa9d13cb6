"""The programs on hand-written packets, on all four hooks."""

from __future__ import annotations

import time

import pytest

from bpf.cases import CASES, FRAMES, LARGE, Case
from bpf.comparison import Comparison
from bpf.kernel import Kernel, peer_record
from bpf.packets import (
    ADDRESSES,
    DESTINATION,
    HOOKS,
    NEAR,
    NOP,
    PEERS,
    Packet,
    ethernet,
    extension,
    ipv4,
    ipv6,
    mss,
    smallest_test_run,
    tcp_segment,
)
from bpf.witness import check_rewrite, describe
from mssclamp.datapath import abi
from mssclamp.wire.clamp import Direction, Limits, Reason

pytestmark = pytest.mark.bpf


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(kernel: Kernel, case: Case) -> None:
    comparison = Comparison(kernel)
    for link_header, direction in HOOKS:
        packet, expected = case.packets(link_header=link_header, direction=direction)
        data, reason = comparison.check(packet)
        assert reason is case.reason, describe(packet)
        assert data == expected, describe(packet)
        if reason is Reason.CLAMPED:
            check_rewrite(packet, data)
    comparison.check_counts()


@pytest.mark.parametrize(("data", "reason"), [frame[1:] for frame in FRAMES], ids=[frame[0] for frame in FRAMES])
def test_frame(kernel: Kernel, data: bytes, reason: Reason | None) -> None:
    comparison = Comparison(kernel)
    for direction in Direction:
        packet = Packet(data, True, direction)
        assert comparison.check(packet) == (data, reason), describe(packet)
    comparison.check_counts()


def _full_syns() -> list[bytes]:
    """One SYN of each family with all that can be cut through: options and extension headers, IP's and TCP's."""
    packets = []
    for version in (4, 6):
        source, destination = ADDRESSES["enforced", version], ADDRESSES["carrying", version]
        segment = tcp_segment(source, destination, NOP + mss(LARGE) + mss(LARGE) + 3 * NOP, payload=b"payload")
        if version == 4:
            packets.append(ipv4(source, destination, segment, options=8 * NOP))
        else:
            chain = (extension(DESTINATION, 16), extension(DESTINATION))
            packets.append(ipv6(source, destination, segment, extensions=chain))
    return packets


@pytest.mark.parametrize("syn", _full_syns(), ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("link_header", "direction"), HOOKS)
def test_cut_off_at_every_length(kernel: Kernel, syn: bytes, link_header: bool, direction: Direction) -> None:
    # What is too short for BPF_PROG_TEST_RUN goes through real devices in test_clamp_hooks.py.
    comparison = Comparison(kernel)
    whole = ethernet(syn, int.from_bytes(syn[12:14], "big")) if link_header else syn
    for length in range(smallest_test_run(whole), len(whole)):
        data, reason = comparison.check(Packet(whole[:length], link_header, direction))
        assert data == whole[:length]
        assert reason in (Reason.BAD_IP, Reason.BAD_TCP)
    assert comparison.check(Packet(whole, link_header, direction))[1] is Reason.CLAMPED
    comparison.check_counts()


@pytest.mark.parametrize("syn", _full_syns(), ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("link_header", "direction"), HOOKS)
def test_whatever_follows_is_left_alone(kernel: Kernel, syn: bytes, link_header: bool, direction: Direction) -> None:
    comparison = Comparison(kernel)
    whole = ethernet(syn, int.from_bytes(syn[12:14], "big")) if link_header else syn
    for length in range(1, 80):
        garbage = (mss(9000) * 20)[:length]
        data, reason = comparison.check(Packet(whole + garbage, link_header, direction))
        assert reason is Reason.CLAMPED
        assert data[len(whole) :] == garbage
    comparison.check_counts()


@pytest.mark.parametrize(
    ("seconds", "reason"), [(3600, Reason.CLAMPED), (0.2, Reason.CLAMPED), (-0.001, Reason.WOULD_CLAMP)]
)
def test_a_trial_ends_by_itself(kernel: Kernel, seconds: float, reason: Reason) -> None:
    (index,) = (i for i, peer in enumerate(PEERS) if peer.name == "enforced")
    address = ADDRESSES["enforced", 4]
    syn = ipv4(NEAR[4], address, tcp_segment(NEAR[4], address, mss(LARGE)))
    packet = Packet(syn, False, Direction.EGRESS)

    def becomes() -> Reason:
        before = kernel.counts()
        kernel.run(packet)
        (met,) = kernel.counts() - before
        return met

    limits: Limits = PEERS[index].limits
    until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9)
    kernel.instance.put_peer(index, peer_record(limits, enforce_until=until))
    try:
        assert becomes() is reason
        if 0 < seconds < 1:
            while time.clock_gettime_ns(time.CLOCK_BOOTTIME) < until:
                time.sleep(0.05)
            assert becomes() is Reason.WOULD_CLAMP
    finally:
        kernel.instance.put_peer(index, peer_record(limits))
    assert kernel.instance.peer(index).enforce_until == abi.FOREVER
