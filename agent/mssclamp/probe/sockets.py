"""The engine's sockets: one for each device, IP version and method, shared by all errands that need it."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mssclamp.errors import ClampdError
from mssclamp.probe.echo_socket import EchoSocket
from mssclamp.probe.order import Method
from mssclamp.probe.raw import RawSocket
from mssclamp.probe.tcp_socket import TcpSocket
from mssclamp.wire.mtu import IpVersion

PRIORITY: Final = 0xC1A30000
"""CLAMPD_PROBE_PRIORITY of bpf/abi.h: by it the programs in the kernel know where a closer look is worth while."""

IDLE_SECONDS: Final = 60.0
"""How long a socket that nobody uses stays open."""

MOST: Final = 192
"""Sockets at once; the programs' map of them holds 256."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """What one socket serves. A device that comes again under its old name has another `ifindex`."""

    device: str
    ifindex: int
    version: IpVersion
    method: Method


class Held:
    """One open socket, and how many errands use it."""

    def __init__(self, place: Place, socket: RawSocket, now: float) -> None:
        self.place, self.socket = place, socket
        self.cookie = socket.cookie()
        self.users = 0
        self.idle_since = now


class Sockets:
    """All of them. `allow` and `forget` hear of each one's cookie before its first packet and after its last."""

    def __init__(
        self, selector: selectors.BaseSelector, allow: Callable[[int], None], forget: Callable[[int], None]
    ) -> None:
        self._selector, self._allow, self._forget = selector, allow, forget
        self._held: dict[Place, Held] = {}

    def take(self, place: Place, now: float) -> Held:
        """The socket for this place, until `release`. ClampdError if it cannot be had."""
        held = self._held.get(place)
        if held is None:
            held = self._held[place] = self._open(place, now)
        held.users += 1
        return held

    def release(self, held: Held, now: float) -> None:
        """One user less."""
        held.users -= 1
        held.idle_since = now

    def next_deadline(self) -> float | None:
        """When `close_idle` will have something to do."""
        return min((each.idle_since + IDLE_SECONDS for each in self._idle()), default=None)

    def close_idle(self, now: float) -> None:
        """Closes what nobody has used for long."""
        for held in self._idle():
            if now >= held.idle_since + IDLE_SECONDS:
                self._close(held)

    def close(self) -> None:
        """Closes all."""
        for held in list(self._held.values()):
            self._close(held)

    def _idle(self) -> list[Held]:
        return [each for each in self._held.values() if not each.users]

    def _open(self, place: Place, now: float) -> Held:
        if len(self._held) >= MOST:
            idle = self._idle()
            if not idle:
                raise ClampdError(f"probes by {MOST} sockets at once are too many")
            self._close(min(idle, key=lambda each: each.idle_since))
        kind = EchoSocket if place.method == "echo" else TcpSocket
        held = Held(place, kind(place.version, place.device, PRIORITY), now)
        try:
            self._allow(held.cookie)
        except BaseException:
            held.socket.close()
            raise
        self._selector.register(held.socket, selectors.EVENT_READ, held)
        return held

    def _close(self, held: Held) -> None:
        del self._held[held.place]
        self._selector.unregister(held.socket)
        held.socket.close()
        try:
            self._forget(held.cookie)
        except Exception:
            log.exception("a socket's cookie")
