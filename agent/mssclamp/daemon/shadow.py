"""Devices whose packets go past our programs: hardware offload, or a foreign program that ends the hook before us.

PURE. What counts is the comparison over a while: the device moved many packets in a direction, our program saw none.
(Fewer is no sign: the hook sees a GRO super-packet once, the device counts its forty segments.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Hook = Literal["ingress", "egress"]

_INTERVAL = 5.0
"""Seconds between two samples at least."""

_MANY = 50
"""Packets in that time that make a silent program suspicious."""


@dataclass(frozen=True)
class Sample:
    """Packets so far on one hook of a device: as the device counts, and as our program does."""

    moved: int
    seen: int


class ShadowWatch:
    """Remembers the last samples, and which hooks were shadowed when it last compared."""

    def __init__(self) -> None:
        self._at = float("-inf")
        self._last: dict[tuple[int, Hook], Sample] = {}
        self._shadowed: set[tuple[int, Hook]] = set()

    def look(self, now: float, samples: Mapping[tuple[int, Hook], Sample]) -> None:
        """Takes new samples by (ifindex, hook); too early ones are passed over."""
        if now - self._at < _INTERVAL:
            return
        self._at = now
        for key, sample in samples.items():
            last = self._last.get(key)
            if last is None or sample.moved < last.moved or sample.seen < last.seen or sample.seen > last.seen:
                self._shadowed.discard(key)
            elif sample.moved - last.moved >= _MANY:
                self._shadowed.add(key)
        self._shadowed &= samples.keys()
        self._last = dict(samples)

    def is_shadowed(self, ifindex: int, hook: Hook) -> bool:
        """Whether packets went past our program on this hook."""
        return (ifindex, hook) in self._shadowed
