"""A TCP transfer that goes on until it is told to end: what a path that shrinks under way meets."""

from __future__ import annotations

import os
import socket
import threading
from types import TracebackType

from .command import LabError, wait_for
from .namespace import Namespace

SO_MAX_PACING_RATE = 47
IP_MTU, IPV6_MTU = 14, 24
BYTES_A_SECOND = 4_000_000
CONTENT = os.urandom(1 << 18)
CHUNK = 1 << 14
TICK_SECONDS = 0.2


class Upload:
    """Random bytes from one namespace to another, compared as they arrive, at a modest pace.

    The sender calls the receiver's `address`; with `called` the receiver calls, and `address` is the sender's.
    """

    def __init__(
        self, sender: Namespace, receiver: Namespace, address: str, *, called: bool = False, mark: int | None = None
    ) -> None:
        self._name = f"{sender} to {address}"
        self._ends = (receiver, sender) if called else (sender, receiver)
        self._address = address
        self._called = called
        self._mark = mark
        self._closing = threading.Event()
        self._problem: str | None = None
        self.received = 0

    def __enter__(self) -> Upload:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        calling = self._ends[0].socket(family, socket.SOCK_STREAM)
        with self._ends[1].socket(family, socket.SOCK_STREAM) as listener:
            listener.settimeout(5)
            calling.settimeout(5)
            if self._mark is not None:
                calling.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            listener.bind((self._address, 0))
            listener.listen(1)
            try:
                calling.connect(listener.getsockname()[:2])
                accepted, _ = listener.accept()
            except OSError as error:
                calling.close()
                raise LabError(f"{self._name}: {error}") from error
        self._sending, self._receiving = (accepted, calling) if self._called else (calling, accepted)
        self._sending.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, BYTES_A_SECOND)
        # Deep buffers would hide a stall from the sender for seconds.
        self._sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        for end in (self._sending, self._receiving):
            end.settimeout(TICK_SECONDS)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._sending.close()
        self._receiving.close()

    @property
    def path_mtu(self) -> int:
        """What the sender's kernel believes of the path, bytes."""
        if self._sending.family == socket.AF_INET:
            return self._sending.getsockopt(socket.IPPROTO_IP, IP_MTU)
        return self._sending.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)

    @property
    def stalled(self) -> bool:
        """Whether the sender waits for its retransmission timer: what it sends does not arrive."""
        # struct tcp_info begins: u8 state, ca_state, retransmits, ...
        return self._sending.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2] > 0

    def wait_stalled(self, *, timeout: float = 5.0) -> None:
        """Until a retransmission timer has run out."""
        wait_for(lambda: self.stalled, f"{self._name} to stall", timeout=timeout)

    def goes_on(self, size: int = 100_000, *, timeout: float = 5.0) -> None:
        """Until `size` more bytes have arrived; LabError after `timeout` seconds, or if they are wrong."""
        target = self.received + size
        wait_for(lambda: self._problem or self.received >= target, f"{self._name} to go on", timeout=timeout)
        self.check()

    def check(self) -> None:
        """Raise LabError if the connection broke, or brought other bytes than were sent."""
        if self._problem:
            raise LabError(f"{self._name}: {self._problem}")

    def _send(self) -> None:
        sent = 0
        while not self._closing.is_set():
            start = sent % len(CONTENT)
            try:
                sent += self._sending.send(CONTENT[start : start + CHUNK])
            except TimeoutError:
                continue
            except OSError as error:
                self._problem = f"sending: {error}"
                return

    def _receive(self) -> None:
        while not self._closing.is_set():
            start = self.received % len(CONTENT)
            try:
                arrived = self._receiving.recv(min(1 << 16, len(CONTENT) - start))
            except TimeoutError:
                continue
            except OSError as error:
                self._problem = f"receiving: {error}"
                return
            if not arrived or arrived != CONTENT[start : start + len(arrived)]:
                self._problem = "other bytes arrived than were sent" if arrived else "the connection ended"
                return
            self.received += len(arrived)
