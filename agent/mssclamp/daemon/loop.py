"""The event loop: what wakes the daemon, and how often at most.

The daemon itself lives in one worker thread, because its work blocks: it talks netlink and SQLite, now and then waits
for the compiler. The loop hands it one thing at a time, and keeps sockets and signals to itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from mssclamp.control.server import Request, Response, Server
from mssclamp.daemon.api import Api
from mssclamp.daemon.daemon import Daemon
from mssclamp.daemon.discovery import INTERVAL
from mssclamp.daemon.notify import notify
from mssclamp.datapath.links import ChangeMonitor
from mssclamp.errors import ClampdError

log = logging.getLogger(__name__)

_GAP = 0.1
"""Seconds between two passes at least: a burst of device changes costs one pass."""

_RETRY = 5.0
"""Seconds until the next try where something was refused."""

_SAFETY = 30.0
"""Seconds after which we look even if nobody told us of a change."""


async def run(daemon: Daemon, worker: Executor, path: Path, monitor: ChangeMonitor, claimed: socket.socket) -> None:
    """Serves the control socket at `path` and follows changes until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    api = Api(daemon)
    stop = asyncio.Event()
    changed = asyncio.Event()

    async def handle(request: Request) -> Response:
        response = await loop.run_in_executor(worker, api.answer, request)
        if request.method == "POST":
            changed.set()  # a trial may have begun: how long to wait for news is another question now
        return response

    def on_change() -> None:
        if monitor.drain():
            changed.set()

    def on_visitor() -> None:
        """A second daemon that asks whose the namespace is: the kernel has told it by now."""
        with contextlib.suppress(OSError):
            claimed.accept()[0].close()

    def on_hangup() -> None:
        loop.run_in_executor(worker, _reload, daemon)

    server = Server(path, handle)
    await server.start()
    claimed.setblocking(False)
    loop.add_reader(monitor.fileno(), on_change)
    loop.add_reader(claimed.fileno(), on_visitor)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    stopped = asyncio.create_task(stop.wait())
    try:
        await loop.run_in_executor(worker, daemon.start)
        monitor.follow_routes(daemon.routed_devices)
        notify("READY=1")
        due = loop.time() + await loop.run_in_executor(worker, _patience, daemon)
        while not stop.is_set():
            news = asyncio.create_task(changed.wait())
            patience = max(0.0, min(due - loop.time(), INTERVAL))
            await asyncio.wait((news, stopped), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            if changed.is_set() or loop.time() >= due:
                changed.clear()
                await asyncio.wait((stopped,), timeout=_GAP)
                look, due = daemon.reconcile, math.inf
            else:
                look = daemon.look_at_peers
            if not stop.is_set():
                await loop.run_in_executor(worker, _guarded, look)
                monitor.follow_routes(daemon.routed_devices)
                due = min(due, loop.time() + await loop.run_in_executor(worker, _patience, daemon))
    finally:
        notify("STOPPING=1")
        await server.close()
        loop.remove_reader(monitor.fileno())
        loop.remove_reader(claimed.fileno())


def _patience(daemon: Daemon) -> float:
    """How long to wait for news."""
    patience = _RETRY if daemon.has_problems else _SAFETY
    deadline = daemon.seconds_to_deadline()
    return patience if deadline is None else min(patience, deadline + 0.01)


def _guarded(look: Callable[[], None]) -> None:
    try:
        look()
    except ClampdError as error:
        log.error("%s", error)
    except Exception:
        log.exception("looking at the devices failed")


def _reload(daemon: Daemon) -> None:
    notify("RELOADING=1")
    try:
        daemon.reload()
    except ClampdError as error:
        for line in str(error).splitlines():
            log.error("not reloaded, everything stays as it was: %s", line)
    except Exception:
        log.exception("reloading failed")
    notify("READY=1")
