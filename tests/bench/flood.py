"""What a flood of oversize packets costs the others.

    client ──── gateway ──── site          a TCP stream of a fixed rate, and beside it 100,000 UDP packets a second

Once alone, once beside a flood of packets that fit, once beside one of packets that are all over the peer's MTU.
"""

from __future__ import annotations

import json
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.contestants import CONFIG, MTU
from lab import Lab, topology
from lab.command import wait_for
from lab.process import Process

ROUNDS = 5
SECONDS = 3
RATE = 100_000
OTHERS = "1G"
FLOODS = {"no flood": None, "of 1,300 bytes, which fit": 1300, "of 1,450 bytes, oversize": 1450}


@dataclass(frozen=True)
class Disturbance:
    """Mbit/s of the others in every round; `oversize` and `answered`: packets in all rounds together."""

    flood: str
    rounds: list[float]
    oversize: int
    answered: int

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.rounds)


def measure() -> list[Disturbance]:
    """All floods, in turn."""
    rates: dict[str, list[float]] = {name: [] for name in FLOODS}
    counted = dict.fromkeys(FLOODS, (0, 0))
    with Lab() as lab:
        line = topology.line(lab)
        line.client.run("ethtool", "-K", "lan", "tx-udp-segmentation", "off")
        daemon = lab.clampd(line.gateway, CONFIG)
        daemon.attached(line.device)
        server = lab.enter(Process(line.site.argv("iperf3", "-s", "--forceflush"), lab.directory() / "iperf3.log"))
        wait_for(lambda: "listening" in server.output().lower(), "iperf3 to listen")
        for _ in range(ROUNDS):
            for name, size in FLOODS.items():
                before = daemon.peer("site")["counters"]
                with ExitStack() as flood:
                    if size is not None:
                        flood.enter_context(
                            Process(
                                line.client.argv(
                                    sys.executable, str(Path(__file__).with_name("flood_sender.py")),
                                    topology.SITE[4], str(size), str(RATE),
                                ),
                                lab.directory() / "flood.log",
                            )
                        )  # fmt: skip
                    done = line.client.run(
                        "iperf3", "-c", topology.SITE[4], "-t", str(SECONDS), "-b", OTHERS, "-M", str(MTU - 40), "-J",
                        timeout=SECONDS + 20,
                    )  # fmt: skip
                rates[name].append(
                    round(float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6, 1)
                )
                after = daemon.peer("site")["counters"]
                counted[name] = (
                    counted[name][0] + after["oversize"] - before["oversize"],
                    counted[name][1] + after["too_big_sent"] - before["too_big_sent"],
                )
    return [Disturbance(name, rounds, *counted[name]) for name, rounds in rates.items()]
