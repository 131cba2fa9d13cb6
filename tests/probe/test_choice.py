"""Which address and method are chosen, over hosts that answer after so many seconds, or never."""

from __future__ import annotations

import heapq
from ipaddress import IPv4Address

import pytest

from mssclamp.probe.choice import BETTER, GIVE_UP, MAX_CANDIDATES, SECOND_TRY, Choice, Knock

A, B, C = (IPv4Address(f"10.0.0.{i}") for i in (1, 2, 3))


def run(
    choice: Choice,
    echo: dict[IPv4Address, float],
    tcp: dict[IPv4Address, float] | None = None,
    *,
    deaf_until: float = 0.0,
    late: float = 0.0,
) -> tuple[float, list[tuple[float, Knock]]]:
    """Drives it to its end. Returns when that was, and what was sent when. `late`: how long a packet waits."""
    now, sent, answers = 5.0, [], []
    for _ in range(100):
        choice.on_timeout(now)
        if choice.done:
            return now - 5.0, sent
        if (choice.next_deadline() or 0.0) <= now:
            now += late
            for knock in choice.to_send(now):
                sent.append((now - 5.0, knock))
                trip = ((tcp or {}) if knock.method == "tcp" else echo).get(knock.address)
                if trip is not None and now - 5.0 >= deaf_until:
                    heapq.heappush(answers, (now + trip, len(sent), knock, trip))
        deadline = choice.next_deadline()
        if answers and (deadline is None or answers[0][0] <= deadline):
            now, _, knock, trip = heapq.heappop(answers)
            choice.on_answer(knock, trip, now)
        elif deadline is not None:
            now = max(now, deadline)
    raise AssertionError("no end")


def chosen(choice: Choice) -> tuple[IPv4Address, str, float]:
    assert choice.chosen is not None
    return choice.chosen.address, choice.chosen.method, choice.chosen.rtt


def test_the_best_answers() -> None:
    choice = Choice([A, B], tcp=False)
    took, sent = run(choice, {A: 0.02, B: 0.01})
    assert chosen(choice) == (A, "echo", 0.02)
    assert took == pytest.approx(0.02)
    assert [knock for _, knock in sent] == [Knock(A, "echo"), Knock(B, "echo")]


def test_a_better_one_has_a_moment_more() -> None:
    choice = Choice([A, B, C], tcp=False)
    assert run(choice, {C: 0.01, B: 0.055})[0] == pytest.approx(0.01 + BETTER)
    assert chosen(choice) == (B, "echo", 0.055)
    choice = Choice([A, B, C], tcp=False)
    run(choice, {C: 0.01, A: 0.07})
    assert chosen(choice) == (C, "echo", 0.01)


def test_a_second_try() -> None:
    choice = Choice([A], tcp=False)
    took, sent = run(choice, {A: 0.01}, deaf_until=0.2)
    assert chosen(choice) == (A, "echo", 0.01)
    assert [at for at, _ in sent] == [0.0, SECOND_TRY]
    assert took == pytest.approx(SECOND_TRY + 0.01)


def test_a_slow_answer_to_the_first_try() -> None:
    choice = Choice([A], tcp=False)
    assert run(choice, {A: 1.2})[0] == pytest.approx(1.2)
    assert chosen(choice) == (A, "echo", 1.2)


def test_nobody_answers() -> None:
    choice = Choice([A, B], tcp=True)
    took, sent = run(choice, {})
    assert choice.failed == "no answer from 10.0.0.1, 10.0.0.2 to a small echo"
    assert (took, len(sent)) == (GIVE_UP, 4)


def test_nobody_to_ask() -> None:
    choice = Choice([], tcp=True)
    assert choice.failed == "no address of the peer is known that could answer"
    assert choice.next_deadline() is None


def test_not_more_than_so_many() -> None:
    choice = Choice([IPv4Address(i) for i in range(1, 20)], tcp=False)
    assert len(run(choice, {IPv4Address(1): 0.01})[1]) == MAX_CANDIDATES


def test_time_counts_from_when_packets_leave() -> None:
    """A budget may hold them back."""
    choice = Choice([A], tcp=True)
    took, sent = run(choice, {A: 0.01}, {A: 0.01}, late=3.0)
    assert chosen(choice) == (A, "tcp", 0.01)
    assert [at for at, _ in sent] == [3.0, 6.01]
    assert took == pytest.approx(6.02)


@pytest.mark.parametrize(
    ("rtt", "tcp", "method", "took"), [(0.01, 0.02, "tcp", 0.03), (0.01, 0.2, "echo", 0.11), (0.2, 0.5, "tcp", 0.7)]
)
def test_by_tcp(rtt: float, tcp: float, method: str, took: float) -> None:
    choice = Choice([A], tcp=True)
    assert run(choice, {A: rtt}, {A: tcp})[0] == pytest.approx(took)
    assert chosen(choice) == (A, method, rtt)


def test_where_this_machine_cannot_send() -> None:
    choice = Choice([A, B], tcp=True)
    first, second = choice.to_send(1.0)
    choice.on_fault(first, "no route to 10.0.0.1")
    assert not choice.done
    choice.on_answer(second, 0.01, 1.01)
    (by_tcp,) = choice.to_send(1.02)
    choice.on_fault(by_tcp, "a firewall rule")
    assert chosen(choice) == (B, "echo", 0.01)

    choice = Choice([A, B], tcp=True)
    for knock in choice.to_send(1.0):
        choice.on_fault(knock, f"no route to {knock.address}")
    assert choice.failed == "no route to 10.0.0.2"


def test_the_others_silent_where_one_cannot_be_reached() -> None:
    choice = Choice([A, B], tcp=False)
    choice.on_fault(choice.to_send(1.0)[0], "no route to 10.0.0.1")
    assert choice.to_send(1.0 + SECOND_TRY) == [Knock(B, "echo")]
    choice.on_timeout(1.0 + GIVE_UP)
    assert choice.failed == "no answer from 10.0.0.2 to a small echo"


def test_an_answer_after_the_choice() -> None:
    choice = Choice([A, B], tcp=False)
    run(choice, {A: 0.01})
    choice.on_answer(Knock(B, "echo"), 0.02, 6.0)
    choice.on_fault(Knock(B, "echo"), "gone")
    assert chosen(choice) == (A, "echo", 0.01)
    assert choice.to_send(7.0) == []
