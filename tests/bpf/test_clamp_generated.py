"""The programs on generated packets, against the model and scapy.

The seed is fixed, so a failure comes again; CLAMPD_TESTS_SEED and CLAMPD_TESTS_PACKETS choose others.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from bpf.comparison import Comparison
from bpf.generator import generate
from bpf.kernel import Kernel
from bpf.witness import check_rewrite, describe
from mssclamp.wire.clamp import Reason
from support import Tally

SEED = int(os.environ.get("CLAMPD_TESTS_SEED", "1"))
PACKETS = int(os.environ.get("CLAMPD_TESTS_PACKETS", "100000"))

SHARE = 500 / 100_000
"""The least share of the packets that each reason must have met."""

UNREACHABLE = {Reason.FAILED}
"""Counted when the kernel refuses to write (no memory for a private copy of the header, say). The packets of
BPF_PROG_TEST_RUN are private and whole, so here it never does."""


@pytest.mark.bpf
@pytest.mark.timeout(300)
def test_programs_do_as_the_model(kernel: Kernel, tally: Tally) -> None:
    comparison = Comparison(kernel)
    right = 0
    for packet in generate(SEED, PACKETS):
        data, reason = comparison.check(packet)
        if reason is Reason.CLAMPED:
            try:
                right += check_rewrite(packet, data)
            except AssertionError as error:
                raise AssertionError(f"scapy disagrees with {data.hex()}: {describe(packet)}") from error
        else:
            assert data == packet.data, describe(packet)
    comparison.check_counts()
    _assert_reached(comparison.hits)
    counted = {reason.name.lower(): comparison.hits[reason] for reason in Reason}
    tally("generated packets by reason", counted | {"not counted (no SYN, or not IP)": comparison.hits[None]})
    # Both kinds of checksum were among what was rewritten, so scapy's comparison has meant something.
    assert PACKETS * SHARE <= right <= comparison.hits[Reason.CLAMPED] - PACKETS * SHARE


def _assert_reached(hits: Counter[Reason | None]) -> None:
    rare = {reason.name: hits[reason] for reason in set(Reason) - UNREACHABLE if hits[reason] < PACKETS * SHARE}
    assert not rare
    assert not any(hits[reason] for reason in UNREACHABLE)
