"""The programs on the hooks of real devices, with packets that BPF_PROG_TEST_RUN refuses or cannot make.

Those are packets too short for an IP header; packets of which the kernel holds less than the headers in one piece;
and packets whose checksum is left to the hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from bpf.cases import CASES, LARGE
from bpf.comparison import Comparison
from bpf.generator import generate
from bpf.packets import (
    ADDRESSES,
    DESTINATION,
    ETHERNET,
    IPV4,
    IPV6,
    NEAR,
    NOP,
    TCP,
    VLAN,
    ethernet,
    extension,
    ipv4,
    ipv6,
    limits_of,
    mss,
    tcp_segment,
)
from bpf.tun import DeviceKernel, device_kernel
from bpf.witness import describe
from mssclamp.wire.clamp import Direction, Reason
from support import require_bpf, require_file, require_netns

pytestmark = [pytest.mark.bpf, pytest.mark.netns]

PAGED = b"\xff" * 4200
"""Behind a packet, as a frame's padding would be: with it, it is larger than a page."""


@pytest.fixture(scope="module", params=[True, False], ids=["link header", "bare IP"])
def device(request: pytest.FixtureRequest) -> Iterator[DeviceKernel]:
    require_bpf()
    require_netns()
    require_file("/dev/net/tun")
    with device_kernel(link_header=request.param) as kernel:
        yield kernel


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("version", [4, 6])
def test_cut_off_at_every_length(device: DeviceKernel, version: int, direction: Direction) -> None:
    comparison = Comparison(device)
    least = ETHERNET + 1 if device.link_header else 1
    for case in (case for case in CASES if case.version == version and case.description == "Linux's options"):
        whole, _ = case.packets(link_header=device.link_header, direction=direction)
        for length in range(least, len(whole.data)):
            comparison.check(whole._replace(data=whole.data[:length], protocol=whole.ethertype))
        assert set(comparison.hits) == {Reason.BAD_IP, Reason.BAD_TCP}
        assert comparison.check(whole)[1] is Reason.CLAMPED
    comparison.check_counts()


@pytest.mark.parametrize("direction", Direction)
def test_cases(device: DeviceKernel, direction: Direction) -> None:
    comparison = Comparison(device)
    for case in CASES:
        packet, expected = case.packets(link_header=device.link_header, direction=direction)
        assert comparison.check(packet) == (expected, case.reason), describe(packet)
    comparison.check_counts()


@pytest.mark.parametrize("headers_in_one_piece", [1, 19, 20, 33, 40, 53, 54, 60])
def test_cases_in_pages(device: DeviceKernel, headers_in_one_piece: int) -> None:
    comparison = Comparison(device)
    device.linear = headers_in_one_piece + (ETHERNET if device.link_header else 0)
    try:
        for case in CASES:
            packet, _ = case.packets(link_header=device.link_header, direction=Direction.INGRESS)
            comparison.check(packet._replace(data=packet.data + PAGED))
    finally:
        device.linear = 0
    comparison.check_counts()
    assert comparison.hits[Reason.CLAMPED] > 100


def test_generated_in_pages(device: DeviceKernel) -> None:
    comparison = Comparison(device)
    random = Random(3)
    try:
        for packet in generate(3, 8000):
            if packet.ethertype == VLAN:
                continue  # on its way in the kernel itself takes the tag, or what stands in its place
            if packet.link_header == device.link_header and packet.direction is Direction.INGRESS:
                device.linear = random.randrange(ETHERNET, 120)
                comparison.check(packet._replace(data=packet.data + PAGED))
    finally:
        device.linear = 0
    comparison.check_counts()


@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
@pytest.mark.parametrize("version", [4, 6])
def test_checksum_left_to_the_hardware(device: DeviceKernel, version: int, odd: bool) -> None:
    """A SYN of this machine's own (CHECKSUM_PARTIAL): until it leaves, its field holds the pseudo header's sum."""
    source, destination = ADDRESSES["enforced", version], NEAR[version]
    limits = limits_of(source)
    assert limits is not None

    def syn(value: int) -> tuple[bytes, int]:
        options = NOP + mss(value) + 3 * NOP if odd else mss(value)
        segment = tcp_segment(source, destination, options, payload=b"odd")
        if version == 4:
            datagram, protocol = ipv4(source, destination, segment, options=4 * NOP), IPV4
        else:
            datagram, protocol = ipv6(source, destination, segment, extensions=(extension(DESTINATION),)), IPV6
        if device.link_header:
            datagram = ethernet(datagram, protocol)
        return datagram, len(datagram) - len(segment)

    whole, at = syn(LARGE)
    total = sum(int.from_bytes(address, "big") for address in (source, destination)) + TCP + len(whole) - at
    unfinished = (total % 0xFFFF).to_bytes(2, "big")
    partial = whole[: at + 16] + unfinished + whole[at + 18 :]
    device.inner.write(partial, IPV4 if version == 4 else IPV6, checksum_from=at)
    finished, _ = syn(limits.mss4 if version == 4 else limits.mss6)
    assert device.outer.read() == finished
