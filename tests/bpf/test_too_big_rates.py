"""How often the programs answer, and what they tell the agent of it through the ring buffer."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from bpf.answering import REDIRECT, AnsweringKernel
from bpf.kernel import UNSPEC
from bpf.outgoing import INDEX, Outgoing, address_of
from bpf.packets import DONT_FRAGMENT, IPV4, IPV6, NEAR, TEST_RUN_IFINDEX, UDP, ethernet, ipv4, ipv6
from bpf.records import Records
from mssclamp.datapath.abi import EventKind
from support import require_bpf

pytestmark = pytest.mark.bpf

SECOND = 10**9
PEER = "enforced 1340"


@pytest.fixture(scope="module")
def programs() -> Iterator[AnsweringKernel]:
    """Programs of this file's own: nothing in their ring buffer but what is put there here."""
    require_bpf()
    kernel = AnsweringKernel.load()
    yield kernel
    kernel.close()


@pytest.fixture
def limited(programs: AnsweringKernel) -> AnsweringKernel:
    """The programs, having answered nobody."""
    programs.configure()
    return programs


def _packet(
    *, sender: int = 1, port: int = 1, peer: str = PEER, version: int = 4, size: int = 1341, df: bool = True
) -> Outgoing:
    source = NEAR[version][:-1] + bytes((sender,))
    payload = struct.pack("!HHHH", 1024 + port, 443, 0, 0) + bytes(size - (28 if version == 4 else 48))
    destination = address_of(peer, version)
    if version == 4:
        fragment = DONT_FRAGMENT if df else 0
        return Outgoing(ethernet(ipv4(source, destination, payload, protocol=UDP, fragment=fragment), IPV4), True)
    return Outgoing(ethernet(ipv6(source, destination, payload, protocol=UDP), IPV6), True)


def _answered(kernel: AnsweringKernel, packet: Outgoing, peer: str = PEER) -> bool:
    """Whether the packet got its answer; if not, that it was suppressed and went on as it was. And nothing else."""
    before = kernel.counters(INDEX[peer])
    verdict, data, skb = kernel.run(packet)
    moved = kernel.counters(INDEX[peer]) - before
    moved.pop("largest", None)
    if verdict == REDIRECT:
        assert moved == Counter(oversize=1, too_big_sent=1)
        return True
    assert (verdict, data, skb.mark) == (UNSPEC, packet.data, packet.mark)
    assert moved == Counter(oversize=1, suppressed=1)
    return False


# Limits.


@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_hears_once_in_a_gap(limited: AnsweringKernel, version: int) -> None:
    limited.configure(flow_gap=SECOND // 5)
    packet = _packet(version=version)
    assert _answered(limited, packet)
    assert not any(_answered(limited, packet) for _ in range(5))
    time.sleep(0.25)
    assert _answered(limited, packet)
    assert not _answered(limited, packet)


def test_flows_do_not_wait_for_one_another(limited: AnsweringKernel) -> None:
    limited.configure(flow_gap=3600 * SECOND)
    # By the kernel's secret hash a few of them may share a place.
    assert sum(_answered(limited, _packet(port=port)) for port in range(100)) >= 95
    assert sum(_answered(limited, _packet(port=port)) for port in range(100)) == 0


@pytest.mark.parametrize("version", [4, 6])
def test_a_sender_hears_so_often_a_second(limited: AnsweringKernel, version: int) -> None:
    limited.configure(per_sender=5)
    began = time.monotonic()
    first = [_answered(limited, _packet(port=port, version=version)) for port in range(9)]
    other = [_answered(limited, _packet(sender=2, port=port, version=version)) for port in range(9)]
    assert time.monotonic() - began < 1  # or a new second has begun, on a machine as slow as that
    assert first == other == 5 * [True] + 4 * [False]
    time.sleep(1.01)
    assert _answered(limited, _packet(version=version))


def test_a_sender_is_one_to_all_peers(limited: AnsweringKernel) -> None:
    limited.configure(per_sender=1)
    assert _answered(limited, _packet())
    assert not _answered(limited, _packet(peer="enforced 1280"), "enforced 1280")


def test_senders_do_not_share(limited: AnsweringKernel) -> None:
    """The hosts of one network each have a place, or nearly."""
    limited.configure(per_sender=1)
    for version in (4, 6):
        assert sum(_answered(limited, _packet(sender=host, version=version)) for host in range(1, 101)) >= 80


@pytest.mark.parametrize("version", [4, 6])
def test_a_peer_is_answered_for_so_often_a_second(limited: AnsweringKernel, version: int) -> None:
    limited.configure(per_peer=5)
    began = time.monotonic()
    first = [_answered(limited, _packet(sender=host, version=version)) for host in range(9)]
    other = [_answered(limited, _packet(peer="enforced 1280", size=1500), "enforced 1280") for _ in range(9)]
    assert time.monotonic() - began < 1
    assert first == other == 5 * [True] + 4 * [False]
    time.sleep(1.01)
    assert _answered(limited, _packet(version=version))


def test_observing_keeps_to_the_limits_too(limited: AnsweringKernel) -> None:
    limited.configure(per_peer=2)
    before = limited.counters(INDEX["observed 1340"])
    for _ in range(5):
        assert limited.run(_packet(peer="observed 1340"))[0] == UNSPEC
    moved = limited.counters(INDEX["observed 1340"]) - before
    assert (moved["oversize"], moved["would_answer"], moved["suppressed"]) == (5, 2, 3)


def test_what_may_not_be_answered_costs_no_share(limited: AnsweringKernel) -> None:
    limited.configure(per_sender=1, per_peer=1, flow_gap=3600 * SECOND)
    limited.run(_packet(df=False))
    whole = _packet()
    limited.run(whole._replace(data=b"\xff" * 6 + whole.data[6:]))  # a broadcast frame
    limited.run(_packet(size=1340))
    assert _answered(limited, whole)


# Events.


Told = tuple[EventKind, str, int, int, int]


def _told(records: Records) -> list[Told]:
    """(kind, peer, size, MTU, family) of what is about oversize packets (test_watch.py has the others)."""
    names = {index: name for name, index in INDEX.items()}
    events = records.settled(EventKind.OVERSIZE, EventKind.OVERSIZE_DF_CLEAR, EventKind.SUPPRESSED)
    assert all(event.ifindex == TEST_RUN_IFINDEX for event in events)
    return [(EventKind(e.kind), names[e.peer], e.size, e.mtu, e.family) for e in events]


@pytest.fixture
def events(limited: AnsweringKernel) -> Iterator[Records]:
    events = Records(limited.instance)
    yield events
    events.close()


def test_the_first_of_a_burst_is_told(limited: AnsweringKernel, events: Records) -> None:
    for size in (1350, 1341, 1360):
        limited.run(_packet(size=size))
    limited.run(_packet(version=6))
    limited.run(_packet(size=1340))
    assert _told(events) == [(EventKind.OVERSIZE, PEER, 1350, 1340, 4)]
    # A burst lasts until there has been none for a second: a packet inside it keeps it going.
    began = time.monotonic()
    while time.monotonic() - began < 1.3:
        limited.run(_packet())
        time.sleep(0.1)
    assert _told(events) == []
    time.sleep(1.01)
    limited.run(_packet(version=6, size=1342))
    assert _told(events) == [(EventKind.OVERSIZE, PEER, 1342, 1340, 6)]


def test_each_kind_and_peer_has_its_bursts(limited: AnsweringKernel, events: Records) -> None:
    limited.configure(per_peer=1)
    for _ in range(3):
        limited.run(_packet(df=False))
        limited.run(_packet())
        limited.run(_packet(peer="unproven 1340"))
        limited.run(_packet(peer="observed 576", version=6))
    assert Counter(_told(events)) == Counter(
        [
            (EventKind.OVERSIZE_DF_CLEAR, PEER, 1341, 1340, 4),
            (EventKind.OVERSIZE, PEER, 1341, 1340, 4),
            (EventKind.SUPPRESSED, PEER, 1341, 1340, 4),
            (EventKind.OVERSIZE, "unproven 1340", 1341, 1340, 4),
            (EventKind.OVERSIZE, "observed 576", 1341, 1280, 6),
            (EventKind.SUPPRESSED, "observed 576", 1341, 1280, 6),
        ]
    )


def test_a_super_packet_is_told_by_its_segments(limited: AnsweringKernel, events: Records) -> None:
    limited.run(_packet(size=3600)._replace(gso_size=1400, gso_segs=3))
    assert _told(events) == [(EventKind.OVERSIZE, PEER, 1428, 1340, 4)]
