"""What this kernel's verifier says to the programs, and what they cost."""

from __future__ import annotations

import json

from vmlab.checks import Record
from vmlab.machine import TREE
from vmlab.site import Site

MEASURE_SECONDS = 500


def test_programs(site: Site, record: Record) -> None:
    """All load; nanoseconds per packet over an empty program. Under emulation only their proportions mean something."""
    site.gw_a.push({"programs.py": (TREE / "tests/bench/programs.py").read_bytes()}, "/opt/lab")
    said = site.gw_a.run("/opt/clampd/bin/python", "/opt/lab/figures.py", timeout=MEASURE_SECONDS)
    measured = json.loads(said)
    record("kernel", measured["kernel"])
    record("load seconds", measured["load"])
    for name, program in measured["programs"].items():
        assert program["jited"], f"{name} is interpreted"
        record(f"{name} instructions", program["instructions"])
        record(f"{name} instructions verified", program["verified"])
    for cost in measured["costs"]:
        record(f"ns: {cost['what']}, IPv{cost['family']}, {cost['prefixes']} prefixes", cost["nanoseconds"])
    record("ns: empty program", measured["empty"])
