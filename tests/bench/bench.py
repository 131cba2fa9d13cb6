"""`make bench`: what clampd costs, beside doing nothing and beside Linux's own clamps.

Prints tables and writes build/bench.json. Figures are ratios and differences within one run; nothing here passes or
fails, for it is a machine's business how fast it is.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import correctness, flood, forwarding, healing, programs

OUTPUT = Path(__file__).resolve().parent.parent.parent / "build" / "bench.json"


def main() -> None:
    """Measures and tells."""
    if os.geteuid() != 0:
        sys.exit("make bench: needs root, for namespaces and BPF")
    console = Console()
    console.print(f"Linux {platform.release()}, {os.cpu_count()} CPUs")
    verdicts = correctness.measure()
    console.print(_verdict_table(verdicts))
    costs = programs.measure()
    console.print(_cost_table(costs))
    throughputs = forwarding.measure()
    console.print(_throughput_table(throughputs))
    disturbances = flood.measure()
    console.print(_flood_table(disturbances))
    healings = healing.measure()
    console.print(healing.table(healings))
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(
        json.dumps(
            {
                "schema": 1,
                "kernel": platform.release(),
                "cpus": os.cpu_count(),
                "correctness": [asdict(each) for each in verdicts],
                "programs": [asdict(cost) for cost in costs],
                "flood": [asdict(each) | {"median": each.median} for each in disturbances],
                "healing": [asdict(each) | {"median": each.median, "worst": each.worst} for each in healings],
                "forwarding": [asdict(each) | {"median": each.median, "ratio": each.ratio} for each in throughputs],
            },
            indent=1,
        )
    )
    console.print(f"written to {OUTPUT.relative_to(Path.cwd())}" if OUTPUT.is_relative_to(Path.cwd()) else OUTPUT)


def _verdict_table(verdicts: list[correctness.Verdict]) -> Table:
    table = Table(title="a SYN with MSS 1460 through each clamp")
    clamps = list(dict.fromkeys(each.clamp for each in verdicts))
    for column in ("the option stands", *clamps):
        table.add_column(column)
    for case in dict.fromkeys(each.case for each in verdicts):
        table.add_row(
            case, *(each.verdict for clamp in clamps for each in verdicts if (each.clamp, each.case) == (clamp, case))
        )
    return table


def _cost_table(costs: list[programs.Cost]) -> Table:
    counts = sorted({cost.prefixes for cost in costs})
    table = Table(title="ns per packet over an empty program")
    table.add_column("packet")
    for count in counts:
        table.add_column(f"{count:,} prefixes", justify="right")
    for what, family in dict.fromkeys((cost.what, cost.family) for cost in costs):
        figures = {cost.prefixes: cost.nanoseconds for cost in costs if (cost.what, cost.family) == (what, family)}
        table.add_row(f"IPv{family} {what}", *(f"{figures[count]:.0f}" if count in figures else "" for count in counts))
    return table


def _throughput_table(throughputs: list[forwarding.Throughput]) -> Table:
    table = Table(title="TCP through the gateway")
    for column in ("clamp", "median Mbit/s", "min", "max", "of nothing"):
        table.add_column(column, justify="left" if column == "clamp" else "right")
    for each in throughputs:
        table.add_row(
            each.how,
            f"{each.median:.0f}",
            f"{min(each.rounds):.0f}",
            f"{max(each.rounds):.0f}",
            f"{each.ratio:.3f}",
        )
    return table


def _flood_table(disturbances: list[flood.Disturbance]) -> Table:
    base = disturbances[0].median
    table = Table(title=f"a TCP stream of {flood.OTHERS}bit/s beside a flood of {flood.RATE:,} packets a second")
    for column in ("flood", "median Mbit/s", "min", "of undisturbed", "oversize", "answered"):
        table.add_column(column, justify="left" if column == "flood" else "right")
    for each in disturbances:
        table.add_row(
            each.flood,
            f"{each.median:.0f}",
            f"{min(each.rounds):.0f}",
            f"{each.median / base:.3f}",
            f"{each.oversize:,}",
            f"{each.answered:,}",
        )
    return table


if __name__ == "__main__":
    main()
