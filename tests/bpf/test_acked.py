"""While a peer's value is in doubt: large TCP segments that arrived there, as their acknowledgements show."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bpf.answering import AnsweringKernel
from bpf.outgoing import INDEX, PEERS, address_of
from bpf.packets import UDP
from bpf.watching import FLOWS, MILLISECOND, OTHER, PEER, SILENCE, Flow, Watch
from mssclamp.datapath import abi
from support import require_bpf

pytestmark = pytest.mark.bpf

SMALLEST = min(abi.large_limit(peer.towards.mtu) for peer in PEERS)


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Doubt(Watch):
    """The programs while there are peers in doubt."""

    def suspects(self, count: int) -> None:
        """How many there are."""
        self.instance.put_config(abi.Config(0, 0, 0, SMALLEST, 0, 0, count, 0, abi.FOREVER))

    def acked(self, peer: str = PEER) -> int:
        """Size of the largest segment that arrived."""
        return self.instance.acked(INDEX[peer]).size

    def acknowledges(self, flow: Flow, number: int, payload: int = 0) -> int:
        """Lets the peer acknowledge all below `number`; what has arrived then."""
        self.receives(flow.segment(5000, payload, back=True, acknowledged=number))
        return self.acked(flow.peer)


@pytest.fixture(scope="module")
def kernel() -> Iterator[AnsweringKernel]:
    require_bpf()
    kernel = AnsweringKernel.load()
    yield kernel
    kernel.close()


@pytest.fixture
def doubt(kernel: AnsweringKernel) -> Doubt:
    doubt = Doubt(kernel)
    doubt.forget()
    doubt.suspects(1)
    for peer in (PEER, OTHER):
        doubt.instance.suspect(INDEX[peer], now() - 10**9)
    return doubt


def headers(flow: Flow) -> int:
    """Bytes of IP and TCP headers."""
    return (40 if flow.link_header else 44) if flow.version == 4 else 60


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_a_segment_whose_end_is_acknowledged_has_arrived(doubt: Doubt, flow: Flow) -> None:
    doubt.sends(flow.segment(1000))
    assert doubt.acknowledges(flow, 2299) == 0
    before = now() - 10 * MILLISECOND
    assert doubt.acknowledges(flow, 2300) == 1300 + headers(flow)
    assert before <= doubt.instance.acked(INDEX[PEER]).at <= now()


def test_with_data_of_the_other_direction(doubt: Doubt) -> None:
    doubt.sends(Flow().segment(1000))
    assert doubt.acknowledges(Flow(), 2300, payload=600) == 1340


def test_sequence_numbers_wrap(doubt: Doubt) -> None:
    doubt.sends(Flow().segment(2**32 - 300))
    assert doubt.acknowledges(Flow(), 2**32 - 300) == 0
    assert doubt.acknowledges(Flow(), 1000) == 1340


def test_the_largest_is_kept(doubt: Doubt) -> None:
    for start, payload, largest in ((1000, 1300, 1340), (2300, 1360, 1400), (3660, 1200, 1400)):
        doubt.sends(Flow().segment(start, payload))
        assert doubt.acknowledges(Flow(), start + payload) == largest


def test_a_super_packet_counts_by_its_segments(doubt: Doubt) -> None:
    doubt.sends(Flow().segment(1000, 3600, gso_size=1300))
    assert doubt.acknowledges(Flow(), 3600) == 0
    assert doubt.acknowledges(Flow(), 4600) == 1340


@pytest.mark.parametrize("size", [100, 700, 1160])
def test_what_small_segments_carried_again_says_nothing(doubt: Doubt, size: int) -> None:
    """As a sender does that has lowered its segment size by itself: the large one may be lost all the same."""
    doubt.sends(Flow().segment(1000))
    doubt.wait(SILENCE)
    assert doubt.sends(Flow().segment(1000, size)) == (0, 0)
    assert doubt.acknowledges(Flow(), 2300) == 0
    doubt.sends(Flow().segment(2300))  # new data is carried by large ones alone
    assert doubt.acknowledges(Flow(), 3600) == 1340


def test_small_segments_of_new_data_do_no_harm(doubt: Doubt) -> None:
    doubt.sends(Flow().segment(1000))
    doubt.sends(Flow().segment(2300, 100))
    doubt.sends(Flow().segment(1000, 0))  # an acknowledgement of our own, or a keep-alive without data
    assert doubt.acknowledges(Flow(), 2400) == 1340


def test_a_header_that_lies_about_its_length_does_no_harm(doubt: Doubt) -> None:
    doubt.sends(Flow().segment(1000))
    packet = Flow().segment(1100, 0)
    at = 14 + 20 + 12
    doubt.sends(packet._replace(data=packet.data[:at] + b"\xf0" + packet.data[at + 1 :]))
    assert doubt.acknowledges(Flow(), 2300) == 1340


def test_sent_again_in_smaller_large_ones(doubt: Doubt) -> None:
    doubt.sends(Flow().segment(1000, 1380))
    doubt.sends(Flow().segment(1000, 1200))
    doubt.sends(Flow().segment(2200, 1380))
    assert doubt.acknowledges(Flow(), 3580) == 1240


def test_only_what_was_sent_since(doubt: Doubt) -> None:
    doubt.sends(Flow().segment(1000))
    doubt.instance.suspect(INDEX[PEER], now() + 20 * MILLISECOND)
    assert doubt.acknowledges(Flow(), 2300) == 0
    time.sleep(0.05)
    doubt.sends(Flow().segment(2300))
    assert doubt.acknowledges(Flow(), 3600) == 1340


def test_not_of_peers_that_are_not_in_doubt(doubt: Doubt) -> None:
    doubt.instance.suspect(INDEX[PEER], 0)
    for peer, size in ((PEER, 0), (OTHER, 1340)):
        flow = Flow(peer=peer)
        doubt.sends(flow.segment(1000), peer)
        assert doubt.acknowledges(flow, 2300) == size


def test_nothing_while_there_are_no_suspects(doubt: Doubt) -> None:
    doubt.suspects(0)
    doubt.sends(Flow().segment(1000))
    assert doubt.acknowledges(Flow(), 2300) == 0
    doubt.suspects(1)
    assert doubt.acknowledges(Flow(), 2300) == 1340


def test_other_packets_acknowledge_nothing(doubt: Doubt) -> None:
    flow = Flow()
    doubt.sends(flow.segment(1000))
    for packet in (
        Flow(port=40001).segment(5000, 0, back=True, acknowledged=2300),
        flow.segment(5000, 0, back=True, acknowledged=2300, protocol=UDP),
        flow.segment(5000, 0, back=True, acknowledged=2300, fragment=100),
        flow.segment(5000, 0, acknowledged=2300),  # our own, come back
    ):
        doubt.receives(packet)
        assert doubt.acked() == 0
    # Another connection that has the same ports: its numbers are elsewhere.
    assert doubt.acknowledges(flow, 2300 + 2**30) == 0
    assert doubt.acknowledges(flow, 2300 + 2**30 - 1) == 1340


def test_small_packets_stay_small(doubt: Doubt) -> None:
    """They are looked at now, but neither counted nor told."""
    assert doubt.sends(Flow().segment(1000, 100)) == (0, 0)
    assert doubt.sends(Flow(source=address_of(OTHER, 4)).segment(1000, 0)) == (0, 0)


def test_doubt_begins_anew(doubt: Doubt) -> None:
    doubt.sends(Flow().segment(1000))
    assert doubt.acknowledges(Flow(), 2300) == 1340
    doubt.instance.suspect(INDEX[PEER], now())
    acked = doubt.instance.acked(INDEX[PEER])
    assert (acked.size, acked.at) == (0, 0)
