"""SYNs at 2,000 a second while clampd is killed, started, and replaced by another version: none unclamped.

client ──▶ gateway with clampd ──▶ site       2,000 SYNs a second
client ◀── gateway with clampd ◀── site         500 SYN-ACKs a second
"""

from __future__ import annotations

import pytest

from lab import Capture, Clampd, Lab, SynSender, another_version, peer_table, wait_for
from lab.topology import CLIENT, SITE, SITE_PREFIXES, line, mss_for

pytestmark = pytest.mark.netns

PEER_MTU = 1400
OFFERED = 1460
FORWARD_RATE, BACKWARD_RATE = 2000, 500


@pytest.mark.timeout(180)
def test_no_syn_passes_unclamped(lab: Lab) -> None:
    built = line(lab)
    for host in (built.client, built.site):
        host.swallows_tcp()
    config = 'mode = "enforce"\n' + peer_table("site", built.device, SITE_PREFIXES, PEER_MTU)
    clampd = lab.clampd(built.gateway, config)
    clampd.attached(built.device)
    at_site = lab.capture(built.site, built.far_device)
    at_client = lab.capture(built.client, "lan")
    there = [(CLIENT[family], SITE[family]) for family in (4, 6)]
    back = [(SITE[family], CLIENT[family]) for family in (4, 6)]
    forward = lab.enter(SynSender(built.client, lab.directory(), there, rate=FORWARD_RATE, mss=OFFERED))
    backward = lab.enter(
        SynSender(built.site, lab.directory(), back, rate=BACKWARD_RATE, mss=OFFERED, acknowledge=True)
    )
    let_pass(at_site)
    first = clampd.programs(built.device)

    clampd.kill()
    let_pass(at_site)
    clampd.start()
    clampd.attached(built.device)
    assert clampd.programs(built.device) == first, "the same version adopts what is there"
    let_pass(at_site)

    clampd.stop()
    clampd.start(env=another_version(lab.directory()))
    second = replaced(clampd, built.device, first)
    let_pass(at_site)

    clampd.kill()
    written = len(clampd.output())
    clampd.launch()
    wait_for(lambda: "adopted" in clampd.output()[written:], "a daemon that is about to replace the programs")
    clampd.kill()
    let_pass(at_site)
    clampd.start()
    replaced(clampd, built.device, second)
    let_pass(at_site)

    assert_all_clamped(at_site, forward.stop())
    assert_all_clamped(at_client, backward.stop())
    # What the old programs count between the take-over of the counters and their replacement is not carried over.
    assert clampd.peer("site")["counters"]["clamped"] >= 0.95 * at_site.count


def let_pass(capture: Capture, count: int = 1000) -> None:
    """Until so many more packets have arrived."""
    target = capture.count + count
    wait_for(lambda: capture.count >= target, f"{count} more packets")


def replaced(clampd: Clampd, device: str, before: list[int]) -> list[int]:
    """Wait until both hooks run other programs than before; their ids."""

    def others() -> list[int]:
        now = clampd.programs(device)
        return now if len(now) == 2 and not set(now) & set(before) else []

    return wait_for(others, f"other programs than {before} on {device}")


def assert_all_clamped(capture: Capture, sent: int) -> None:
    """Every SYN that was sent has arrived, once, with an MSS that fits and a right checksum."""
    wait_for(lambda: len(capture.segments()) >= sent, f"{sent} SYNs", timeout=10)
    segments = capture.segments()
    assert sorted(segment.sequence for segment in segments) == list(range(sent))
    wrong = [
        segment
        for segment in segments
        if segment.mss != mss_for(PEER_MTU, segment.version) or not segment.checksum_right
    ]
    assert not wrong, f"{len(wrong)} of {sent}, the first: {wrong[0]}"
