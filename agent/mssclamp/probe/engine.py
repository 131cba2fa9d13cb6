"""The prober of the daemon: carries out orders in a thread of its own, because its timings are tens of milliseconds.

Orders come in from any thread; news go out in the engine's. Urgent orders run at once, of the others so many at a time,
and each sends one wave in turn, as far as the budget of packets goes. Whatever is wrong with one order ends that order
with words, and no other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from mssclamp.errors import ClampdError
from mssclamp.pmtu.table import Address
from mssclamp.probe.budget import Budget
from mssclamp.probe.errand import Errand, Memory, Packet
from mssclamp.probe.order import Chose, Ended, Fell, Method, News, Order, Outer, RoundEnded
from mssclamp.probe.raw import NotSent, RawSocket, TooLarge
from mssclamp.probe.sockets import Held, Place, Sockets
from mssclamp.wire.mtu import IpVersion

__all__ = ["Chose", "Ended", "Engine", "Fell", "Method", "News", "Order", "Outer", "RoundEnded"]

AT_ONCE: Final = 16
"""Orders that are carried out at once, besides the urgent ones."""

URGENT_AT_ONCE: Final = 64
"""The same of urgent ones: with more, each would get so little of the budget that its time ran out."""

log = logging.getLogger(__name__)


@dataclass
class _Running:
    """An errand, and the flows by which its packets go."""

    errand: Errand
    ifindex: int
    flows: dict[tuple[Address, Method], tuple[Held, int]] = field(default_factory=dict)
    has_packets: bool = False
    """Whether it waits for its turn to send."""


class Engine:
    """`on_news` is called in the engine's thread, and never after `close` has returned.

    `allow` and `forget` hear of the cookie of every socket that is opened and closed; `rate`: packets a second.
    """

    def __init__(
        self,
        on_news: Callable[[News], object],
        allow: Callable[[int], None],
        forget: Callable[[int], None],
        rate: float,
    ) -> None:
        self._on_news = on_news
        self._inbox: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._closing = False
        self._queue: OrderedDict[str, Order] = OrderedDict()
        self._urgent_queue: OrderedDict[str, Order] = OrderedDict()
        self._running: OrderedDict[str, _Running] = OrderedDict()
        self._flows: dict[tuple[RawSocket, int], _Running] = {}
        self._memory: dict[str, Memory] = {}
        self._budget = Budget(rate, time.monotonic())
        self._selector = selectors.DefaultSelector()
        self._sockets = Sockets(self._selector, allow, forget)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)
        self._thread.start()

    # from any thread

    def submit(self, order: Order) -> None:
        """Carries it out, in place of an earlier one for the same peer, of which nothing more is told.

        But an urgent one is not replaced by one that is not: the new one is dropped.
        """
        self._post(lambda: self._accept(order))

    def hurry(self, peer: str) -> None:
        """An order that still waits for its turn gets it before all others."""
        self._post(lambda: self._hurry(peer))

    def cancel(self, peer: str) -> None:
        """Drops the peer's order, without news, and forgets who answered there."""
        self._post(lambda: self._cancel(peer))

    def set_rate(self, per_second: float) -> None:
        """Another budget from now on."""
        self._post(lambda: self._budget.set_rate(per_second, time.monotonic()))

    def close(self) -> None:
        """Drops all orders, closes all sockets, ends the thread. Not to be called by `on_news`."""
        with self._lock:
            if not self._closing:
                self._closing = True
                os.eventfd_write(self._bell, 1)
        self._thread.join()

    def _post(self, request: Callable[[], None]) -> None:
        with self._lock:
            if self._closing:
                return
            self._inbox.append(request)
            os.eventfd_write(self._bell, 1)

    # the engine's thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._take_requests()
                self._start_queued()
                now = time.monotonic()
                self._judge(now)
                self._send(now)
                self._sockets.close_idle(now)
                self._read(self._selector.select(self._patience()))
        finally:
            self._closing = True
            for running in list(self._running.values()):
                self._drop(running)
            self._sockets.close()
            self._selector.close()
            os.close(self._bell)

    def _take_requests(self) -> None:
        with self._lock:
            requests, self._inbox = self._inbox, []
        for request in requests:
            request()

    def _accept(self, order: Order) -> None:
        running, waiting = self._running.get(order.peer), self._urgent_queue.get(order.peer)
        earlier = waiting if running is None else running.errand.order
        if earlier is not None and earlier.urgent and not order.urgent:
            return
        if running is not None:
            self._drop(running)
        self._unqueue(order.peer)
        (self._urgent_queue if order.urgent else self._queue)[order.peer] = order

    def _hurry(self, peer: str) -> None:
        order = self._queue.pop(peer, None)
        if order is not None:
            self._urgent_queue[peer] = order

    def _unqueue(self, peer: str) -> None:
        self._queue.pop(peer, None)
        self._urgent_queue.pop(peer, None)

    def _cancel(self, peer: str) -> None:
        self._unqueue(peer)
        self._memory.pop(peer, None)
        if peer in self._running:
            self._drop(self._running[peer])

    def _start_queued(self) -> None:
        while self._urgent_queue and self._room_for(urgent=True):
            self._start(self._urgent_queue.popitem(last=False)[1])
        while self._queue and self._room_for(urgent=False):
            self._start(self._queue.popitem(last=False)[1])

    def _room_for(self, *, urgent: bool) -> bool:
        under_way = sum(each.errand.order.urgent == urgent for each in self._running.values())
        return under_way < (URGENT_AT_ONCE if urgent else AT_ONCE)

    def _start(self, order: Order) -> None:
        try:
            running = _Running(Errand(order, self._memory.get(order.peer)), socket.if_nametoindex(order.device))
        except OSError:
            self._refuse(order, f"{order.device} is not there")
        except Exception as error:
            log.exception("probing %s", order.peer)
            self._refuse(order, f"the search cannot begin: {error}")
        else:
            self._running[order.peer] = running
            self._settle(running)

    def _refuse(self, order: Order, text: str) -> None:
        self._tell(Ended(order, None, None, None, None, 0, 0, None, text))

    # time, packets, answers

    def _judge(self, now: float) -> None:
        due = [each for each in self._running.values() if not each.has_packets and _is_due(each, now)]
        if not due:
            return
        # What has come in the meantime is no loss.
        self._read(self._selector.select(0))
        for running in due:
            with self._guarded(running):
                running.errand.on_timeout(now)
            running.has_packets = _is_due(running, now)

    def _send(self, now: float) -> None:
        if self._budget.ready_at(now) > now:
            return
        waiting = [each for each in self._running.values() if each.has_packets]
        for running in sorted(waiting, key=lambda each: not each.errand.order.urgent):
            if self._budget.ready_at(now) > now:
                break
            if running.errand.ended is not None:
                continue
            self._running.move_to_end(running.errand.order.peer)
            running.has_packets = False
            with self._guarded(running):
                packets = running.errand.packets(now)
                self._budget.take(len(packets))
                for packet in packets:
                    if running.errand.ended is None:
                        self._send_one(running, packet)
            for held in {held for held, _ in running.flows.values()}:
                if held.socket.has_complaints:
                    self._take(held.socket)

    def _send_one(self, running: _Running, packet: Packet) -> None:
        errand = running.errand
        try:
            held, flow = self._flow(running, packet.address, packet.method)
            held.socket.send(flow, packet.number, packet.size)
        except TooLarge as refused:
            errand.on_refused(packet.number, refused.limit, time.monotonic())
        except NotSent:
            errand.on_not_sent(packet.number)
        except (ClampdError, OSError) as error:  # OSError: a kernel without IPv6, too many open files
            errand.on_fault(packet.number, str(error))

    def _flow(self, running: _Running, address: Address, method: Method) -> tuple[Held, int]:
        found = running.flows.get((address, method))
        if found is None:
            version: IpVersion = 4 if address.version == 4 else 6
            now = time.monotonic()
            held = self._sockets.take(Place(running.errand.order.device, running.ifindex, version, method), now)
            try:
                found = held, held.socket.aim(address)
            except ClampdError:
                self._sockets.release(held, now)
                raise
            running.flows[address, method] = found
            self._flows[held.socket, found[1]] = running
        return found

    def _read(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in ready:
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._bell)
            else:
                self._take(key.data.socket)

    def _take(self, from_socket: RawSocket) -> None:
        for reply in from_socket.replies():
            running = self._flows.get((from_socket, reply.flow))
            if running is not None and reply.proof:
                running.has_packets = False
                with self._guarded(running):
                    running.errand.on_answer(reply.number, time.monotonic(), by_error=reply.hint is not None)

    def _patience(self) -> float | None:
        """Seconds until there is something to do."""
        if self._inbox or self._closing:  # the bell may have been heard while answers were taken
            return 0.0
        now = time.monotonic()
        times = [self._sockets.next_deadline()]
        for running in self._running.values():
            times.append(self._budget.ready_at(now) if running.has_packets else running.errand.deadline)
        if (self._queue and self._room_for(urgent=False)) or (self._urgent_queue and self._room_for(urgent=True)):
            times.append(now)
        earliest = min((each for each in times if each is not None), default=None)
        return None if earliest is None else max(0.0, earliest - now)

    # the end of an order

    @contextlib.contextmanager
    def _guarded(self, running: _Running) -> Iterator[None]:
        """Whatever goes wrong inside is this order's alone; afterwards its news are told."""
        try:
            yield
        except (ClampdError, OSError) as error:
            running.errand.fail(str(error))
        except Exception as error:
            log.exception("probing %s", running.errand.order.peer)
            running.errand.fail(f"the search broke off: {error}")
        self._settle(running)

    def _settle(self, running: _Running) -> None:
        errand = running.errand
        news = errand.take_news()
        if errand.ended is not None and self._running.get(errand.order.peer) is running:
            if errand.memory is not None:
                self._memory[errand.order.peer] = errand.memory
            else:
                self._memory.pop(errand.order.peer, None)
            self._drop(running)
        for each in news:
            self._tell(each)

    def _drop(self, running: _Running) -> None:
        del self._running[running.errand.order.peer]
        now = time.monotonic()
        for held, flow in running.flows.values():
            held.socket.leave(flow)
            self._flows.pop((held.socket, flow), None)
            self._sockets.release(held, now)
        try:
            running.errand.close()
        except Exception:
            log.exception("probing %s", running.errand.order.peer)

    def _tell(self, news: News) -> None:
        try:
            self._on_news(news)
        except Exception:
            log.exception("telling of %s", news.order.peer)


def _is_due(running: _Running, now: float) -> bool:
    deadline = running.errand.deadline
    return deadline is not None and deadline <= now
