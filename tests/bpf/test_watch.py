"""Large packets, and TCP segments that are sent again after a silence: the programs on a device's egress."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest

from bpf.answering import REDIRECT, AnsweringKernel
from bpf.outgoing import INDEX, address_of
from bpf.packets import (
    DESTINATION,
    MORE_FRAGMENTS,
    NEAR,
    NOP,
    TEST_RUN_IFINDEX,
    TIMESTAMPS,
    UDP,
    extension,
    fragment_header,
)
from bpf.records import Records, head
from bpf.watching import AGES, FLOWS, HELD, MILLISECOND, NOT_YET, OTHER, PEER, SILENCE, Flow, Watch
from mssclamp.datapath import abi
from mssclamp.datapath.abi import EventKind
from support import require_bpf

pytestmark = pytest.mark.bpf


@pytest.fixture(scope="module")
def kernel() -> Iterator[AnsweringKernel]:
    require_bpf()
    kernel = AnsweringKernel.load()
    yield kernel
    kernel.close()


@pytest.fixture
def watch(kernel: AnsweringKernel) -> Watch:
    watch = Watch(kernel)
    kernel.configure(large_gap=AGES)
    watch.forget()
    return watch


@pytest.fixture
def records(watch: Watch) -> Iterator[Records]:
    records = Records(watch.instance)
    yield records
    records.close()


# What is large.


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("mtu", "limit"),
    [(576, 504), (577, 505), (900, 788), (1279, 1120), (1280, 1120), (1340, 1173), (1420, 1200), (1500, 1200)],
)
def test_the_limit_follows_the_mtu(watch: Watch, version: int, mtu: int, limit: int) -> None:
    flow = Flow(version, peer=f"unproven {mtu}")
    headers = 40 if version == 4 else 60
    assert abi.large_limit(mtu) == limit
    assert watch.sends(flow.segment(1, limit - headers), flow.peer) == (0, 0)
    assert watch.sends(flow.segment(1, limit + 1 - headers), flow.peer) == (1, 0)


def test_what_goes_on_over_the_mtu_is_large_too(watch: Watch) -> None:
    assert watch.sends(Flow().segment(1, 2000)) == (1, 0)  # nothing proves this peer's MTU
    df_clear = Flow(peer="enforced 1340").segment(1, 2000, fragment=0)
    assert watch.sends(df_clear, "enforced 1340") == (1, 0)


def test_what_is_answered_is_not(watch: Watch) -> None:
    before = watch.counts("enforced 1340")
    assert watch.kernel.run(Flow(peer="enforced 1340").segment(1, 2000))[0] == REDIRECT
    assert watch.counts("enforced 1340") == before
    assert watch.sends(Flow(peer="enforced 1340").segment(1, 1300), "enforced 1340") == (1, 0)


def test_a_super_packet_is_as_large_as_its_segments(watch: Watch) -> None:
    assert watch.sends(Flow().segment(1, 3000, gso_size=1160)) == (0, 0)
    assert watch.sends(Flow().segment(1, 3000, gso_size=1161)) == (1, 0)


def test_udp_is_large_and_never_sent_again(watch: Watch) -> None:
    packet = Flow().segment(1, protocol=UDP)
    assert watch.sends(packet) == (1, 0)
    watch.wait(SILENCE)
    assert watch.sends(packet) == (1, 0)


# What is sent again.


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_sent_again_after_a_silence(watch: Watch, flow: Flow) -> None:
    assert watch.sends(flow.segment(1000)) == (1, 0)
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(1000)) == (1, 1)
    assert watch.sends(flow.segment(1000)) == (1, 0)  # the silence is over
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(1000)) == (1, 1)


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_sent_again_at_once_is_nothing(watch: Watch, flow: Flow) -> None:
    """As after a duplicate acknowledgement, or a tail loss probe: the flow is alive."""
    watch.sends(flow.segment(1000))
    assert watch.sends(flow.segment(1000)) == (1, 0)
    watch.wait(NOT_YET)
    assert watch.sends(flow.segment(1000)) == (1, 0)


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_new_data_after_a_silence_is_nothing(watch: Watch, flow: Flow) -> None:
    watch.sends(flow.segment(1000))
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(2300)) == (1, 0)
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(2299)) == (1, 1)


def test_any_part_below_the_end_counts(watch: Watch) -> None:
    flow = Flow()
    for start in (1000, 2300, 3600):
        watch.sends(flow.segment(start))
    for start in (1000, 2300, 4899):
        watch.wait(SILENCE)
        assert watch.sends(flow.segment(start)) == (1, 1)
    # The last one reached further: the end has moved on, and earlier ones did not move it back.
    assert watch.the_flow()[2] == 4899 + 1300


@pytest.mark.parametrize("end", [2**31, 2**31 + 650, 2**32, 2**32 + 650])
def test_sequence_numbers_wrap(watch: Watch, end: int) -> None:
    flow, start = Flow(), end - 1300
    watch.sends(flow.segment(start))
    assert watch.the_flow()[2] == end % 2**32
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(start)) == (1, 1)
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(end)) == (1, 0)
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(end - 1)) == (1, 1)


@pytest.mark.parametrize("back", [2**30 + 1, 2**31, 2**32 - 2**30])
def test_further_back_than_any_window_is_a_new_connection(watch: Watch, back: int) -> None:
    flow, end = Flow(), 1000 + 1300
    watch.sends(flow.segment(1000))
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(end - back)) == (1, 0)
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(end - back)) == (1, 1)


def test_a_whole_window_back_is_the_same_connection(watch: Watch) -> None:
    watch.sends(Flow().segment(1000))
    watch.wait(SILENCE)
    assert watch.sends(Flow().segment(1000 + 1300 - 2**30)) == (1, 1)


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_the_end_of_a_super_packet_is_that_of_all_its_segments(watch: Watch, flow: Flow) -> None:
    watch.sends(flow.segment(1000, 3600, gso_size=1300, options=NOP * 2 + TIMESTAMPS))
    assert watch.the_flow()[2] == 4600
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(4600)) == (1, 0)
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(3600)) == (1, 1)


def test_options_are_no_data(watch: Watch) -> None:
    watch.sends(Flow().segment(1000, options=NOP * 2 + TIMESTAMPS))
    assert watch.the_flow()[2] == 2300


def test_behind_extension_headers(watch: Watch) -> None:
    packet = Flow(6).segment(1000, extensions=(extension(DESTINATION, 16), fragment_header()))
    watch.sends(packet)
    assert watch.the_flow()[2] == 2300
    watch.wait(SILENCE)
    assert watch.sends(packet) == (1, 1)


def test_later_fragments_have_no_sequence_number(watch: Watch) -> None:
    for packet in (
        Flow(4).segment(1000, fragment=MORE_FRAGMENTS | 100),
        Flow(6).segment(1000, extensions=(fragment_header(100, more=True),)),
    ):
        assert watch.sends(packet) == (1, 0)
        watch.wait(SILENCE)
        assert watch.sends(packet) == (1, 0)


def test_small_segments_are_not_the_watchs_business(watch: Watch) -> None:
    """They do not move the end, and do not end the silence: they pass a path that large ones do not."""
    flow = Flow()
    watch.sends(flow.segment(1000))
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(2300, 100)) == (0, 0)
    assert watch.sends(flow.segment(1000, 100)) == (0, 0)
    assert watch.the_flow()[2] == 2300
    assert watch.sends(flow.segment(1000)) == (1, 1)


def test_a_header_that_lies_about_its_length(watch: Watch) -> None:
    for offset in (0, 4):
        packet = Flow().segment(1000)
        at = 14 + 20 + 12
        assert watch.sends(packet._replace(data=packet.data[:at] + bytes((offset << 4,)) + packet.data[at + 1 :]))[0]
    packet = Flow().segment(1000, 1170, gso_size=1200)  # and one whose segments would be larger than itself
    assert watch.sends(packet) == (1, 0)


# Flows.


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_each_flow_has_its_own_memory(watch: Watch, flow: Flow) -> None:
    others = [
        Flow(flow.version, flow.link_header, port=40001),
        Flow(flow.version, flow.link_header, source=NEAR[flow.version][:-1] + b"\x08"),
        Flow(flow.version, flow.link_header, peer=OTHER),
    ]
    watch.sends(flow.segment(1000))
    watch.wait(SILENCE)
    for other in others:
        assert watch.sends(other.segment(1000), other.peer) == (1, 0)
    assert watch.sends(flow.segment(1000)) == (1, 1)


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_both_directions_have_one_place(watch: Watch, flow: Flow) -> None:
    """Between two peers of one device both pass the same hook. Their sequence numbers have nothing in common."""
    flow = Flow(flow.version, flow.link_header, source=address_of(OTHER, flow.version))
    watch.sends(flow.segment(1000))
    place, tag, end = watch.the_flow()
    assert watch.sends(flow.segment(9000, back=True), OTHER) == (1, 0)
    assert watch.the_flow() == (place, tag, end)
    watch.wait(HELD)
    watch.sends(flow.segment(9000, back=True), OTHER)
    assert watch.the_flow() == (place, tag ^ 1, 9000 + 1300)


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_a_place_is_its_owners_until_that_is_silent(watch: Watch, flow: Flow) -> None:
    watch.sends(flow.segment(1000))
    place, tag, end = watch.the_flow()
    stranger = (tag ^ 4, 77)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    watch.put(place, *stranger, now - (HELD - 500) * MILLISECOND)
    assert watch.sends(flow.segment(1000)) == (1, 0)
    assert watch.the_flow() == (place, *stranger)
    watch.put(place, *stranger, now - HELD * MILLISECOND)
    assert watch.sends(flow.segment(1000)) == (1, 0)
    assert watch.the_flow() == (place, tag, end)
    watch.wait(SILENCE)
    assert watch.sends(flow.segment(1000)) == (1, 1)


def test_the_clock_of_another_cpu_may_be_ahead(watch: Watch) -> None:
    watch.sends(Flow().segment(1000))
    watch.wait(-20)
    assert watch.sends(Flow().segment(1000)) == (1, 0)


def test_flows_spread(watch: Watch) -> None:
    """Among 8192 places 500 flows leave few to share one."""
    before = watch.counts(PEER)
    for _ in range(2):
        for port in range(500):
            watch.sends(Flow(port=1024 + port).segment(1000))
        watch.wait(SILENCE)
    large, resent = watch.counts(PEER)
    assert large - before[0] == 1000
    assert resent - before[1] >= 450


# Events.


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_a_segment_sent_again_is_told_with_its_head(watch: Watch, records: Records, flow: Flow) -> None:
    packet = flow.segment(1000, 3600, gso_size=1300)
    watch.sends(packet)
    records.settled()
    watch.wait(SILENCE)
    (event,) = records.after(lambda: watch.sends(packet))
    headers = packet.datagram.index(b"\x9c\x40\x01\xbb") + 20
    assert (event.kind, event.peer, event.ifindex) == (EventKind.RESENT, INDEX[PEER], TEST_RUN_IFINDEX)
    assert (event.size, event.mtu, event.family) == (headers + 1300, 1420, flow.version)
    assert (event.link, event.flags) == (14 if flow.link_header else 0, 0)
    assert head(event) == packet.data[:96]


def test_the_first_large_packet_is_told_at_once_and_then_now_and_then(watch: Watch, records: Records) -> None:
    flow = Flow()

    def told(times: int) -> list[abi.Event]:
        def send() -> None:
            for number in range(times):
                watch.sends(flow.segment(1000 + 1300 * number))

        return records.after(send, EventKind.LARGE)

    watch.kernel.configure(large_gap=AGES)
    (event,) = told(5)
    assert (event.peer, event.size, event.mtu, event.family) == (INDEX[PEER], 1340, 1420, 4)
    assert head(event) == flow.segment(1000).data[:96]
    assert told(5) == []
    assert len(records.after(lambda: watch.sends(Flow(peer=OTHER).segment(1), OTHER), EventKind.LARGE)) == 1
    watch.kernel.configure(large_gap=10**9)
    assert len(told(5)) == 1
    time.sleep(1.01)
    assert len(told(5)) == 1
    assert records.after(lambda: watch.sends(flow.segment(1, 100))) == []


def test_so_many_segments_sent_again_are_told_a_second(watch: Watch, records: Records) -> None:
    flows = [Flow(port=2000 + number) for number in range(300)]
    for flow in flows:
        watch.sends(flow.segment(1000))
    before = watch.counts(PEER)[1]
    watch.wait(SILENCE)
    began = time.monotonic()
    told = records.after(lambda: [watch.sends(flow.segment(1000)) for flow in flows], EventKind.RESENT)
    if time.monotonic() - began < 1:  # or a new second has begun, on a machine as slow as that
        assert len(told) == 100
    assert watch.counts(PEER)[1] - before >= 250  # all of them are counted


def test_all_peers_together_have_a_limit_too(watch: Watch, records: Records) -> None:
    """Here it is nearly used up: window of clampd_told, began and count."""
    watch.sends(Flow().segment(1000))
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    told = watch.instance.maps["clampd_told"]
    told.put(struct.pack("=I", EventKind.RESENT), struct.pack("=QII", now + 10**9, 1000, 0))
    watch.wait(SILENCE)
    assert records.after(lambda: watch.sends(Flow().segment(1000)), EventKind.RESENT) == []
    told.put(struct.pack("=I", EventKind.RESENT), struct.pack("=QII", now + 10**9, 999, 0))
    watch.wait(SILENCE)
    assert len(records.after(lambda: watch.sends(Flow().segment(1000)), EventKind.RESENT)) == 1


def test_oversize_packets_are_told_with_their_head(watch: Watch, records: Records) -> None:
    packet = Flow(peer="enforced 1340").segment(1, 2000, fragment=0)
    (event,) = records.after(lambda: watch.sends(packet, "enforced 1340"), EventKind.OVERSIZE_DF_CLEAR)
    assert (event.link, event.flags, bytes(event.reserved)) == (14, 0, bytes(3))
    assert head(event) == packet.data[:96]
