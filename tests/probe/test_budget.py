"""The budget of packets over any time."""

from __future__ import annotations

import random

import pytest

from mssclamp.probe.budget import Budget


def test_a_full_bucket() -> None:
    budget = Budget(10, 0.0)
    assert budget.ready_at(0.0) == 0.0
    budget.take(9)
    assert budget.ready_at(0.0) == 0.0
    budget.take(1)
    assert budget.ready_at(0.0) == pytest.approx(0.1, abs=0.002)
    assert budget.ready_at(0.11) == 0.11


def test_a_wave_is_never_cut_in_two() -> None:
    """It may overdraw; then the next one waits until that is paid."""
    budget = Budget(10, 0.0)
    budget.take(30)
    assert budget.ready_at(1.0) == pytest.approx(2.1, abs=0.002)
    assert budget.ready_at(2.0) > 2.0
    assert budget.ready_at(2.11) == 2.11


@pytest.mark.parametrize("rate", [0.5, 1, 3, 200])
def test_the_rate_holds(rate: float) -> None:
    chance = random.Random(rate)
    budget, now, sent = Budget(rate, 0.0), 0.0, 0
    for _ in range(2000):
        now = budget.ready_at(now)
        assert budget.ready_at(now) == now
        wave = chance.randint(1, 24)
        budget.take(wave)
        sent += wave
        assert sent <= rate * now + max(1, rate) + 24
    assert sent >= 0.95 * rate * now


def test_another_rate() -> None:
    budget = Budget(200, 0.0)
    budget.set_rate(5, 0.0)
    budget.take(5)
    assert budget.ready_at(0.0) == pytest.approx(0.2, abs=0.002)
    budget.take(4)
    assert budget.ready_at(0.0) == pytest.approx(1.0, abs=0.002)
    budget.set_rate(50, 0.0)
    assert budget.ready_at(0.0) == pytest.approx(0.1, abs=0.002)
