"""The programs that answer oversize packets on generated ones, against the model and scapy.

The seed is fixed, so a failure comes again; CLAMPD_TESTS_SEED and CLAMPD_TESTS_PACKETS choose others.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from bpf.answer_witness import check_answer
from bpf.answering import AnsweringKernel, Comparison
from bpf.outgoing_generator import generate
from mssclamp.wire.too_big import Outcome
from support import Tally

SEED = int(os.environ.get("CLAMPD_TESTS_SEED", "1"))
PACKETS = int(os.environ.get("CLAMPD_TESTS_PACKETS", "100000"))

SHARE = 500 / 100_000
"""The least share of the packets that each outcome must have met."""


@pytest.mark.bpf
@pytest.mark.timeout(300)
def test_programs_do_as_the_model(answering: AnsweringKernel, tally: Tally) -> None:
    comparison = Comparison(answering)
    quotes: Counter[bool] = Counter()
    kinds: Counter[tuple[bool, int, bool]] = Counter()
    for packet in generate(SEED, PACKETS):
        judgement, answer = comparison.check(packet)
        if answer is None:
            continue
        try:
            quotes[check_answer(packet, judgement.size, judgement.mtu, answer)] += 1
        except AssertionError as error:
            raise AssertionError(f"scapy disagrees with {answer.hex()}: {packet}") from error
        kinds[packet.link_header, judgement.family, bool(packet.gso_size)] += 1
    comparison.check_counts()
    tally("generated packets by outcome", {outcome.value: comparison.hits[outcome] for outcome in Outcome})
    rare = {outcome: comparison.hits[outcome] for outcome in Outcome if comparison.hits[outcome] < PACKETS * SHARE}
    assert not rare
    # Answers on both kinds of device, in both families, to packets and super-packets.
    assert len(kinds) == 8
    assert min(kinds.values()) >= PACKETS * SHARE, kinds
    # Damaged headers were among the quoted ones, so scapy's comparison has meant something.
    assert quotes[False] >= PACKETS * SHARE / 10, quotes
