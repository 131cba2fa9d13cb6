"""Rounds, probes and time of the search beside others, over the same simulated path (tests/sim): for docs/search.md.

python tests/bench/search.py
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as File
from statistics import median

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(File(__file__).resolve().parent.parent))

from mssclamp.pmtu.search import Search
from sim import Path, drive
from sim.models import Bisection, Quinn, Tinc

FLOOR, CEILING = 576, 1501
RTT = 0.03
WELL_KNOWN = (1500, 1492, 1480, 1472, 1460, 1450, 1440, 1420, 1400, 1380, 1358, 1320, 1280)


class Ours(Search):
    """The search, with the models' way to say what it found."""

    @property
    def mtu(self) -> int | None:
        """None: nothing answered, the MTU would stay."""
        return self.result.mtu if self.result else None


Maker = Callable[[int, int], Ours | Bisection | Quinn | Tinc]
CONTESTANTS: dict[str, Maker] = {"clampd": Ours, "bisection": Bisection, "quinn": Quinn, "tinc 1.1": Tinc}


@dataclass(frozen=True)
class Run:
    """One search."""

    rounds: int
    """How often something was waited for; of one probe at a time, the probes."""
    probes: int
    seconds: float
    short: int | None
    """Bytes by which the answer is below the path's MTU (negative: too large); None: no answer at all."""


def runs(make: Maker, mtus: list[int], loss: float) -> list[Run]:
    """One search for each MTU."""
    made = []
    for seed, mtu in enumerate(mtus):
        search = make(FLOOR, CEILING)
        outcome = drive(search, Path([(0, mtu)], delay=RTT, loss=loss, chance=random.Random(seed)))
        rounds = len(search.rounds) if isinstance(search, Ours) else len(outcome.sent)
        short = None if search.mtu is None else mtu - search.mtu
        made.append(Run(rounds, len(outcome.sent), outcome.seconds, short))
    return made


def main() -> None:
    """Prints the table."""
    table = Table(title=f"search between {FLOOR} and {CEILING - 1} bytes, round trip {RTT * 1000:.0f} ms")
    for column in (
        "path MTUs",
        "loss",
        "search",
        "rounds",
        "probes",
        "s (median)",
        "s (worst)",
        "exact",
        "worst error",
    ):
        table.add_column(column, justify="left" if column in ("path MTUs", "search") else "right")
    every = list(range(FLOOR, CEILING))
    for name, mtus in (("well-known", list(WELL_KNOWN)), ("1280 to 1500", every[704:]), ("576 to 1279", every[:704])):
        for loss in (0.0, 0.1, 0.3):
            for contestant, make in CONTESTANTS.items():
                repeated = mtus * (1 if not loss else 400 // len(mtus) + 1)
                done = runs(make, repeated, loss)
                table.add_row(
                    name,
                    f"{loss:.0%}",
                    contestant,
                    f"{median(run.rounds for run in done):.0f}",
                    f"{median(run.probes for run in done):.0f}",
                    f"{median(run.seconds for run in done):.2f}",
                    f"{max(run.seconds for run in done):.2f}",
                    f"{sum(run.short == 0 for run in done) / len(done):.1%}",
                    str(max((run.short for run in done if run.short is not None), key=abs)),
                )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
