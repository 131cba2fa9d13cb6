"""The check of a size in force: does it still pass?

PURE. One probe, driven like a `Search`. Its loss proves nothing: it says that a search is due.
"""

from __future__ import annotations

from mssclamp.pmtu.round_trip import RoundTrip
from mssclamp.pmtu.search import Probe, Result, Round, Verdict, milliseconds


class Check:
    """One probe of `size`, the inner IP packet in bytes. `rtt`: seconds, as measured before."""

    fallen: int | None = None
    """As in a search; one loss is no proof."""

    def __init__(self, size: int, *, rtt: float | None = None) -> None:
        self._size = size
        self._sent: float | None = None
        self._due = 0.0
        self.round_trip = RoundTrip(rtt)
        self.result: Result | None = None
        self.floor: int | None = None
        self.probes = 0

    def start(self, now: float) -> None:
        """Begins."""
        self._due = now

    def probes_to_send(self, now: float) -> list[Probe]:
        """The probe, once."""
        if self.done or self._sent is not None or now < self._due:
            return []
        self._sent, self.probes = now, 1
        return [Probe(0, self._size)]

    def on_answer(self, number: int, now: float) -> bool:
        """The probe was answered; False if there is none under way. Late answers count too."""
        if number or self._sent is None or self.floor is not None:
            return False
        self.round_trip.on_sample(now - self._sent)
        self._passed(f"{self._size} answered in {milliseconds(now - self._sent)}")
        return True

    def on_passed(self, size: int, now: float) -> None:  # noqa: ARG002 - the search's interface
        """Something else proves that so much passes now."""
        if size >= self._size:
            self._passed(f"{size} was seen to pass")

    def on_refused(self, ceiling: int, now: float) -> None:  # noqa: ARG002
        """This machine sends nothing of `ceiling` bytes or more."""
        if ceiling <= self._size:
            self._doubt(f"this machine sends nothing of {ceiling} bytes or more")

    def on_not_sent(self, number: int) -> None:  # noqa: ARG002
        """The probe did not leave this machine."""
        self._doubt(f"{self._size} did not leave this machine")

    def next_deadline(self) -> float | None:
        """When to call `probes_to_send` or `on_timeout` next; None once there is a result."""
        if self.done:
            return None
        return self._due if self._sent is None else self._sent + self.round_trip.timeout

    def on_timeout(self, now: float) -> None:
        """Gives up waiting if it is time to."""
        if not self.done and self._sent is not None and now >= self._sent + self.round_trip.timeout:
            self._doubt(f"{self._size} lost once")

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.result is not None

    @property
    def rounds(self) -> list[Round]:
        """The one round, told when it is over: a check that passes is nothing to tell."""
        if self.result is None or self.floor is not None:
            return []
        return [Round(1, {}, {self._size: self.probes}, self.probes)]

    def _passed(self, text: str) -> None:
        self.floor = self._size
        self.result = Result(Verdict.EXACT, self._size, None, text)

    def _doubt(self, text: str) -> None:
        if self.result is None:
            self.result = Result(Verdict.DOUBT, None, None, text)
