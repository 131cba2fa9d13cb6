"""Other searches for the same thing, as short models, to compare with ours over the same simulated path.

Written from their public documentation and source, reduced to which size is sent when; each gets the same timeouts as
ours (RFC 6298 from 200 ms on) unless it has its own.
"""

from __future__ import annotations

from mssclamp.pmtu.round_trip import RoundTrip
from mssclamp.pmtu.search import Probe


class OneAtATime:
    """A search with one probe under way, and what a subclass makes of its answer or loss."""

    def __init__(self, floor: int, ceiling: int) -> None:
        self.low, self.high = floor, ceiling - 1
        self.probes = 0
        self._size: int | None = None
        self._due = False
        self._sent_at = 0.0
        self._losses = 0
        self._trip = RoundTrip()

    @property
    def done(self) -> bool:
        return self._size is None

    @property
    def mtu(self) -> int:
        return self.low

    def start(self, now: float) -> None:  # noqa: ARG002
        self._try(self.next_size())

    def probes_to_send(self, now: float) -> list[Probe]:
        if not self._due or self._size is None:
            return []
        self._due, self._sent_at = False, now
        self.probes += 1
        return [Probe(self.probes, self._size)]

    def on_answer(self, number: int, now: float) -> bool:
        if number != self.probes or self._size is None:
            return False
        self._trip.on_sample(now - self._sent_at)
        self._losses = 0
        self.passed(self._size)
        self._try(self.next_size())
        return True

    def next_deadline(self) -> float | None:
        return None if self.done else self._sent_at + self._trip.timeout

    def on_timeout(self, now: float) -> None:
        if self._size is None or now < self._sent_at + self._trip.timeout:
            return
        self._losses += 1
        if self._losses < 3:
            self._try(self._size)
            return
        self._losses = 0
        self.lost(self._size)
        self._try(self.next_size())

    def next_size(self) -> int | None:
        raise NotImplementedError

    def passed(self, size: int) -> None:
        self.low = size

    def lost(self, size: int) -> None:
        self.high = size - 1

    def _try(self, size: int | None) -> None:
        self._size, self._due = size, size is not None


class Bisection(OneAtATime):
    """What operators type: the middle of what is left, three tries each, down to the byte."""

    def next_size(self) -> int | None:
        return (self.low + self.high + 1) // 2 if self.low < self.high else None


class Quinn(OneAtATime):
    """quinn (quinn-proto, mtud.rs, defaults of MtuDiscoveryConfig): bisection; a probe lost three times lowers the
    upper bound; ends when the next step would be under 20 bytes, with the upper bound itself as a last try where it is
    at least that far off. By design its answer may be some 20 bytes too small."""

    STEP = 20

    def __init__(self, floor: int, ceiling: int) -> None:
        super().__init__(floor, ceiling)
        self._last = floor

    def next_size(self) -> int | None:
        middle = (self.low + self.high) // 2
        if abs(middle - self._last) < self.STEP:
            if self.high - self._last < self.STEP:
                return None
            middle = self.high
        self._last = middle
        return middle


class Tinc:
    """tinc 1.1 (net_packet.c, try_mtu): 20 probes, one every 333 ms, whatever becomes of them. Within each cycle of 8
    the distance above the largest answered size falls exponentially from the whole interval to 1 byte (the exponent
    times 0.97 while nothing bounds the interval); when the bounds meet, or after 20 probes, the value is fixed."""

    CYCLE, PROBES, INTERVAL = 8, 20, 0.333

    def __init__(self, floor: int, ceiling: int) -> None:
        self.low, self.high = floor, ceiling - 1
        self.probes = 0
        self._sizes: dict[int, int] = {}
        self._next: float | None = 0.0

    @property
    def done(self) -> bool:
        return self._next is None

    @property
    def mtu(self) -> int:
        return self.low

    def start(self, now: float) -> None:
        self._next = now

    def probes_to_send(self, now: float) -> list[Probe]:
        if self._next is None or now < self._next:
            return []
        position = self.CYCLE - self.probes % self.CYCLE - 1
        size = self.low + int((self.high - self.low) ** (0.97 * position / (self.CYCLE - 1)))
        self.probes += 1
        self._sizes[self.probes] = min(size, self.high)
        self._next = now + self.INTERVAL
        return [Probe(self.probes, self._sizes[self.probes])]

    def on_answer(self, number: int, now: float) -> bool:  # noqa: ARG002
        self.low = max(self.low, self._sizes[number])
        return True

    def next_deadline(self) -> float | None:
        return self._next

    def on_timeout(self, now: float) -> None:
        if self._next is not None and now >= self._next and (self.probes == self.PROBES or self.low >= self.high):
            self._next = None
