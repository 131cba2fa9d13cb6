"""Documents of the daemon as rich renderables.

PURE. Every text goes in as `Text`, never as markup: names may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mssclamp.cli import sentences, words
from mssclamp.control.protocol import Address, Device, Evidence, Peer, PeerDocument, PeersDocument, Program, Status

EVIDENCE_SHOWN = 8

_DIRECTIONS = {"to-peer": "to the peer", "from-peer": "from the peer"}
_DISPENSABLE = ("prefixes", "path", "mss", "clamped")
_FLEXIBLE = frozenset({"name", "prefixes", "ingress", "egress"})
_GAP = 2
_MEASURED = frozenset({"probe", "icmp", "kernel"})
_STATE_STYLES = {
    "confirmed": "green",
    "pinned": "cyan",
    "searching": "yellow",
    "hinted": "magenta",
    "blackhole": "bold red",
}


def status(of: Status) -> RenderableType:
    """`clampctl status`: everything in one screen."""
    running = Text(f"clampd {of.version}, pid {of.pid}, up {words.span(of.uptime)}, mode {of.mode}")
    lines: list[RenderableType] = [running, Text(words.states(of.peers))]
    lines += [Text(words.trial(trial), "yellow") for trial in of.trials]
    if "*" in of.detached:
        lines.append(Text("detached from everything; `clampctl attach` puts it back", "yellow"))
    elif of.detached:
        kept = ", ".join(of.detached)
        lines.append(Text(f"kept off {kept}; `clampctl attach DEVICE` puts it back", "yellow"))
    if of.devices:
        lines += [Text(), _devices(of.devices), Text()]
    else:
        lines.append(Text("no devices to manage"))
    lines.append(Text(f"packets: {words.counts(of.reasons)}"))
    lines += [Text(f"problem: {problem}", "red") for problem in of.problems]
    lines += [Text(f"problem: {each.name}: {each.problem}", "red") for each in of.devices if each.problem]
    return Group(*lines)


def peers(of: PeersDocument, now: datetime, width: int) -> RenderableType:
    """`clampctl peers`: the table; without its less important columns where `width` is too small for them."""
    columns = list(words.PEER_COLUMNS)
    rows = [dict(zip(columns, words.peer_row(peer, now), strict=True)) for peer in of.peers]
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    for dispensable in _DISPENSABLE:
        if sum(widths[column] + _GAP for column in columns) > width:
            columns.remove(dispensable)
    return table(columns, ([styled(column, row[column]) for column in columns] for row in rows))


def peer(of: PeerDocument, now: datetime, *, history: bool = False) -> RenderableType:
    """`clampctl show`: one peer in words; `history` shows all the evidence that is kept."""
    known = of.peer
    lines: list[RenderableType] = []
    if of.address is not None:
        lines += [*_address(of.address, known), Text()]
    kind = f"{known.kind} peer on {known.device}"
    lines.append(
        Text.assemble((known.name, "bold"), f"  {kind}" + (f", id {known.id}" if known.id != known.name else ""))
    )
    facts = Table.grid(padding=(0, _GAP))
    for key, value in _facts(known, now):
        facts.add_row(Text(f"  {key}", "dim"), Text(value, _fact_style(key, known)))
    lines.append(facts)
    lines += _evidence(known, now, history)
    return Group(*lines)


def probe_round(number: int, answered: Collection[int], lost: Collection[int]) -> Text:
    """One round of a search: its sizes in green and red."""
    line = Text(f"round {number}:", "bold")
    for size in sorted({*answered, *lost}):
        line.append(f" {size}", "green" if size in answered else "red")
    return line.append(f"  ({len(answered)} answered, {len(lost)} lost)", "dim")


def table(columns: Sequence[str | Text], rows: Iterable[Sequence[Text]], *, fold: bool = True) -> Table:
    """A table without lines.

    On a terminal too narrow for it some columns get narrower: long cells fold, or are cut if not `fold`.
    """
    made = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        name = str(column)
        made.add_column(column, justify="right" if name in words.NUMBERS else "left", no_wrap=name not in _FLEXIBLE)
    for row in rows:
        for cell in row:
            cell.no_wrap, cell.overflow = not fold, "fold" if fold else "ellipsis"
        made.add_row(*row)
    return made


def styled(column: str, cell: str) -> Text:
    """A cell in the colour that its column gives it."""
    match column:
        case "state":
            return Text(cell, _STATE_STYLES.get(cell, ""))
        case "mode":
            return Text(cell, "green" if cell == "enforce" else "")
        case "attached":
            return Text(cell, "green" if cell == "yes" else "red")
        case "holes":
            return Text(cell, "" if cell == "0" else "red")
    return Text(cell)


def _devices(devices: Sequence[Device]) -> Table:
    columns = ("device", "kind", "mtu", "mode", "attached", "ingress", "egress")
    rows = (
        (
            each.name,
            "underlay" if each.role == "underlay" else each.kind or words.UNKNOWN,
            words.size(each.mtu),
            each.mode,
            "yes" if each.attached else "no",
            _programs(each.programs, "ingress"),
            _programs(each.programs, "egress"),
        )
        for each in devices
    )
    return table(columns, ([styled(*pair) for pair in zip(columns, row, strict=True)] for row in rows))


def _programs(programs: Sequence[Program], hook: str) -> str:
    """The filters of one hook in the order in which they see a packet; one before ours may keep packets from it."""
    here = sorted((each for each in programs if each.hook == hook), key=lambda each: each.priority)
    own = min((each.priority for each in here if each.owner == "clampd"), default=None)
    told = []
    for each in here:
        note = ""
        if each.owner == "foreign":
            note = " (foreign, before ours)" if own is not None and each.priority < own else " (foreign)"
        told.append(f"{each.name}@{each.priority}{note}")
    return ", ".join(told) or words.UNKNOWN


def _facts(of: Peer, now: datetime) -> Iterator[tuple[str, str]]:
    """What is known, in the order of interest; what is unknown and says nothing by that is left out."""
    measured = of.source in _MEASURED  # or else what is known of the path says nothing about the value in force
    exact, direction = (of.exact, of.direction) if measured else (None, None)
    yield "mtu", sentences.measured(of.mtu, exact, direction).removeprefix("MTU ")
    if of.why:
        yield "why", of.why
    yield "state", of.state
    yield "mss", f"{words.size(of.mss4)} for IPv4, {words.size(of.mss6)} for IPv6"
    if of.floor is not None or of.ceiling is not None:
        yield "bounds", words.bounds(of)
    if of.path_mtu is not None:
        yield "path mtu", f"{of.path_mtu}: the largest outer packet that was proven to reach the endpoint"
    if of.mtu_from_peer is not None:
        yield "from the peer", f"{of.mtu_from_peer}: what passes on the way from the peer to us"
    if of.rtt is not None:
        yield "round trip", f"{of.rtt * 1000:.3g} ms"
    for key, instant in (("checked", of.checked), ("changed", of.changed), ("handshake", of.last_handshake)):
        if instant is not None:
            yield key, words.moment(instant, now)
    yield "mode", of.mode
    yield "prefixes", ", ".join(of.prefixes) or "none"
    for key, value in (("endpoint", of.endpoint), ("public key", of.public_key)):
        if value is not None:
            yield key, value
    if of.overhead is not None:
        yield "overhead", f"{of.overhead} bytes"
    yield "packets", words.packets(of.counters)
    if probing := words.probing(of.counters):
        yield "probing", probing


def _fact_style(key: str, of: Peer) -> str:
    if key == "state":
        return _STATE_STYLES.get(of.state, "")
    # Of a peer that nobody could measure, the reason says what would help.
    return "yellow" if key == "why" and of.state == "unprobed" else ""


def _evidence(of: Peer, now: datetime, history: bool) -> Iterator[RenderableType]:
    kept = sorted(of.evidence, key=lambda each: each.at) if isinstance(of.evidence, list) else []
    shown = kept if history else kept[-EVIDENCE_SHOWN:]
    if shown:
        yield Text("  evidence, times in UTC", "dim")
    if len(shown) < len(kept):
        yield Text(f"    {len(kept) - len(shown)} older (--history shows them)", "dim")
    told = Table.grid(padding=(0, _GAP))
    for each in shown:
        told.add_row(Text(f"    {words.clock(each.at, now)}", "dim"), Text(each.source), Text(_told(each)))
    if shown:
        yield told


def _told(of: Evidence) -> str:
    """The text alone where it names the size by itself: "1400 answered in 12 ms"."""
    if of.size is None or re.search(rf"\b{of.size}\b", of.text):
        return of.text
    return f"{of.size} {of.verdict}: {of.text}"


def _address(of: Address, behind: Peer) -> Iterator[Text]:
    yield Text.assemble((of.address, "bold"), f"  behind {behind.name} on {of.device}, by prefix {of.prefix}")
    for each in of.meets:
        packet = "a SYN" if each.packet == "syn" else "a full-size packet"
        yield Text(f"  {packet} {_DIRECTIONS[each.direction]}: {each.text}")
    yield Text(f"  limit: {of.limited_by}")
    yield Text(f"  cost: {of.costs}")
