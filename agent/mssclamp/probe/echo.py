"""The path to any address, measured by echo and changing nothing: what `clampctl probe ADDRESS` does.

ICMP errors are shown, never believed.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from mssclamp.errors import ClampdError, RequestError
from mssclamp.pmtu.constants import BASE_MTU4, BASE_MTU6, MAX_PACKET
from mssclamp.pmtu.search import Probe, Round, Search
from mssclamp.pmtu.table import Address
from mssclamp.probe.echo_socket import EchoSocket
from mssclamp.probe.raw import Hint, NotSent, Reply, TooLarge

__all__ = ["EchoProber", "Hint"]

_WAKING_SIZE, _WAKING_SECONDS = 100, 1.5


class EchoProber:
    """A raw socket to one address. Raises ForbiddenError without CAP_NET_RAW."""

    def __init__(self, address: Address, device: str | None = None) -> None:
        if address.is_multicast or address.is_unspecified:
            raise RequestError(f"{address} is no single host's address", fix="name one host's")
        self.address = address
        self.hints: list[Hint] = []
        self._socket = EchoSocket(4 if address.version == 4 else 6, device)
        try:
            self._flow = self._socket.aim(address)
        except ClampdError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def measure(self, on_round: Callable[[Round], None] = lambda _: None) -> Search:
        """Searches to the end; `on_round` hears of every round when it is over. Raises ClampdError."""
        ceiling = self._device_mtu() + 1
        self._wake()
        search = Search(min(BASE_MTU4 if self._socket.version == 4 else BASE_MTU6, ceiling - 1), ceiling)
        search.start(time.monotonic())
        told = 0
        while not search.done:
            for probe in search.probes_to_send(time.monotonic()):
                self._send(probe, search)
            deadline = search.next_deadline()
            if deadline is None:
                break
            for reply in self._replies(deadline):
                search.on_answer(reply.number, time.monotonic())
            search.on_timeout(time.monotonic())
            for ended in search.rounds[told:-1]:
                on_round(ended)
                told = ended.number
        self._replies(0.0)
        for ended in search.rounds[told:]:
            on_round(ended)
        return search

    def _send(self, probe: Probe, search: Search) -> None:
        try:
            self._socket.send(self._flow, probe.number, probe.size)
        except TooLarge as refused:
            search.on_refused(refused.limit + 1, time.monotonic())
        except NotSent:
            search.on_not_sent(probe.number)

    def _device_mtu(self) -> int:
        """The MTU of the device that leads there: the kernel refuses a packet over it, and says the limit.

        A device that takes the largest packet of all gets it; its answer is none of ours.
        """
        flow = self._socket.aim(self.address)
        try:
            self._socket.send(flow, 0, MAX_PACKET)
        except TooLarge as refused:
            return refused.limit
        except NotSent:
            raise ClampdError(f"cannot send to {self.address} now: its device takes nothing") from None
        finally:
            self._socket.leave(flow)
        return MAX_PACKET

    def _wake(self) -> None:
        """One small echo first: neighbours get resolved and tunnels shake hands before round trips are measured."""
        flow = self._socket.aim(self.address)
        try:
            self._socket.send(flow, 0, _WAKING_SIZE)
            until = time.monotonic() + _WAKING_SECONDS
            while time.monotonic() < until:
                if self._replies(until, flow):
                    return
        except NotSent:
            pass
        finally:
            self._socket.leave(flow)

    def _replies(self, deadline: float, flow: int | None = None) -> list[Reply]:
        """Takes what comes until the deadline, or until something has come: answers are returned, hints kept."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not self._socket.has_complaints:
            # Rounded up: the search's timers must be due when we come back.
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1)
        replies = self._socket.replies()
        for reply in replies:
            if reply.hint is not None and reply.hint not in self.hints:
                self.hints.append(reply.hint)
        wanted = self._flow if flow is None else flow
        return [each for each in replies if each.hint is None and each.flow == wanted]
