"""The choice of an address and a method: who answers a small probe, and does he answer one by TCP too?

PURE: times come in as seconds of one clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mssclamp.pmtu.table import Address
from mssclamp.probe.order import Method

KNOCK_SIZE: Final = 100
"""Bytes of IP packet: it passes everywhere."""

MAX_CANDIDATES: Final = 8

BETTER: Final = 0.05
"""Seconds after the first answer in which one from a better candidate still counts."""

SECOND_TRY: Final = 0.5
GIVE_UP: Final = 1.5
"""Seconds after the first try."""

TCP_PATIENCE: Final = 0.1
TCP_TRIPS: Final = 3
"""How long to wait for the answer by TCP: seconds, or round trips, whichever is more."""


@dataclass(frozen=True)
class Knock:
    """A small probe to send."""

    address: Address
    method: Method


@dataclass(frozen=True)
class Chosen:
    """Where and how to probe; `rtt`: of the small echo, seconds."""

    address: Address
    method: Method
    rtt: float


class Choice:
    """One choice among `addresses`, the best first; `tcp`: whether that may be tried."""

    def __init__(self, addresses: Sequence[Address], *, tcp: bool) -> None:
        self._addresses = tuple(addresses)[:MAX_CANDIDATES]
        self._tcp = tcp
        self._began: float | None = None
        self._tries = 0
        self._first = 0.0  # when the first answer came
        self._trips: dict[Address, float] = {}
        self._faults: dict[Address, str] = {}
        self._by_echo: Chosen | None = None  # what it will be if nobody answers by TCP
        self._asked: float | None = None  # when that was tried
        self.chosen: Chosen | None = None
        self.failed = None if self._addresses else "no address of the peer is known that could answer"
        """Why there is nothing to choose."""

    @property
    def done(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return self.chosen is not None or self.failed is not None

    def next_deadline(self) -> float | None:
        """When `to_send` or `on_timeout` will have something to do; in the past: at once; None once it is done."""
        if self.done:
            return None
        if self._by_echo is not None:
            return 0.0 if self._asked is None else self._asked + _patience(self._by_echo.rtt)
        if self._began is None:
            return 0.0
        if self._trips:
            return self._first + BETTER
        return self._began + (SECOND_TRY if self._tries == 1 else GIVE_UP)

    def to_send(self, now: float) -> list[Knock]:
        """What is due."""
        if self.done:
            return []
        if self._by_echo is not None:
            if self._asked is not None:
                return []
            self._asked = now
            return [Knock(self._by_echo.address, "tcp")]
        if self._began is None:
            self._began = now
        elif self._trips or self._tries != 1 or now < self._began + SECOND_TRY:
            return []
        self._tries += 1
        return [Knock(address, "echo") for address in self._addresses if address not in self._faults]

    def on_answer(self, knock: Knock, rtt: float, now: float) -> None:
        """A small probe was answered."""
        if self.done:
            return
        if knock.method == "tcp":
            if self._by_echo is not None:
                self.chosen = Chosen(self._by_echo.address, "tcp", self._by_echo.rtt)
        elif self._by_echo is None:
            if not self._trips:
                self._first = now
            self._trips.setdefault(knock.address, rtt)
            self._pick_if_nobody_better()

    def on_fault(self, knock: Knock, text: str) -> None:
        """This machine cannot send there; `text` says why."""
        if self.done:
            return
        if knock.method == "tcp":
            self.chosen = self._by_echo
            return
        self._faults[knock.address] = text
        if len(self._faults) == len(self._addresses):
            self.failed = text
        elif self._trips:
            self._pick_if_nobody_better()

    def on_timeout(self, now: float) -> None:
        """Decides if it is time to."""
        if self.done:
            return
        if self._by_echo is not None:
            if self._asked is not None and now >= self._asked + _patience(self._by_echo.rtt):
                self.chosen = self._by_echo
        elif self._trips:
            if now >= self._first + BETTER:
                self._pick()
        elif self._began is not None and now >= self._began + GIVE_UP:
            asked = ", ".join(str(address) for address in self._addresses if address not in self._faults)
            self.failed = f"no answer from {asked} to a small echo"

    def _pick_if_nobody_better(self) -> None:
        best = next(address for address in self._addresses if address not in self._faults)
        if best in self._trips:
            self._pick()

    def _pick(self) -> None:
        address = next(address for address in self._addresses if address in self._trips)
        self._by_echo = Chosen(address, "echo", self._trips[address])
        if not self._tcp:
            self.chosen = self._by_echo


def _patience(rtt: float) -> float:
    return max(TCP_PATIENCE, TCP_TRIPS * rtt)
