"""Which hooks count as shadowed, from two samples each."""

from __future__ import annotations

import pytest

from mssclamp.daemon.shadow import Sample, ShadowWatch

KEY = (3, "egress")
SECONDS = 5.0


@pytest.mark.parametrize(
    ("moved", "seen", "shadowed"),
    [
        (50, 0, True),
        (49, 0, False),  # too few to tell
        (50, 1, False),  # super-packets: seen less often than moved
        (0, 0, False),
        (-900, 0, False),  # another device of the same index
        (50, -5, False),  # other programs: they count anew
    ],
)
def test_between_two_samples(moved: int, seen: int, shadowed: bool) -> None:
    watch = ShadowWatch()
    watch.look(0, {KEY: Sample(1000, 10)})
    watch.look(SECONDS, {KEY: Sample(1000 + moved, 10 + seen)})
    assert watch.is_shadowed(*KEY) is shadowed
    assert not watch.is_shadowed(3, "ingress")


def test_a_sample_that_comes_early_is_passed_over() -> None:
    watch = ShadowWatch()
    watch.look(0, {KEY: Sample(0, 0)})
    watch.look(SECONDS - 1, {KEY: Sample(60, 0)})
    assert not watch.is_shadowed(*KEY)
    watch.look(SECONDS, {KEY: Sample(60, 0)})
    assert watch.is_shadowed(*KEY)


@pytest.mark.parametrize(
    ("next_samples", "shadowed"),
    [
        ({KEY: Sample(60, 1)}, False),  # it sees packets again
        ({KEY: Sample(60, 0)}, True),  # silence proves nothing
        ({}, False),  # taken off, or gone
    ],
)
def test_how_it_ends(next_samples: dict[tuple[int, str], Sample], shadowed: bool) -> None:
    watch = ShadowWatch()
    watch.look(0, {KEY: Sample(0, 0)})
    watch.look(SECONDS, {KEY: Sample(60, 0)})
    watch.look(2 * SECONDS, next_samples)
    assert watch.is_shadowed(*KEY) is shadowed
