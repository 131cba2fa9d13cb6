"""What a namespace's kernel counted."""

from __future__ import annotations

from pathlib import Path

from .namespace import Namespace


def checksum_errors(*namespaces: Namespace) -> dict[str, int]:
    """Packets that arrived with a wrong checksum, where there were any: "name counter" to how many."""
    found: dict[str, int] = {}
    for namespace in namespaces:
        for counter, value in _counters(namespace).items():
            if value and counter.endswith("InCsumErrors"):
                found[f"{namespace.name} {counter}"] = value
    return found


def _counters(namespace: Namespace) -> dict[str, int]:
    with namespace.entered():
        here = Path("/proc/thread-self/net")
        titles: list[str] = []
        values: list[str] = []
        for line in (here / "snmp").read_text().splitlines():
            protocol, _, rest = line.partition(": ")
            fields = rest.split()
            if fields[0].lstrip("-").isdigit():
                values += fields
            else:
                titles += [protocol + field for field in fields]
        counters = dict(zip(titles, map(int, values), strict=True))
        for line in (here / "snmp6").read_text().splitlines():
            title, value = line.split()
            counters[title] = int(value)
    return counters
