"""Values in words, for people.

PURE. Times come in as RFC 3339 text, the present as a datetime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from mssclamp.control.protocol import Counters, Peer, Trial

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


def moment(at: str, now: datetime) -> str:
    """How long ago that was, and when: "5m 30s ago, at 12:00:00 UTC"."""
    return f"{span((now - datetime.fromisoformat(at)).total_seconds())} ago, at {clock(at, now)} UTC"


def clock(at: str, now: datetime) -> str:
    """An instant in UTC, with its date unless that is today's: "12:00:03"."""
    then = datetime.fromisoformat(at).astimezone(UTC)
    return then.strftime("%H:%M:%S" if then.date() == now.astimezone(UTC).date() else "%Y-%m-%d %H:%M:%S")


def number(count: int, noun: str) -> str:
    """So many of something: "1 round", "22 probes"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


def packets(of: Counters) -> str:
    """What happened to a peer's packets: the counters that are not zero."""
    numbers = msgspec.structs.asdict(of)
    for of_probes in _PROBING:
        del numbers[of_probes]
    numbers["resent"] = numbers.pop("retransmits")
    return counts(numbers)


def probing(of: Counters) -> str:
    """What was done to find a peer's MTU: "2 rounds, 14 probes, 5 hints (4 refuted), 1 black hole"; "" if nothing."""
    refuted = f" ({of.hints_refuted} refuted)" if of.hints_refuted else ""
    told = [
        number(of.rounds, "round") if of.rounds else "",
        number(of.probes, "probe") if of.probes else "",
        number(of.hints, "hint") + refuted if of.hints else "",
        number(of.blackholes, "black hole") if of.blackholes else "",
    ]
    return ", ".join(filter(None, told))


_PROBING = ("probes", "rounds", "hints", "hints_refuted", "blackholes")


def trial(of: Trial, seconds_left: float | None = None) -> str:
    """A trial, and what will become of it."""
    left = of.seconds_left if seconds_left is None else seconds_left
    return f"{of.device or 'all devices'}: enforcing on trial, {span(left)} left; `clampctl confirm` keeps it"


def states(peers: Mapping[str, int]) -> str:
    """How many peers there are, and in which states: "3 peers: 2 pinned, 1 unprobed"."""
    total = sum(peers.values())
    told = ", ".join(f"{count} {state}" for state, count in sorted(peers.items()) if count)
    return number(total, "peer") + (f": {told}" if told else "")


def bounds(of: Peer) -> str:
    """What is known to pass and not to pass: "1328 passes, 1329 does not"."""
    floor = f"{of.floor} passes" if of.floor is not None else "nothing proven to pass"
    return f"{floor}, {of.ceiling} does not" if of.ceiling is not None else f"{floor}, nothing known not to"


def in_force(of: Peer) -> str:
    """What counts for the peer: "MTU 1380 (pinned by clampctl), MSS 1340/1320, pinned"."""
    why = f" ({of.why})" if of.why else ""
    return f"MTU {size(of.mtu)}{why}, MSS {mss(of.mss4, of.mss6)}, {of.state}"


PEER_COLUMNS = ("name", "device", "state", "mtu", "path", "mss", "checked", "mode", "clamped", "prefixes")
NUMBERS = frozenset({"mtu", "path", "clamped", "clamp/s", "would/s", "resent", "holes"})
"""Columns that are set flush right."""


def peer_row(of: Peer, now: datetime) -> tuple[str, ...]:
    """One peer, a cell for each of PEER_COLUMNS."""
    return (
        of.name,
        of.device,
        of.state,
        size(of.mtu),
        size(of.path_mtu),
        mss(of.mss4, of.mss6),
        age(of.checked, now),
        of.mode,
        str(of.counters.clamped if of.mode == "enforce" else of.counters.would_clamp),
        shortened(of.prefixes),
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of plain text, as wide as it takes; quick with tens of thousands of rows."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    aligned = [
        f"{{:{'>' if column in NUMBERS else '<'}{width}}}" for column, width in zip(columns, widths, strict=True)
    ]
    line = "  ".join(aligned)
    return "\n".join(line.format(*row).rstrip() for row in (columns, *rows))
