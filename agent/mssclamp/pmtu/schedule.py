"""When a peer is to be looked at: what its traffic, its path's hints and the time that has passed ask for.

PURE. Times are seconds of one clock. Nothing is asked for without traffic (RFC 8899, section 5.2, would probe on a
timer): a sleeping peer is never woken, and keeps its value with its age.
"""

from __future__ import annotations

from enum import IntEnum

RAISE_AFTER_LOWERING = (2.0, 8.0, 30.0, 120.0)
"""Seconds: a path that was small for a moment is noticed soon; afterwards `raise` seconds lie between looks."""

FIRST_PATIENCE = 1.0
LAST_PATIENCE = 30.0
"""Seconds from one round that a hint caused to the next: doubled while rounds refute the hints. So a flood of forged
messages, or a lossy path, costs a bounded number of rounds."""

STRONG_PATIENCE = 2.0
"""The same where the hint is strong: a flow makes no progress at all. Nobody off the path can make it so, and random
loss seldom takes one segment twice."""

CALM = 60.0
"""Seconds without a refuted hint, after which patience begins anew."""

SEARCH_AGAIN = 60.0
"""Seconds until a search that learned nothing, or not all, is tried again (if there is traffic)."""


class Look(IntEnum):
    """What to do now; a larger one includes the smaller ones."""

    CHECK = 1
    """Does the size in force still pass?"""
    RAISE = 2
    """Does more pass?"""
    SEARCH = 3
    """Everything anew."""


class Schedule:
    """One peer's. `recheck`, `raise_after`: seconds between checks, and between looks upwards."""

    def __init__(self, recheck: float, raise_after: float) -> None:
        self.recheck, self.raise_after = recheck, raise_after
        self._checked = float("-inf")
        self._next_raise = float("inf")
        self._raises = len(RAISE_AFTER_LOWERING)
        self._patience = FIRST_PATIENCE
        self._next_hint = float("-inf")
        self._refuted = self._looked = float("-inf")
        self._next_search = float("-inf")
        self.known = False
        """Whether an exact value is known: else every look is a search."""

    def on_traffic(self, now: float) -> Look | None:
        """Large packets go to the peer."""
        if not self.known:
            return Look.SEARCH if now >= self._next_search else None
        if now >= self._next_raise:
            return Look.RAISE
        return Look.CHECK if now - self._checked >= 0.9 * self.recheck else None

    def on_hint(self, now: float, *, strong: bool = False) -> bool:
        """Something says that the path may have become smaller: whether to look at once."""
        if now < (min(self._next_hint, self._looked + STRONG_PATIENCE) if strong else self._next_hint):
            return False
        self._looked = now
        self._next_hint = now + self._patience
        return True

    def next_look(self) -> float | None:
        """When to ask by itself whether there was traffic: after a lowering, for a look upwards."""
        return self._next_raise if self._raises < len(RAISE_AFTER_LOWERING) else None

    # what became of it

    def on_checked(self, now: float) -> None:
        """The size in force passes."""
        self._checked = now

    def on_found(self, now: float, *, lowered: bool, raised: bool, exact: bool, at_limit: bool) -> None:
        """A search has ended. `at_limit`: the device takes no more than what was found."""
        self._checked, self.known = now, exact
        self._next_search = now + SEARCH_AGAIN
        if lowered:
            self._raises, self._patience = 0, FIRST_PATIENCE
        elif not raised and self._raises < len(RAISE_AFTER_LOWERING):
            self._raises += 1
        if at_limit:
            self._raises, self._next_raise = len(RAISE_AFTER_LOWERING), float("inf")
        elif self._raises < len(RAISE_AFTER_LOWERING):
            self._next_raise = now + RAISE_AFTER_LOWERING[self._raises]
        else:
            self._next_raise = now + self.raise_after

    def on_refuted(self, now: float) -> None:
        """A hint was wrong: the size in force passes."""
        self._looked = now
        self._be_patient(now)

    def _be_patient(self, now: float) -> None:
        if now - self._refuted > CALM:
            self._patience = FIRST_PATIENCE
        self._refuted = now
        self._patience = min(2 * self._patience, LAST_PATIENCE)
        self._next_hint = now + self._patience

    def on_silence(self, now: float) -> None:
        """Nobody answered, or nothing could be learned."""
        self._checked = self._looked = now
        self._be_patient(now)
        self._next_search = now + SEARCH_AGAIN
        if self._next_raise <= now:
            self._next_raise = now + self.raise_after

    def search_soon(self) -> None:
        """All is to be found out anew with the next traffic: the path is another one now, or may be probed now."""
        self.known = False
        self._next_search = self._next_hint = float("-inf")
