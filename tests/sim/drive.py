"""Runs a search over a path: from event to event, as fast as the machine can."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mssclamp.pmtu.search import Probe

from .path import Path


class Searching(Protocol):
    """What `mssclamp.pmtu.search.Search` and the models beside it have in common."""

    @property
    def done(self) -> bool: ...
    def start(self, now: float) -> None: ...
    def probes_to_send(self, now: float) -> list[Probe]: ...
    def on_answer(self, number: int, now: float) -> bool: ...
    def next_deadline(self) -> float | None: ...
    def on_timeout(self, now: float) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What was sent (time, size), and when the search ended (seconds after its start)."""

    sent: list[tuple[float, int]]
    seconds: float

    @property
    def sizes(self) -> list[int]:
        """The sizes in the order in which they were sent."""
        return [size for _, size in self.sent]


def drive(
    search: Searching,
    path: Path,
    *,
    began: float = 0.0,
    linger: float = 0.0,
    watch: Callable[[float], None] = lambda _: None,
) -> Outcome:
    """Runs a search to its end, and on for `linger` seconds, in which answers still arrive.

    `watch` is called with the time before every event. AssertionError if the search stops without an end.
    """
    now = began
    sent: list[tuple[float, int]] = []
    answers: list[tuple[float, int]] = []
    search.start(now)
    ended = None
    while True:
        watch(now)
        for probe in search.probes_to_send(now):
            sent.append((now, probe.size))
            for at in path.answers(probe.size, now):
                heapq.heappush(answers, (at, probe.number))
        if search.done and ended is None:
            ended = now
        deadline = search.next_deadline()
        arrival = answers[0][0] if answers else None
        if ended is not None and (arrival is None or arrival > ended + linger):
            return Outcome(sent, ended - began)
        assert deadline is not None or arrival is not None, "nothing will ever happen again"
        assert len(sent) < 1000, "no end"
        if arrival is not None and (deadline is None or arrival <= deadline):
            now, number = heapq.heappop(answers)
            search.on_answer(number, now)
        else:
            assert deadline is not None
            now = max(now, deadline)
            search.on_timeout(now)
