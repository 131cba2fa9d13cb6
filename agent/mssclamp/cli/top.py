"""`clampctl top`: the loop around the view, and all that touches the terminal."""

from __future__ import annotations

import os
import select
import signal
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import click

from mssclamp.cli.app import App, pass_app
from mssclamp.errors import ClampdError, NoDaemonError

if TYPE_CHECKING:
    from mssclamp.cli.top_view import Sample
    from mssclamp.control.client import Client
    from mssclamp.control.protocol import Event

INTERVAL = 1.0
"""Seconds between two samples at least."""

_PATIENCE = 9
"""A sample that took long is followed by a pause this many times as long: watching must not be the load."""

_TIME_LIMIT = 2.0
_EVENTS_KEPT = 50


@click.command(short_help="Live view of all peers.")
@pass_app
def top(app: App) -> None:
    """Live view of all peers, each second.

    \b
    q            leave
    p            pause, and go on
    s            sort by the next column
    / TEXT       only peers with that in name, device, state, endpoint or prefixes
    d            only the next device's peers
    Esc          all peers again
    arrows, PgUp, PgDn, Home   scroll
    """
    from mssclamp.control.client import Client

    if not app.is_terminal or os.environ.get("TERM", "dumb") == "dumb":
        raise ClampdError("top needs a terminal", fix="use `clampctl peers` or `clampctl watch` here")
    client = Client(app.run_dir, _TIME_LIMIT)
    first = _sample(client)  # before the screen changes: without a daemon there is nothing to show
    events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
    threading.Thread(target=_follow, args=(Client(app.run_dir, _TIME_LIMIT), events), daemon=True).start()
    with _keyboard() as keyboard, _signals():
        _run(client, first, events, keyboard)


def _run(client: Client, sample: Sample, events: deque[Event], keyboard: int) -> None:
    """Until `q`."""
    from rich.console import Console
    from rich.live import Live

    from mssclamp.cli import top_view

    console = Console(highlight=False)
    view = top_view.View()
    latest, rows = sample, top_view.rows(None, sample)
    told: list[Event] = []
    notice = ""
    due = time.monotonic() + INTERVAL
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not view.left:
            if not view.paused:
                told = list(events)
            layout = top_view.lay_out(view, rows, told, *console.size)
            now = sample.at if view.paused else time.monotonic()
            live.update(top_view.screen(view, sample, layout, now, notice), refresh=True)
            for key in top_view.keys(_read(keyboard, due - time.monotonic())):
                view = top_view.press(view, key, top_view.devices_of(sample), layout)
            began = time.monotonic()
            if began < due:
                continue
            try:
                before, latest = latest, _sample(client)
                notice = ""
            except NoDaemonError as error:
                notice = f"no daemon: waiting ({error.message})"
            else:
                if not view.paused:
                    sample, rows = latest, top_view.rows(before, latest)
            took = time.monotonic() - began
            due = began + max(INTERVAL, took * (1 + _PATIENCE))


def _sample(client: Client) -> Sample:
    from mssclamp.cli.top_view import Sample

    status, peers = client.status(), client.peers()
    return Sample(time.monotonic(), status, tuple(peers.peers))


def _follow(client: Client, events: deque[Event]) -> None:
    """In a thread of its own: appends events for ever, over restarts of the daemon."""
    last = 0
    while True:
        try:
            for event in client.events(since=last):
                last = event.seq
                events.append(event)
        except ClampdError:
            time.sleep(INTERVAL)


@contextmanager
def _keyboard() -> Iterator[int]:
    """The terminal's keys one by one and without echo; as it was afterwards, whatever happens."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError as error:
        raise ClampdError(f"no keyboard: /dev/tty: {error.strerror}", fix="use `clampctl peers` here") from None
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield terminal
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        os.close(terminal)


@contextmanager
def _signals() -> Iterator[None]:
    """What would end or stop us on the spot ends us by the way that restores the terminal, or is not heard."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(keyboard: int, seconds: float) -> str:
    """What was typed, waiting so long at most. Raises SystemExit when the terminal has gone."""
    ready, _, _ = select.select([keyboard], [], [], max(0.0, seconds))
    if not ready:
        return ""
    typed = os.read(keyboard, 1024)
    if not typed:
        raise SystemExit(0)
    return typed.decode(errors="ignore")
