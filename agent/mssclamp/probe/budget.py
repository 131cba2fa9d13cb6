"""The budget of packets: so many a second over all orders.

PURE. A bucket that may be overdrawn: who finds one packet's worth in it sends his whole wave, and the next one waits
the longer. So a wave is never cut in two, and the rate holds all the same.
"""

from __future__ import annotations


class Budget:
    """`rate` packets a second, and as many at once."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate, self._burst = rate, max(1.0, rate)
        self._level = self._burst
        self._at = now

    def set_rate(self, rate: float, now: float) -> None:
        """Another rate from now on."""
        self._fill(now)
        self._rate, self._burst = rate, max(1.0, rate)
        self._level = min(self._level, self._burst)

    def ready_at(self, now: float) -> float:
        """When something may be sent: `now`, or later."""
        self._fill(now)
        return now if self._level >= 1 else now + (1 - self._level) / self._rate + _MARGIN

    def take(self, packets: int) -> None:
        """So many were sent."""
        self._level -= packets

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now


_MARGIN = 0.001
"""Seconds: beyond any rounding of the above."""
