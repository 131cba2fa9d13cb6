"""Who is enforced, and until when.

PURE. Three things speak: the configuration (for all, a device, a peer), the operator through clampctl (for all or a
device, kept over restarts), and trials (`enforce --for`). What was said of a device beats what was said of all; what
the operator says beats the file. Two exceptions, both on the side of doing less: a peer whose own entry in the file
says `observe` is never enforced, and `observe` said of a scope ends everything in it, a peer's own `enforce` included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mssclamp.errors import ConflictError

Mode = Literal["observe", "enforce"]

EVERY_DEVICE = "*"

NEVER = 0
FOREVER = 2**64 - 1


@dataclass
class Modes:
    """What the operator said, by scope (a device's name or EVERY_DEVICE). Times are CLOCK_BOOTTIME ns."""

    chosen: dict[str, Mode] = field(default_factory=dict)
    trials: dict[str, int] = field(default_factory=dict)

    def set(self, mode: Mode, device: str | None) -> None:
        """For good. What is said of all devices replaces what was said of single ones."""
        self._clear(device)
        self.chosen[device or EVERY_DEVICE] = mode

    def start_trial(self, device: str | None, until: int) -> None:
        """Enforces until then; a trial already under way in this scope is replaced, others stay."""
        self.trials[device or EVERY_DEVICE] = until

    def confirm(self, now: int) -> list[str]:
        """Makes every trial under way permanent, for whom it enforced; returns their scopes.

        Raises ConflictError where there is none.
        """
        self.expire(now)
        if not self.trials:
            raise ConflictError("there is no trial to confirm", fix="`clampctl enforce` enforces for good")
        scopes = sorted(self.trials)
        for scope in scopes:
            self.chosen[scope] = "enforce"
        self.trials.clear()
        return scopes

    def expire(self, now: int) -> list[str]:
        """Drops trials that are over; returns their scopes."""
        over = sorted(scope for scope, until in self.trials.items() if until <= now)
        for scope in over:
            del self.trials[scope]
        return over

    def next_deadline(self) -> int | None:
        """When the next trial ends."""
        return min(self.trials.values(), default=None)

    def enforce_until(self, device: str, configured: Mode, peer: Mode | None) -> int:
        """Until when a peer is enforced: NEVER, FOREVER, or a trial's end. `peer` is its own entry's mode."""
        if peer == "observe":
            return NEVER
        own = self.chosen.get(device)
        if (own or self.chosen.get(EVERY_DEVICE) or peer or configured) == "enforce":
            return FOREVER
        trial = self.trials.get(device, NEVER)
        # `observe` said of this device alone keeps it out of a trial of all devices, whichever was said first.
        return trial if own == "observe" else max(trial, self.trials.get(EVERY_DEVICE, NEVER))

    def _clear(self, device: str | None) -> None:
        for held in (self.chosen, self.trials):
            if device is None:
                held.clear()
            else:
                held.pop(device, None)


def scopes_text(scopes: Mapping[str, object] | list[str]) -> str:
    """Scopes for people."""
    return ", ".join("all devices" if scope == EVERY_DEVICE else scope for scope in scopes)
