"""How long a transfer under way hangs when its path gets smaller and nobody says so.

The chain (lab.chain) over IPv4: a TCP upload of a fixed rate from host to host, then the link between the routers loses
what is over 1400 bytes, all fragments and all ICMP about it. Measured from there until 80 % of the goodput that the new
path allows has come back (the path allows more than the upload's rate, so that rate counts) and lasts.

python tests/bench/healing.py
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import Lab, LabError, Upload
from lab.chain import DEVICE_MTU, Chain, chain
from lab.crowd import strangers
from lab.finder import finder
from lab.goodput import SHARE, rate_of, watch
from lab.tinc import Tinc
from lab.upload import BYTES_A_SECOND

SMALLER = 1400
PEERS = 200
LIMIT_SECONDS = 120.0
"""TCP itself tries 51 s and 102 s after it has lost its path, and not in between."""
WARM_SECONDS = 2.0
TINC_SECONDS = 10.0
"""It looks for the path's MTU when it has connected."""


@dataclass(frozen=True)
class Healing:
    """Seconds of each run; None: it still hung when the run was given up. `lost`: connections that broke."""

    how: str
    runs: list[float | None]
    lost: int

    @property
    def median(self) -> float | None:
        """The figure to quote; None where most runs were given up."""
        middle = statistics.median(float("inf") if run is None else run for run in self.runs)
        return None if middle == float("inf") else round(middle, 2)

    @property
    def worst(self) -> float | None:
        """None where one was given up."""
        return None if None in self.runs else max(run for run in self.runs if run is not None)


Ready = Callable[[], None]
"""Called with the upload in full flight; comes back when the contestant has seen all that it wants to see before."""


@contextmanager
def _clampd(lab: Lab, built: Chain) -> Iterator[Ready]:
    """With shipped defaults, and further peers."""
    strangers(built.ends[0].tunnel, PEERS)
    found = finder(lab, built)

    def settled() -> None:
        found.wait(DEVICE_MTU)

    yield settled


@contextmanager
def _tcp_mtu_probing(_lab: Lab, built: Chain) -> Iterator[Ready]:
    """Where it helps: at the sending host."""
    built.ends[0].host.sysctl("net.ipv4.tcp_mtu_probing", 1)
    yield _at_once


@contextmanager
def _tinc(lab: Lab, built: Chain) -> Iterator[Ready]:
    with Tinc(built, lab.directory()):
        yield lambda: time.sleep(TINC_SECONDS)


@contextmanager
def _nothing(_lab: Lab, _built: Chain) -> Iterator[Ready]:
    yield _at_once


def _at_once() -> None:
    """Nothing to wait for."""


CONTESTANTS: dict[str, tuple[Callable[[Lab, Chain], AbstractContextManager[Ready]], int]] = {
    "WireGuard and clampd": (_clampd, 20),
    "WireGuard, tcp_mtu_probing=1": (_tcp_mtu_probing, 5),
    "tinc 1.0": (_tinc, 2),
    "WireGuard alone": (_nothing, 1),
}
"""With how many runs."""


def measure(*names: str) -> list[Healing]:
    """These contestants, or all."""
    results = []
    for name in names or CONTESTANTS:
        put_on, count = CONTESTANTS[name]
        runs = [_run(put_on) for _ in range(count)]
        results.append(Healing(name, [seconds for seconds, _ in runs], sum(lost for _, lost in runs)))
    return results


def table(healings: list[Healing]) -> Table:
    """As `make bench` prints it."""
    shown = Table(
        title=f"a path shrinks to {SMALLER} under a TCP upload: seconds until {SHARE:.0%} of the goodput is back"
    )
    for column in ("tunnel", "runs", "median", "worst", "connections lost"):
        shown.add_column(column, justify="left" if column == "tunnel" else "right")
    for each in healings:
        figures = (f"> {LIMIT_SECONDS:g}" if each is None else f"{each:.2f}" for each in (each.median, each.worst))
        shown.add_row(each.how, str(len(each.runs)), *figures, str(each.lost))
    return shown


def _run(put_on: Callable[[Lab, Chain], AbstractContextManager[Ready]]) -> tuple[float | None, bool]:
    """Seconds to heal (None: over the limit), and whether the connection was lost."""
    with Lab() as lab:
        built = chain(lab, 4)
        near, far = built.ends
        ready = lab.enter(put_on(lab, built))
        with Upload(near.host, far.host, far.host_address[4]) as upload:
            ready()
            # Not in step with anything periodic.
            time.sleep(WARM_SECONDS + random.random())
            rate = rate_of(upload, WARM_SECONDS)
            if rate < BYTES_A_SECOND / 2:
                raise LabError(f"{rate:.0f} bytes a second before the path has shrunk: this machine is too busy")
            began = time.monotonic()
            built.shrink(SMALLER)
            try:
                return watch(upload, began, rate, limit=LIMIT_SECONDS).seconds, False
            except LabError:
                return None, True


def main() -> None:
    """Prints the table alone."""
    Console().print(table(measure(*sys.argv[1:])))


if __name__ == "__main__":
    main()
