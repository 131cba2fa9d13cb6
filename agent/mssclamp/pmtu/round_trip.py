"""How long to wait for an answer, from the round trips measured so far (RFC 6298).

PURE. Every answer names the very copy that it answers, so each is a valid sample (Karn's algorithm, section 3, is met).
"""

from __future__ import annotations

from mssclamp.pmtu.constants import (
    FIRST_TIMEOUT,
    MAX_TIMEOUT,
    MIN_TIMEOUT,
    RTT_GAIN,
    RTT_VARIATION_GAIN,
    RTT_VARIATIONS,
)


class RoundTrip:
    """Smoothed round trip and its variation, in seconds; begins with what was measured at another time, if anything."""

    def __init__(self, known: float | None = None) -> None:
        self.smoothed: float | None = None
        self._variation = 0.0
        self._backoff = 1
        if known is not None:
            self.on_sample(known)

    @property
    def timeout(self) -> float:
        """Seconds after which an answer is overdue."""
        if self.smoothed is None:
            wanted = FIRST_TIMEOUT
        else:
            wanted = max(MIN_TIMEOUT, self.smoothed + RTT_VARIATIONS * self._variation)
        return min(MAX_TIMEOUT, wanted * self._backoff)

    def on_sample(self, seconds: float) -> None:
        """One measured round trip (sections 2.2 and 2.3)."""
        if self.smoothed is None:
            self.smoothed, self._variation = seconds, seconds / 2
        else:
            self._variation += RTT_VARIATION_GAIN * (abs(self.smoothed - seconds) - self._variation)
            self.smoothed += RTT_GAIN * (seconds - self.smoothed)
        self._backoff = 1

    def on_silence(self) -> None:
        """Nothing was answered at all: wait twice as long (section 5.5)."""
        self._backoff *= 2
