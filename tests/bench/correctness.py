"""What each clamp does to a SYN whose MSS option stands where it need not stand.

    client ──── gateway ──── site          raw SYNs from the client, captured where they arrive

Every case goes through every clamp; what arrives is compared with what an MSS clamp ought to have sent.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from bench.contestants import CLAMPS, narrow_line
from lab import Lab, topology
from lab.packet import Segment, build_syn

LIMIT = 1360
LARGE = struct.pack("!BBH", 2, 4, 1460)
LOWERED = struct.pack("!BBH", 2, 4, LIMIT)
NOP, END = b"\1", b"\0"

CASES = {
    "first option": (LARGE, LOWERED),
    "at an odd offset (after one NOP)": (NOP + LARGE + NOP * 3, NOP + LOWERED + NOP * 3),
    "at an odd offset (after window scale)": (b"\3\3\7" + LARGE + NOP, b"\3\3\7" + LOWERED + NOP),
    "twice": (LARGE + LARGE, LOWERED + LOWERED),
    "after end-of-list (no option there)": (END * 4 + LARGE, END * 4 + LARGE),
    "behind a malformed option": (b"\5\0" + NOP * 2 + LARGE, b"\5\0" + NOP * 2 + LARGE),
}
"""The options as sent, and as they ought to arrive."""


@dataclass(frozen=True)
class Verdict:
    """What one clamp did to one case."""

    clamp: str
    case: str
    verdict: str


def measure() -> list[Verdict]:
    """All clamps, all cases."""
    verdicts = []
    with Lab() as lab:
        line = narrow_line(lab)
        line.site.swallows_tcp()
        line.client.reaches(topology.SITE[4])  # neighbours know each other before the first SYN
        arrived = lab.capture(line.site, line.far_device)
        out = lab.enter(line.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        sequence = 0
        for clamp, put_on in CLAMPS.items():
            with put_on(lab, line):
                for case, (options, expected) in CASES.items():
                    sequence += 1
                    sent = build_syn(topology.CLIENT[4], topology.SITE[4], options=options, sequence=sequence)
                    out.sendto(sent, (topology.SITE[4], 0))
                    arrived.wait_for_segments(_numbered(sequence), f"{case} through {clamp}")
                    frame = next(
                        frame.packet
                        for frame in arrived.frames()
                        if len(frame.packet) >= 28 and frame.packet[24:28] == struct.pack("!I", sequence)
                    )
                    (segment,) = arrived.segments(_numbered(sequence))
                    verdicts.append(Verdict(clamp, case, _judge(options, frame[40:], segment, expected)))
    return verdicts


def _numbered(sequence: int):  # type: ignore[no-untyped-def]
    return lambda segment: segment.sequence == sequence


def _judge(sent: bytes, arrived: bytes, segment: Segment, expected: bytes) -> str:
    if not segment.checksum_right:
        return "WRONG CHECKSUM: the receiver drops it"
    if arrived == expected:
        return "left alone" if sent == expected else "clamped"
    if sent == expected:
        return "CHANGED what is no option"
    return "not clamped" if arrived == sent else "clamped in part"
