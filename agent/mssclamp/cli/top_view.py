"""What `clampctl top` shows, as values: samples of the daemon, the view that keys change, the screen they make.

PURE. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from mssclamp.cli import render, sentences, words
from mssclamp.control.protocol import Event, Peer, Status

EVENTS_SHOWN = 5
_HEIGHT_FOR_EVENTS = 16
_LINES_AROUND_ROWS = 4

_WIDTH_FOR = {"mss": 92, "prefixes": 110}
"""Columns of characters from which on a column is shown; the others always are."""

_KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])|.", re.DOTALL)
_NAMED_KEYS = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down",
    "\x1b[5~": "page up", "\x1b[6~": "page down", "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home",
    "\x1b": "escape", "\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x15": "clear",
    "k": "up", "j": "down", "g": "home",
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """What the daemon said at one moment."""

    at: float
    status: Status
    peers: tuple[Peer, ...]


@dataclass(frozen=True)
class Row:
    """A peer with its rates (SYNs a second) between two samples; None where there is no earlier sample of it."""

    peer: Peer
    clamped: float | None = None
    would: float | None = None


@dataclass(frozen=True)
class View:
    """What the operator has chosen."""

    sort: int = 0
    paused: bool = False
    filter: str = ""
    typing: bool = False
    device: str | None = None
    top: int = 0
    """Rows scrolled off."""
    left: bool = False
    """Time to go."""


SORTS: tuple[tuple[str, Callable[[Row], Any]], ...] = (
    ("name", lambda row: row.peer.name),
    ("clamp/s", lambda row: (-(row.clamped or 0), row.peer.name)),
    ("would/s", lambda row: (-(row.would or 0), row.peer.name)),
    ("resent", lambda row: (-row.peer.counters.retransmits, row.peer.name)),
    ("holes", lambda row: (-row.peer.counters.blackholes, row.peer.name)),
    ("mtu", lambda row: (row.peer.mtu or 0, row.peer.name)),
    ("state", lambda row: (row.peer.state, row.peer.name)),
    ("device", lambda row: (row.peer.device, row.peer.name)),
)
"""Columns to sort by, with their keys: the busiest, and the smallest MTU, come first."""


def rows(before: Sample | None, now: Sample) -> tuple[Row, ...]:
    """The peers of `now` with what happened since `before`."""
    seconds = now.at - before.at if before is not None else 0.0
    if before is None or seconds <= 0:
        return tuple(map(Row, now.peers))
    earlier = {peer.id: peer.counters for peer in before.peers}
    made = []
    for peer in now.peers:
        old = earlier.get(peer.id)
        if old is None or peer.counters.clamped < old.clamped or peer.counters.would_clamp < old.would_clamp:
            made.append(Row(peer))  # new, or counted from zero again
        else:
            clamped = (peer.counters.clamped - old.clamped) / seconds
            made.append(Row(peer, clamped, (peer.counters.would_clamp - old.would_clamp) / seconds))
    return tuple(made)


def keys(typed: str) -> Iterator[str]:
    """What the terminal sent, key by key; the letters that mean "up" and so on stay letters."""
    for found in _KEY.findall(typed):
        yield _NAMED_KEYS.get(found, found) if len(found) > 1 or not found.isprintable() else found


def chosen(view: View, all_rows: Sequence[Row]) -> list[Row]:
    """The rows that device and filter leave, sorted."""
    wanted = view.filter.lower()
    left = [
        row
        for row in all_rows
        if view.device in (None, row.peer.device) and (not wanted or wanted in _searched(row.peer))
    ]
    return sorted(left, key=SORTS[view.sort][1])


def devices_of(sample: Sample) -> list[str]:
    """Every device that the daemon knows."""
    return sorted({device.name for device in sample.status.devices} | {peer.device for peer in sample.peers})


@dataclass(frozen=True)
class Layout:
    """What has room on a screen: the rows shown and where they stand among those found, and the events."""

    shown: Sequence[Row]
    first: int
    found: int
    room: int
    columns: Sequence[str]
    events: Sequence[Event]

    @property
    def last_top(self) -> int:
        """The most that can be scrolled off."""
        return max(0, self.found - self.room)


def lay_out(view: View, all_rows: Sequence[Row], events: Sequence[Event], width: int, height: int) -> Layout:
    """Shares `height` lines out, and `width` columns of characters."""
    told = list(events)[-EVENTS_SHOWN:] if height >= _HEIGHT_FOR_EVENTS else []
    room = max(1, height - _LINES_AROUND_ROWS - (len(told) + 1 if told else 0))
    found = chosen(view, all_rows)
    first = max(0, min(view.top, len(found) - room))
    columns = [column for column in _CELLS if width >= _WIDTH_FOR.get(column, 0)]
    return Layout(found[first : first + room], first, len(found), room, columns, told)


def press(view: View, key: str, devices: Sequence[str], layout: Layout) -> View:
    """The view after one key. `devices`: what `d` cycles through; `layout`: what is on the screen."""
    if view.typing:
        return _type(view, key)
    match _NAMED_KEYS.get(key, key):
        case "q":
            return replace(view, left=True)
        case "p":
            return replace(view, paused=not view.paused)
        case "s":
            return replace(view, sort=(view.sort + 1) % len(SORTS), top=0)
        case "/":
            return replace(view, typing=True)
        case "escape":
            return replace(view, filter="", device=None, top=0)
        case "d":
            cycle = [None, *devices]
            position = cycle.index(view.device) if view.device in cycle else -1
            return replace(view, device=cycle[(position + 1) % len(cycle)], top=0)
        case "up":
            return _scroll(view, layout, -1)
        case "down":
            return _scroll(view, layout, 1)
        case "page up":
            return _scroll(view, layout, -layout.room)
        case "page down":
            return _scroll(view, layout, layout.room)
        case "home":
            return replace(view, top=0)
    return view


def screen(view: View, sample: Sample, layout: Layout, now: float, notice: str = "") -> RenderableType:
    """The whole screen. `notice` stands in the place of trials and problems; the table then tells of the past."""
    lines: list[RenderableType] = [_head(view, sample, now), _second_line(sample, now, notice)]
    lines.append(_table(view, layout, past=bool(notice)))
    if layout.events:
        lines.append(Text())
        lines += [_line(f"{event.at[11:19]} {sentences.event(event)}", "dim") for event in layout.events]
    lines.append(_foot(view, layout))
    return Group(*lines)


def _head(view: View, sample: Sample, now: float) -> Text:
    of = sample.status
    uptime = words.span(of.uptime + now - sample.at)
    text = _line(f"clampd {of.version}  {of.mode}  up {uptime}  {words.states(of.peers)}", "bold")
    return text.append("  PAUSED", "yellow") if view.paused else text


def _second_line(sample: Sample, now: float, notice: str) -> Text:
    of = sample.status
    if notice:
        return _line(notice, "red")
    if of.trials:
        more = f" (and {len(of.trials) - 1} more)" if len(of.trials) > 1 else ""
        first = min(of.trials, key=lambda trial: trial.seconds_left)
        return _line(words.trial(first, first.seconds_left - (now - sample.at)) + more, "yellow")
    problems = [*of.problems, *(f"{each.name}: {each.problem}" for each in of.devices if each.problem)]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return _line(f"problem: {problems[0]}{more}" if problems else "", "red")


def _table(view: View, layout: Layout, *, past: bool) -> RenderableType:
    sorted_by = SORTS[view.sort][0]
    heads = [Text(name, "bold reverse" if name == sorted_by else "bold") for name in layout.columns]
    rows = ([render.styled(column, _CELLS[column](row)) for column in layout.columns] for row in layout.shown)
    made = render.table(heads, rows, fold=False)
    if past:
        made.style = "dim"
    return made


def _rate(value: float | None) -> str:
    return words.UNKNOWN if value is None else f"{value:.1f}" if 0 < value < 100 else f"{value:.0f}"


_CELLS: Mapping[str, Callable[[Row], str]] = {
    "name": lambda row: row.peer.name,
    "device": lambda row: row.peer.device,
    "state": lambda row: row.peer.state,
    "mtu": lambda row: words.size(row.peer.mtu),
    "mss": lambda row: words.mss(row.peer.mss4, row.peer.mss6),
    "mode": lambda row: row.peer.mode,
    "clamp/s": lambda row: _rate(row.clamped),
    "would/s": lambda row: _rate(row.would),
    "resent": lambda row: str(row.peer.counters.retransmits),
    "holes": lambda row: str(row.peer.counters.blackholes),
    "prefixes": lambda row: words.shortened(row.peer.prefixes),
}
"""The columns from left to right."""


def _foot(view: View, layout: Layout) -> Text:
    if view.typing:
        return _line(f"filter: {view.filter}_   Enter keeps it, Esc clears it", "reverse")
    shown = f"{layout.first + 1}-{layout.first + len(layout.shown)} of {layout.found}" if layout.found else "no peers"
    what = f"/ filter{f': {view.filter}' if view.filter else ''}  d device{f': {view.device}' if view.device else ''}"
    return _line(f"{shown}  q leave  p {'go on' if view.paused else 'pause'}  s sort  {what}  arrows scroll", "reverse")


def _line(text: str, style: str = "") -> Text:
    """One line, cut at the screen's edge."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _type(view: View, key: str) -> View:
    match key:
        case "enter":
            return replace(view, typing=False)
        case "escape":
            return replace(view, typing=False, filter="", top=0)
        case "backspace":
            return replace(view, filter=view.filter[:-1], top=0)
        case "clear":
            return replace(view, filter="", top=0)
    return replace(view, filter=view.filter + key, top=0) if len(key) == 1 and key.isprintable() else view


def _scroll(view: View, layout: Layout, by: int) -> View:
    return replace(view, top=max(0, min(layout.first + by, layout.last_top)))


def _searched(peer: Peer) -> str:
    return " ".join((peer.name, peer.device, peer.state, peer.endpoint or "", *peer.prefixes)).lower()
