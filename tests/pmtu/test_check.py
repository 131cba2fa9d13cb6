"""The check: one probe, and what its answer or its loss says."""

from __future__ import annotations

import pytest

from mssclamp.pmtu.check import Check
from mssclamp.pmtu.search import Probe, Result, Verdict
from sim import Path, drive


def sent(rtt: float | None = None) -> Check:
    """A check of 1400 bytes whose probe left at 10.0."""
    check = Check(1400, rtt=rtt)
    check.start(10.0)
    assert check.probes_to_send(10.0) == [Probe(0, 1400)]
    return check


@pytest.mark.parametrize(
    ("mtu", "verdict", "text"),
    [
        (1400, Verdict.EXACT, "1400 answered in 12 ms"),
        (1399, Verdict.DOUBT, "1400 lost once"),
        (0, Verdict.DOUBT, "1400 lost once"),
    ],
)
def test_over_a_path(mtu: int, verdict: Verdict, text: str) -> None:
    check = Check(1400)
    outcome = drive(check, Path([(0, mtu)]))
    assert outcome.sizes == [1400]
    assert check.result == Result(verdict, 1400 if verdict is Verdict.EXACT else None, None, text)
    assert outcome.seconds == pytest.approx(0.012 if verdict is Verdict.EXACT else 0.2)


def test_the_probe_is_sent_once() -> None:
    check = sent()
    assert check.probes == 1
    assert check.probes_to_send(10.1) == []
    assert check.on_answer(0, 10.1)
    assert (check.done, check.next_deadline(), check.probes_to_send(11.0)) == (True, None, [])


def test_before_it_begins_nothing_is_due() -> None:
    check = Check(1400)
    check.start(10.0)
    assert check.next_deadline() == 10.0
    assert check.probes_to_send(9.9) == []
    check.on_timeout(60.0)
    assert check.result is None


def test_patience_goes_by_the_round_trip_measured_before() -> None:
    assert sent().next_deadline() == pytest.approx(10.2)
    patient = sent(rtt=0.6)
    assert patient.next_deadline() == pytest.approx(10.0 + 0.6 + 4 * 0.3)
    patient.on_timeout(11.7)
    assert not patient.done
    patient.on_timeout(11.81)
    assert patient.result is not None
    assert patient.result.verdict is Verdict.DOUBT


def test_foreign_and_repeated_answers() -> None:
    early = Check(1400)
    early.start(10.0)
    assert not early.on_answer(0, 10.0)
    check = sent()
    assert not check.on_answer(1, 10.1)
    assert check.on_answer(0, 10.1)
    assert not check.on_answer(0, 10.2)
    assert check.result == Result(Verdict.EXACT, 1400, None, "1400 answered in 100 ms")


def test_an_answer_after_the_doubt_counts() -> None:
    check = sent()
    check.on_timeout(10.3)
    assert check.result is not None
    assert (check.result.verdict, check.floor) == (Verdict.DOUBT, None)
    assert check.on_answer(0, 10.5)
    assert (check.result.verdict, check.result.mtu, check.floor) == (Verdict.EXACT, 1400, 1400)


def test_something_else_passes() -> None:
    check = sent()
    check.on_passed(1399, 10.1)
    assert not check.done
    check.on_passed(1452, 10.1)
    assert check.result == Result(Verdict.EXACT, 1400, None, "1452 was seen to pass")


def test_what_cannot_leave_this_machine_is_no_proof() -> None:
    for size, doubtful in ((1401, False), (1400, True), (1300, True)):
        check = sent()
        check.on_refused(size, 10.1)
        assert check.done == doubtful
    check.on_not_sent(0)
    assert check.result == Result(Verdict.DOUBT, None, None, "this machine sends nothing of 1300 bytes or more")
    stuck = sent()
    stuck.on_not_sent(0)
    assert stuck.result == Result(Verdict.DOUBT, None, None, "1400 did not leave this machine")


def test_only_a_doubt_is_worth_telling() -> None:
    check = sent()
    assert (check.rounds, check.fallen) == ([], None)
    check.on_timeout(10.3)
    (told,) = check.rounds
    assert (told.number, told.probes, told.text) == (1, 1, "1400 lost once")
    check.on_answer(0, 10.5)
    assert (check.rounds, check.fallen) == ([], None)
