"""Forwarding throughput through a gateway, as it is and with each way of clamping, in turn.

    client ──── gateway ──── site          TCP from client to site, forwarded by the gateway

Every round runs every contestant once, in another order each time, so that what the machine does beside this falls on
all alike.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass

from bench.contestants import CONTESTANTS, MTU, narrow_line
from lab import Lab, topology
from lab.command import wait_for
from lab.process import Process
from lab.topology import Line

ROUNDS = 13
SECONDS = 2


@dataclass(frozen=True)
class Throughput:
    """Mbit/s of every round."""

    how: str
    rounds: list[float]
    ratios: list[float]
    """Each round's figure over the same round's without any clamp: the machine's own ups and downs cancel out."""

    @property
    def median(self) -> float:
        """Mbit/s."""
        return statistics.median(self.rounds)

    @property
    def ratio(self) -> float:
        """The figure to quote: the median of the rounds' ratios."""
        return round(statistics.median(self.ratios), 3)


def measure() -> list[Throughput]:
    """All contestants, with segments of the same size: the client is told the MSS that the clamps would give it."""
    results: dict[str, list[float]] = {how: [] for how in CONTESTANTS}
    with Lab() as lab:
        line = narrow_line(lab)
        line.client.ip(f"route replace default via {topology.GATEWAY_LAN[4]} mtu lock {MTU}")
        server = Process(line.site.argv("iperf3", "-s", "--forceflush"), lab.directory() / "iperf3.log")
        with server:
            wait_for(lambda: "listening" in server.output().lower(), "iperf3 to listen")
            for number in range(ROUNDS):
                turn = number % len(CONTESTANTS)
                for how in [*CONTESTANTS, *CONTESTANTS][turn : turn + len(CONTESTANTS)]:
                    with CONTESTANTS[how](lab, line):
                        results[how].append(_iperf(line))
    base = results["nothing"]
    return [
        Throughput(how, rounds, [round(one / other, 3) for one, other in zip(rounds, base, strict=True)])
        for how, rounds in results.items()
    ]


def _iperf(line: Line) -> float:
    done = line.client.run("iperf3", "-c", topology.SITE[4], "-t", str(SECONDS), "-J", timeout=SECONDS + 20)
    return round(float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6, 1)
