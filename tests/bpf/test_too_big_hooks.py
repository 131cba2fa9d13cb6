"""Answers on real devices: bare IPv4 without options, forbidden sources on bare IP, and packets that are not finished.

Those are super-packets, and packets whose checksum is left to the hardware; they leave a host like that.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bpf.answer_witness import check_answer
from bpf.answering_device import GSO_TCP4, GSO_TCP6, GSO_UDP, AnsweringDevice, answering_device
from bpf.outgoing import INDEX, Outgoing, towards
from bpf.outgoing_cases import CASES, TCP_HEADER, TCP_TIMESTAMPS, UDP_HEADER, Case
from bpf.packets import DESTINATION, ETHERNET, IPV4, IPV6, TCP, UDP, extension
from mssclamp.wire import too_big
from mssclamp.wire.too_big import Outcome
from support import require_bpf, require_file, require_netns

pytestmark = [pytest.mark.bpf, pytest.mark.netns]


@pytest.fixture(scope="module", params=[True, False], ids=["link header", "bare IP"])
def device(request: pytest.FixtureRequest) -> Iterator[AnsweringDevice]:
    require_bpf()
    require_netns()
    require_file("/dev/net/tun")
    with answering_device(link_header=request.param) as device:
        yield device


def _ethertype(case: Case) -> int:
    return IPV4 if case.version == 4 else IPV6


def test_cases(device: AnsweringDevice) -> None:
    met = set()
    for case in CASES:
        if case.gso_size or case.to or case.ethertype:
            continue  # super-packets: below; and a packet socket has no say in what kind of frame it is
        packet = case.packet(link_header=device.link_header, test_run=False)
        device.send(packet, _ethertype(case))
        if case.outcome is not Outcome.ANSWERED:
            assert device.left() == packet.data, f"{case}: {packet}"
            continue
        ethertype = _ethertype(case)
        judgement = too_big.judge(packet.data, ethertype, device.link_header, towards)
        assert (judgement.outcome, judgement.size) == (case.outcome, case.size)
        answer = device.answer()
        assert answer == too_big.answer(too_big.order(packet.data, ethertype, device.link_header, 1, judgement)), (
            f"{case}: {packet}"
        )
        met.add((case.version, case.protocol))
    assert {(4, TCP), (6, TCP), (4, UDP), (6, UDP)} < met


@pytest.mark.parametrize("super_packet", [False, True], ids=["packet", "super-packet"])
@pytest.mark.parametrize(
    ("name", "version"),
    [
        *((name, version) for name in ("TCP", "TCP with timestamps", "UDP") for version in (4, 6)),
        ("TCP behind extension headers", 6),
    ],
)
def test_a_packet_that_the_hardware_was_to_finish(
    device: AnsweringDevice, name: str, version: int, super_packet: bool
) -> None:
    """The pair's transmit side does that: a checksum still open when the answer comes in would spoil the quote."""
    header = {"UDP": UDP_HEADER, "TCP with timestamps": TCP_TIMESTAMPS}.get(name, TCP_HEADER)
    protocol, field = (UDP, 6) if name == "UDP" else (TCP, 16)
    extensions = (extension(DESTINATION, 16),) if "extension" in name else ()
    headers = (20 if version == 4 else 40) + 16 * len(extensions)
    gso_type = (GSO_UDP if protocol == UDP else GSO_TCP4 if version == 4 else GSO_TCP6) if super_packet else 0
    gso_size = 1341 - headers - len(header) if super_packet else 0
    case = Case(
        name,
        version,
        Outcome.ANSWERED,
        3600 if super_packet else 1341,
        protocol=protocol,
        header=header,
        extensions=extensions,
        gso_size=gso_size,
    )
    packet = case.packet(link_header=device.link_header, test_run=False)
    if protocol == UDP:
        packet = _with_udp_length(packet, headers)
    start = headers + (ETHERNET if device.link_header else 0)
    before = device.kernel.counters(INDEX[case.peer])
    device.send(packet, _ethertype(case), gso_type=gso_type, checksum=(start, field))
    answer = device.answer()
    assert answer is not None
    moved = device.kernel.counters(INDEX[case.peer]) - before
    assert (moved["oversize"], moved["too_big_sent"]) == (1, 1)
    # The pair has filled in the quoted transport checksum, over what is left of the packet. Nobody looks at that.
    at = start + field
    quoted = ETHERNET + (28 if version == 4 else 48) + headers + field
    finished = packet.data[:at] + answer[quoted : quoted + 2] + packet.data[at + 2 :]
    check_answer(Outgoing(finished, packet.link_header), 1341, 1340, answer)

    # One byte less a segment, and all of it leaves, cut by the kernel.
    if super_packet:
        device.send(
            packet._replace(gso_size=gso_size - 1), _ethertype(case), gso_type=gso_type, checksum=(start, field)
        )
        sizes = [len(device.left() or b"") - (ETHERNET if device.link_header else 0) for _ in range(3)]
        assert sizes[:2] == [1340, 1340]
        assert 0 < sizes[2] < 1340


@pytest.mark.parametrize("head", [96, 256])
@pytest.mark.parametrize("version", [4, 6])
def test_an_order_of_the_agent(device: AnsweringDevice, version: int, head: int) -> None:
    """One about a packet long gone, of which the first bytes are left: for a flow that waits to send it again."""
    case = Case("TCP", version, Outcome.ANSWERED, 1341, protocol=TCP, header=TCP_TIMESTAMPS)
    packet = case.packet(link_header=device.link_header, test_run=False)
    judgement = too_big.Judgement(Outcome.ANSWERED, 1341, 1300)
    link = ETHERNET if device.link_header else 0
    order = too_big.order(packet.data[:head], _ethertype(case), device.link_header, device.index, judgement)
    order = order.ljust(too_big.ORDER.size + link + too_big.QUOTE, b"\0")
    device.order(order)
    answer = device.answer()
    assert answer == too_big.answer(order)
    shown = packet._replace(data=packet.data[:head].ljust(link + too_big.QUOTE, b"\0"))
    check_answer(shown, 1341, 1300, answer)


def test_what_is_no_order_makes_no_answer(device: AnsweringDevice) -> None:
    case = Case("TCP", 4, Outcome.ANSWERED, 1341, protocol=TCP, header=TCP_TIMESTAMPS)
    packet = case.packet(link_header=device.link_header, test_run=False)
    judgement = too_big.Judgement(Outcome.ANSWERED, 1341, 1300)
    order = too_big.order(packet.data, IPV4, device.link_header, device.index, judgement)
    for frame in (
        order[:-1],
        order[:8] + b"\1\0" + order[10:],
        order[:10] + b"\0\0" + order[12:],
    ):
        device.order(frame)
    device.order(order)
    assert device.answer() == too_big.answer(order)  # the first that comes is the last one's


def _with_udp_length(packet: Outgoing, headers: int) -> Outgoing:
    at = headers + (ETHERNET if packet.link_header else 0) + 4
    length = len(packet.data) - at + 4
    return packet._replace(data=packet.data[:at] + length.to_bytes(2, "big") + packet.data[at + 2 :])
