"""A path that carries echo probes: what it drops, how long it takes, and how it changes."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Policer:
    """A token bucket with other traffic in it: `load` times its rate is offered in packets of 1500 bytes.

    Who finds too few tokens is dropped; so a bucket that is kept near empty lets small packets through and drops
    most large ones, and looks like a small MTU.
    """

    rate: float = 1_250_000.0
    """Bytes a second."""
    burst: float = 15_000.0
    load: float = 1.1
    packet: int = 1500

    def __post_init__(self) -> None:
        self._tokens = self.burst
        self._filled = 0.0
        self._next = 0.0
        self.last_passed: float | None = None
        """When a packet of the other traffic last got through."""

    def passes(self, size: int, now: float, chance: random.Random) -> bool:
        """Whether a packet of ours gets through at this time."""
        while self._next <= now:
            if self._take(self.packet, self._next):
                self.last_passed = self._next
            self._next += self.packet / (self.rate * self.load) * chance.uniform(0.5, 1.5)
        return self._take(size, now)

    def _take(self, size: int, now: float) -> bool:
        self._tokens = min(self.burst, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens < size:
            return False
        self._tokens -= size
        return True


@dataclass
class Path:
    """From a probe's size and time to the times of its answers: none, one, or two.

    `mtus`: (from when, MTU), the first from 0. `loss` is of a whole round trip. `jitter` (seconds) reorders;
    `late` is the share of answers that take half a second more.
    """

    mtus: Sequence[tuple[float, int]]
    delay: float = 0.012
    loss: float = 0.0
    jitter: float = 0.0
    late: float = 0.0
    duplicates: float = 0.0
    policer: Policer | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def mtu(self, now: float) -> int:
        """The MTU in force at this time; 0 for a peer that is away."""
        return self.mtus[bisect_right([at for at, _ in self.mtus], now) - 1][1]

    def answers(self, size: int, now: float) -> list[float]:
        """When the answers to a probe sent now arrive."""
        if self.policer is not None and not self.policer.passes(size, now, self.chance):
            return []
        if size > self.mtu(now) or self.chance.random() < self.loss:
            return []
        trip = self.delay + self.chance.random() * self.jitter + 0.5 * (self.chance.random() < self.late)
        copies = 2 if self.chance.random() < self.duplicates else 1
        return [now + trip * (1 + copy) for copy in range(copies)]
