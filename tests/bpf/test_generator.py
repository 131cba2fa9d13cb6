"""The generator itself: what it must reach, by the model alone (no privileges)."""

from __future__ import annotations

from collections import Counter

from bpf.generator import generate
from bpf.packets import HOOKS, limits_of, smallest_test_run
from mssclamp.wire.clamp import Reason, clamp

COUNT = 20_000


def test_the_same_seed_gives_the_same_packets() -> None:
    assert list(generate(7, 500)) == list(generate(7, 500))
    assert list(generate(7, 500)) != list(generate(8, 500))


def test_every_reason_is_met_on_every_hook() -> None:
    hits: dict[tuple, Counter[Reason | None]] = {hook: Counter() for hook in HOOKS}
    for packet in generate(7, COUNT):
        assert len(packet.data) >= smallest_test_run(packet.data)
        _, reason = clamp(packet.data, packet.ethertype, packet.link_header, packet.direction, limits_of)
        hits[packet.link_header, packet.direction][reason] += 1
    for hook, counts in hits.items():
        for reason in (*Reason, None):
            assert reason is Reason.FAILED or counts[reason] >= COUNT * 0.005 / len(HOOKS), (hook, reason)
