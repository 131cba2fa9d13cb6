"""When a peer is looked at: never without a reason, never too often, and soon after it got smaller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.pmtu.schedule import (
    CALM,
    FIRST_PATIENCE,
    LAST_PATIENCE,
    RAISE_AFTER_LOWERING,
    SEARCH_AGAIN,
    STRONG_PATIENCE,
    Look,
    Schedule,
)

RECHECK, RAISE = 30.0, 600.0


def fresh() -> Schedule:
    return Schedule(RECHECK, RAISE)


def found(now: float = 0.0, *, lowered: bool = False, exact: bool = True, at_limit: bool = False) -> Schedule:
    """A peer of which a first search has found what passes."""
    schedule = fresh()
    schedule.on_found(now, lowered=lowered, raised=False, exact=exact, at_limit=at_limit)
    return schedule


def stays(schedule: Schedule, now: float) -> None:
    """A look upwards found nothing more."""
    schedule.on_found(now, lowered=False, raised=False, exact=True, at_limit=False)


# -- traffic


def test_the_first_traffic_searches() -> None:
    schedule = fresh()
    assert schedule.on_traffic(0.0) is Look.SEARCH
    assert schedule.next_look() is None


def test_the_size_in_force_is_checked_with_traffic() -> None:
    schedule = found(100.0)
    assert schedule.on_traffic(110.0) is None
    assert schedule.on_traffic(100.0 + RECHECK) is Look.CHECK
    schedule.on_checked(130.0)
    assert schedule.on_traffic(150.0) is None
    assert schedule.on_traffic(157.0) is Look.CHECK  # a word a little early is as good: the next is a `recheck` away


def test_upwards_after_a_while() -> None:
    schedule = found()
    assert schedule.on_traffic(RAISE - 1) is Look.CHECK
    assert schedule.on_traffic(RAISE) is Look.RAISE
    assert schedule.next_look() is None  # with the next traffic is early enough
    stays(schedule, RAISE)
    assert schedule.on_traffic(RAISE + RECHECK) is Look.CHECK
    assert schedule.on_traffic(2 * RAISE) is Look.RAISE


def test_nothing_is_above_the_device() -> None:
    schedule = found(at_limit=True)
    assert schedule.on_traffic(100 * RAISE) is Look.CHECK
    assert schedule.next_look() is None


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_not_known_exactly_is_searched_again(exact: bool) -> None:
    schedule = found(exact=exact)
    assert schedule.on_traffic(SEARCH_AGAIN - 1) is (Look.CHECK if exact else None)
    assert schedule.on_traffic(SEARCH_AGAIN) is (Look.CHECK if exact else Look.SEARCH)


def test_who_does_not_answer_is_asked_again_later() -> None:
    schedule = fresh()
    schedule.on_silence(0.0)
    assert schedule.on_traffic(SEARCH_AGAIN - 1) is None
    assert schedule.on_traffic(SEARCH_AGAIN) is Look.SEARCH
    known = found()
    known.on_silence(700.0)  # a look upwards that nobody answered
    assert known.on_traffic(700.0 + RECHECK) is Look.CHECK
    assert known.on_traffic(700.0 + RAISE) is Look.RAISE


def test_another_path_is_searched_with_the_next_traffic() -> None:
    schedule = found(lowered=True)
    for _ in range(4):
        schedule.on_refuted(1.0)
    assert not schedule.on_hint(2.0)
    schedule.search_soon()
    assert schedule.on_traffic(2.0) is Look.SEARCH
    assert schedule.on_hint(2.0)


# -- after a lowering


def test_looks_upwards_after_a_lowering() -> None:
    schedule = found(100.0, lowered=True)
    now = 100.0
    for pause in RAISE_AFTER_LOWERING:
        assert schedule.next_look() == now + pause
        assert schedule.on_traffic(now + pause - 0.1) is not Look.RAISE
        now += pause
        assert schedule.on_traffic(now) is Look.RAISE
        stays(schedule, now)
    assert schedule.next_look() is None
    assert schedule.on_traffic(now + RAISE - 1) is Look.CHECK
    assert schedule.on_traffic(now + RAISE) is Look.RAISE


def test_who_rose_a_little_may_rise_more() -> None:
    schedule = found(0.0, lowered=True)
    schedule.on_found(2.0, lowered=False, raised=True, exact=True, at_limit=False)
    assert schedule.next_look() == 4.0
    schedule.on_found(4.0, lowered=False, raised=True, exact=True, at_limit=True)
    assert schedule.next_look() is None


def test_a_silent_look_upwards_is_not_repeated_at_once() -> None:
    schedule = found(0.0, lowered=True)
    schedule.on_silence(2.0)
    due = schedule.next_look()
    assert due is not None
    assert due >= 2.0 + RAISE


# -- hints


def test_a_hint_is_looked_at_at_once() -> None:
    schedule = fresh()
    assert schedule.on_hint(5.0)
    assert not schedule.on_hint(5.5)
    assert schedule.on_hint(5.0 + FIRST_PATIENCE)


def test_refuted_hints_cost_patience() -> None:
    schedule, now, gaps = found(), 0.0, []
    for _ in range(8):
        before = now
        while not schedule.on_hint(now):
            now += 0.125
        schedule.on_refuted(now)
        gaps.append(now - before)
    assert gaps == [0, 2, 4, 8, 16, 30, 30, 30]


def test_a_strong_hint_waits_little() -> None:
    schedule = found()
    for _ in range(6):
        schedule.on_refuted(0.0)
    assert not schedule.on_hint(STRONG_PATIENCE)
    assert not schedule.on_hint(STRONG_PATIENCE - 0.1, strong=True)
    assert schedule.on_hint(STRONG_PATIENCE, strong=True)


def test_a_lowering_restores_patience() -> None:
    schedule = found()
    for _ in range(6):
        schedule.on_refuted(0.0)
    assert not schedule.on_hint(LAST_PATIENCE - 1)
    assert schedule.on_hint(LAST_PATIENCE)
    schedule.on_found(LAST_PATIENCE, lowered=True, raised=False, exact=True, at_limit=False)
    schedule.on_refuted(LAST_PATIENCE)
    assert schedule.on_hint(LAST_PATIENCE + 2 * FIRST_PATIENCE)


def test_calm_restores_patience() -> None:
    schedule = found()
    for _ in range(6):
        schedule.on_refuted(0.0)
    schedule.on_refuted(CALM + 1)
    assert schedule.on_hint(CALM + 1 + 2 * FIRST_PATIENCE)


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200))
def test_a_flood_of_wrong_hints_costs_little(pauses: list[float]) -> None:
    """However they are spaced: a look for each takes longer and longer."""
    schedule, now, looks = found(), 0.0, []
    for pause in pauses:
        now += pause
        if schedule.on_hint(now):
            looks.append(now)
            schedule.on_refuted(now)
    for at in looks:
        assert sum(at <= other < at + 60 for other in looks) <= 7


def test_another_configuration_takes_effect() -> None:
    schedule = found()
    schedule.recheck, schedule.raise_after = 5.0, 50.0
    assert schedule.on_traffic(5.0) is Look.CHECK
    stays(schedule, 10.0)
    assert schedule.on_traffic(60.0) is Look.RAISE
