"""docs/support.md from what runs have left: `make vm-matrix`.

Between the marks in that file stands what this writes; the rest of it is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .machine import TREE, WORK

KERNELS = ("6.12", "6.1")
SUPPORT = TREE / "docs/support.md"

FEATURES = {
    "programs load, compiled by the kernel's JIT": ["test_programs"],
    "`clampctl` pin, show, probe, forget": ["test_commands"],
    "service under systemd; systemd-networkd leaves clampd's devices alone": ["test_service", "test_network_manager"],
    "`vagrant ssh gw-a`, then `sudo clampctl top`: a live table": ["test_top"],
    "the kernel's WireGuard: peers by generic netlink": ["test_kernel_peers"],
    "clamp both ways, both families inside": ["test_device_limit", "test_clamp"],
    '"too big" answered, both families; open connections go on': ["test_answers", "test_transfer_under_way"],
    "`route_mtu`, and the driver's padding bounded by it (1340 leave as 1404; with `route_mtu` as 1400)": [
        "test_padding",
        "test_route_mtu",
    ],
    "`wg-quick down` and `up`; roaming to an IPv6 endpoint (overhead 60, then 80)": [
        "test_down_and_up",
        "test_ipv6_underlay",
    ],
    "GRE, GRETAP, IPIP, SIT, VXLAN, Geneve over IPv4, GRE, IP and VXLAN over IPv6": [
        "test_tunnel",
        "test_overhead_over_ipv6",
    ],
    "a black hole under GRE, IPIP, SIT, VXLAN: found and healed": ["test_found"],
    "802.1Q": ["test_vlan"],
    "VRF": ["test_vrf"],
    "nftables flowtable (software)": ["test_flowtable"],
    "black hole over an IPv4 and an IPv6 underlay, shown without clampd": ["test_black_hole"],
    "the same healed by a pin, open connections included": ["test_pinned"],
    "the same found and healed with nothing declared, both ways, both families inside; the MTU rises again": [
        "test_healed"
    ],
    "a path that fragments: probes alone get DF, no user packet is lost during a search": [
        "test_a_path_that_fragments"
    ],
    "idle peers get no probe and no handshake": ["test_idle"],
    "restart, `kill -9`: no SYN unclamped": ["test_restart", "test_killed"],
    "upgrade from a wheel with other programs: no SYN unclamped": ["test_upgrade"],
    "reboot: no SYN unclamped after the first that clampd has clamped": ["test_reboot"],
}
"""Words for an operator, and the tests that show it."""

COST = "ns: "
"""How the names of costs begin."""

OTHERS = {
    "an empty program, ns": "ns: empty program",
    "compile and load, s": "load seconds",
    "instructions that the verifier went through, egress / ingress": (
        "clampd_l3_eg instructions verified",
        "clampd_l3_in instructions verified",
    ),
    "upgrade: SYNs meanwhile, none of them unclamped": "upgrade: SYNs meanwhile",
    "reboot: from wg0 up to clampd on it, s (below 0: there before)": "reboot: seconds from wg0 up to clampd on it",
    "reboot: SYNs that left meanwhile and after, and of these unclamped": (
        "reboot: SYNs that left, at 20 a second",
        "reboot: of these unclamped",
    ),
    "black hole over IPv4, four connections healed, s": "healed over IPv4, four connections, seconds",
    "black hole over IPv6, four connections healed, s": "healed over IPv6, four connections, seconds",
}


@dataclass(frozen=True)
class Run:
    """What `make vm-test` left for one kernel; empty where it has not been run."""

    figures: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Run:
        """From junit.xml and figures.json."""
        if not (folder / "junit.xml").exists():
            return cls()
        outcomes: dict[str, Counter[str]] = {}
        for case in ElementTree.parse(folder / "junit.xml").iter("testcase"):
            test = case.attrib["name"].partition("[")[0]
            bad = {child.tag for child in case} & {"failure", "error", "skipped"}
            outcomes.setdefault(test, Counter())["other" if bad else "passed"] += 1
        figures = folder / "figures.json"
        return cls(json.loads(figures.read_text()) if figures.exists() else {}, outcomes)

    def said(self, tests: list[str]) -> str:
        """One cell: yes, no with the counts, or a dash for tests that did not run."""
        total = sum((self.outcomes.get(test, Counter()) for test in tests), Counter[str]())
        if any(test not in self.outcomes for test in tests):
            return "–"
        return "no" if not total["passed"] else "yes" if not total["other"] else f"{total['passed']} of {total.total()}"

    def figure(self, names: str | tuple[str, ...]) -> str:
        """One or several figures."""
        names = (names,) if isinstance(names, str) else names
        return " / ".join(_number(self.figures[name]) if name in self.figures else "–" for name in names)


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 100 else f"{round(value):,}"


def features(runs: dict[str, Run]) -> str:
    """The matrix."""
    rows = [[words, *(run.said(tests) for run in runs.values()), ", ".join(tests)] for words, tests in FEATURES.items()]
    kernels = [
        f"Linux {kernel}" + (f" ({run.figures['kernel']})" if "kernel" in run.figures else "")
        for kernel, run in runs.items()
    ]
    return table(["feature", *kernels, "by"], rows)


def figures(runs: dict[str, Run]) -> str:
    """What was measured."""
    costs = {name for run in runs.values() for name in run.figures if name.startswith(COST) and "IPv4" in name}
    rows = [[words, *(run.figure(names) for run in runs.values())] for words, names in OTHERS.items()]
    for name in sorted(costs):
        words = name.removeprefix(COST).replace(", IPv4", "").replace(" 1 prefixes", " 1 prefix")
        both = (name, name.replace("IPv4", "IPv6"))
        rows.append([f"{words}: IPv4 / IPv6, ns", *(run.figure(both) for run in runs.values())])
    return table(["figure", *(f"Linux {kernel}" for kernel in runs)], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> int:
    """Write the tables; tests that no feature names are an error."""
    runs = {kernel: Run.read(WORK / kernel) for kernel in KERNELS}
    missing = [kernel for kernel, run in runs.items() if not run.outcomes]
    if missing:  # or what an earlier run showed would be lost
        print(f"vmlab/matrix.py: no results in {WORK}; first: make vm-test KERNEL={missing[0]}", file=sys.stderr)
        return 1
    unnamed = {test for run in runs.values() for test in run.outcomes} - {
        t for tests in FEATURES.values() for t in tests
    }
    if unnamed:
        print(f"vmlab/matrix.py: no feature names {', '.join(sorted(unnamed))}", file=sys.stderr)
        return 1
    text = SUPPORT.read_text()
    for mark, content in (("features", features(runs)), ("figures", figures(runs))):
        text, found = re.subn(
            rf"(?s)(<!-- {mark} -->\n).*?(<!-- end -->\n)",
            lambda match, content=content: match[1] + content + match[2],  # type: ignore[misc]
            text,
        )
        if found != 1:
            print(f"{SUPPORT}: the mark <!-- {mark} --> is not there", file=sys.stderr)
            return 1
    SUPPORT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
