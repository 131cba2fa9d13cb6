"""Values in words, for people.

PURE. Times come in as RFC 3339 text, the present as a datetime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from mssclamp.control.protocol import Counters, Event, Peer, Trial

UNKNOWN = "-"


def span(seconds: float) -> str:
    """A length of time in its two largest units: "2h 5m"."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def age(at: str | None, now: datetime) -> str:
    """How long ago that was, in its largest unit: "5m"."""
    if at is None:
        return UNKNOWN
    return span((now - datetime.fromisoformat(at)).total_seconds()).split()[0]


def size(value: int | None) -> str:
    """A number of bytes, if known."""
    return UNKNOWN if value is None else str(value)


def mss(mss4: int | None, mss6: int | None) -> str:
    """Both families' MSS: "1340/1320"."""
    return UNKNOWN if mss4 is None and mss6 is None else f"{size(mss4)}/{size(mss6)}"


def shortened(items: Sequence[str], shown: int = 1) -> str:
    """The first of a list, and how many more: "10.7.0.0/16 +2"."""
    more = f" +{len(items) - shown}" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more or UNKNOWN


def counts(numbers: Mapping[str, int]) -> str:
    """The counters that are not zero: "clamped 12, would clamp 3"."""
    told = [f"{name.replace('_', ' ')} {count}" for name, count in numbers.items() if count]
    return ", ".join(told) or "nothing yet"


def counters(of: Counters) -> str:
    """A peer's counters that are not zero."""
    return counts(msgspec.structs.asdict(of))


def trial(of: Trial, seconds_left: float | None = None) -> str:
    """A trial, and what will become of it."""
    left = of.seconds_left if seconds_left is None else seconds_left
    return f"{of.device or 'all devices'}: enforcing on trial, {span(left)} left; `clampctl confirm` keeps it"


def states(peers: Mapping[str, int]) -> str:
    """How many peers there are, and in which states: "3 peers: 2 pinned, 1 unprobed"."""
    total = sum(peers.values())
    told = ", ".join(f"{count} {state}" for state, count in sorted(peers.items()) if count)
    return f"{total} peer{'' if total == 1 else 's'}" + (f": {told}" if told else "")


PEER_COLUMNS = ("name", "device", "state", "mtu", "mss", "source", "mode", "clamped", "would", "prefixes", "changed")
NUMBERS = frozenset({"mtu", "clamped", "would", "clamp/s", "would/s"})
"""Columns that are set flush right."""


def peer_row(of: Peer, now: datetime) -> tuple[str, ...]:
    """One peer, a cell for each of PEER_COLUMNS."""
    return (
        of.name,
        of.device,
        of.state,
        size(of.mtu),
        mss(of.mss4, of.mss6),
        of.source or UNKNOWN,
        of.mode,
        str(of.counters.clamped),
        str(of.counters.would_clamp),
        shortened(of.prefixes),
        age(of.changed, now),
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of plain text, as wide as it takes; quick with tens of thousands of rows."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    aligned = [
        f"{{:{'>' if column in NUMBERS else '<'}{width}}}" for column, width in zip(columns, widths, strict=True)
    ]
    line = "  ".join(aligned)
    return "\n".join(line.format(*row).rstrip() for row in (columns, *rows))


def event(of: Event) -> str:
    """One event as a sentence, without its time."""
    details = {key: value for key, value in of.details.items() if value is not None}
    peer, device, why = of.peer or "?", details.pop("device", None), details.pop("why", None)
    reason = f": {why}" if why else ""
    match of.event:
        case "mtu-changed":
            return f"{peer}: MTU {details.get('old', 'unknown')} -> {details.get('new', 'unknown')}{reason}"
        case "peer-added":
            return f"{peer}: new peer, MTU {details.get('mtu', 'unknown')}{reason}"
        case "peer-removed":
            return f"{peer}: no longer a peer{reason}"
        case "device-attached":
            return f"{device}: programs attached{reason}"
        case "device-detached":
            return f"{device}: programs no longer attached{reason}"
        case "mode-changed":
            trial = f" for {span(details['seconds'])}" if "seconds" in details else ""
            return f"{device or 'all devices'}: {details.get('mode', '?')}{trial}{reason}"
    subject = of.peer or device or "clampd"
    rest = ", ".join(f"{key} {value}" for key, value in details.items())
    return f"{subject}: {of.event}{f' ({rest})' if rest else ''}{reason}"
