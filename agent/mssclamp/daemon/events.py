"""What happened, in order: kept for a while, and told to whoever watches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping

import msgspec

from mssclamp.control.protocol import Event, EventName

KEPT = 4096
"""Events that `watch` can still be told about; a watcher who falls further behind misses the oldest."""


class EventLog:
    """A bounded list of numbered events, written by one thread and watched from an event loop in another.

    Numbers grow over restarts too: the first is the time it `began` (Unix seconds), in ms.
    """

    def __init__(self, began: float) -> None:
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._seq = int(began * 1000)
        self._wakers: set[Callable[[], object]] = set()

    def add(
        self, at: str, event: EventName, peer: str | None = None, details: Mapping[str, object] | None = None
    ) -> None:
        """Appends and wakes the watchers."""
        self._seq += 1
        self._events.append(Event(seq=self._seq, at=at, event=event, peer=peer, details=dict(details or {})))
        for wake in tuple(self._wakers):
            wake()

    async def lines(self, since: int | None) -> AsyncGenerator[bytes, None]:
        """Events after `since` (None: from now on), one JSON object a line, for ever."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(news.set)

        last = self._seq if since is None else since
        self._wakers.add(wake)
        try:
            while True:
                news.clear()
                for event in list(self._events):  # copied in one step: the writer goes on meanwhile
                    if event.seq > last:
                        last = event.seq
                        yield msgspec.json.encode(event.flat()) + b"\n"
                await news.wait()
        finally:
            self._wakers.discard(wake)
