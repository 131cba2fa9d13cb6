"""In observe mode packets leave bit for bit as they came, and what would be done is counted.

The same packets are played through the gateway three times: without clampd, observed, enforced. What arrives
at both ends the first two times must be equal; the third time shows that the comparison would notice.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

import pytest

from lab import Capture, Lab, Namespace, build_syn, peer_table, transfer, wait_for
from lab.packet import ACK, RST, SYN
from lab.topology import CLIENT, SITE, SITE_PREFIXES, Line, line

pytestmark = pytest.mark.netns

PEER_MTU = 1400
LARGE = struct.pack("!BBH", 2, 4, 1460)
SMALL = struct.pack("!BBH", 2, 4, 1000)
NOP, END = b"\1", b"\0"
TIMESTAMPS = struct.pack("!BBII", 8, 10, 1, 2)
AUTHENTICATION = struct.pack("!BBBB12s", 29, 16, 1, 1, b"digest")


@dataclass(frozen=True)
class Case:
    """TCP options and flags, and whether an MSS in them would be lowered."""

    name: str
    options: bytes
    would_clamp: bool
    flags: int = SYN
    payload: bytes = b""


CASES = [
    Case("plain", LARGE, True),
    Case("as Linux sends it", LARGE + b"\4\2" + TIMESTAMPS + NOP + b"\3\3\7", True),
    Case("a SYN-ACK", LARGE, True, SYN | ACK),
    Case("at an odd offset", NOP + LARGE, True),
    Case("at the header's end", NOP * 4 + LARGE, True),
    Case("twice", LARGE + SMALL + NOP + LARGE, True),
    Case("with payload, as TCP Fast Open", LARGE, True, payload=b"early data"),
    Case("small enough", SMALL, False),
    Case("none", b"", False),
    Case("after the end of the list", END + LARGE, False),
    Case("behind a length of 0", b"\5\0" + LARGE, False),
    Case("cut off", NOP * 6 + LARGE[:2], False),
    Case("of a wrong length", b"\2\3\5" + NOP, False),
    Case("with TCP-AO", LARGE + AUTHENTICATION, False),
    Case("in a SYN with RST", LARGE, False, SYN | RST),
    Case("in no SYN", LARGE, False, ACK, b"data"),
]

Played = tuple[list[bytes], list[bytes]]


def test_observed_packets_are_equal(lab: Lab) -> None:
    built = line(lab)
    settle_neighbours(built)
    for host in (built.client, built.site):
        host.swallows_tcp()
    captures = lab.capture(built.client, "lan"), lab.capture(built.site, built.far_device)
    macs = built.gateway.mac("lan"), built.gateway.mac(built.device)
    packets = [packet for _, packet in corpus(CLIENT, SITE)], [packet for _, packet in corpus(SITE, CLIENT)]

    plain = play(built, captures, macs, packets)
    clampd = lab.clampd(built.gateway, 'mode = "observe"\n' + peer_table("site", built.device, SITE_PREFIXES, PEER_MTU))
    clampd.attached(built.device)
    observed = play(built, captures, macs, packets)
    assert observed == plain

    would = 2 * sum(case.would_clamp for case, _ in corpus(CLIENT, SITE))
    counters = clampd.peer("site")["counters"]
    assert (counters["clamped"], counters["would_clamp"]) == (0, would)

    clampd.ctl("enforce")
    enforced = play(built, captures, macs, packets)
    changed = sum(now != before for side in (0, 1) for now, before in zip(enforced[side], plain[side], strict=True))
    assert changed == would
    for segment in captures[0].segments() + captures[1].segments():
        assert segment.checksum_right, segment
    counters = clampd.peer("site")["counters"]
    assert (counters["clamped"], counters["would_clamp"]) == (would, would)


def corpus(sources: dict[int, str], destinations: dict[int, str]) -> list[tuple[Case, bytes]]:
    """Every case in both families."""
    return [
        (
            case,
            build_syn(
                sources[family], destinations[family],
                options=case.options, flags=case.flags, payload=case.payload, sequence=10 * number + family,
            ),
        )
        for number, case in enumerate(CASES)
        for family in (4, 6)
    ]  # fmt: skip


def play(
    built: Line, captures: tuple[Capture, Capture], macs: tuple[bytes, bytes], packets: tuple[list[bytes], list[bytes]]
) -> Played:
    """Send one list from the client and one from the site; the frames that arrived at client and site."""
    for capture in captures:
        capture.clear()
    inject(built.client, "lan", macs[0], packets[0])
    inject(built.site, built.far_device, macs[1], packets[1])
    at_client, at_site = (arrived(capture, len(packets[0])) for capture in captures)
    return at_client, at_site


def inject(namespace: Namespace, device: str, gateway: bytes, packets: list[bytes]) -> None:
    """Put packets on the wire as they are, towards the gateway."""
    with namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((device, 0))
        own = namespace.mac(device)
        for packet in packets:
            ethertype = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
            wire.send(gateway + own + ethertype + packet)


def arrived(capture: Capture, count: int) -> list[bytes]:
    """The TCP frames that came in, in order, all `count` of them."""

    def frames() -> list[bytes]:
        return [frame.data for frame in capture.frames() if not frame.outgoing and is_tcp(frame.packet)]

    wait_for(lambda: len(frames()) >= count, f"{count} packets")
    return frames()


def is_tcp(packet: bytes) -> bool:
    return packet[9] == 6 if packet[0] >> 4 == 4 else packet[6] == 6


def settle_neighbours(built: Line) -> None:
    """Let everybody know everybody's link-layer address, so that no first packet waits for it."""
    for family in (4, 6):
        transfer(built.client, built.site, SITE[family], size=1000)
