"""Asking for WireGuard's peers: programs that answer, hang, trickle, flood or are gone; and the kernel's refusals."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mssclamp.datapath import links, wireguard
from mssclamp.datapath.links import Link
from mssclamp.errors import DatapathError
from wire.test_wgapi import GO, ONE, TWO
from wire.wgnl_messages import continued, device, done, family, message, peer, refusal

TUN = Link(7, "wg0", 1420, 65534, "tun")
KERNEL = Link(7, "wg0", 1420, 65534, "wireguard")
PATIENCE = 0.3
LIMIT = 1.0
"""Seconds that a refusal may take, on a busy machine."""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The sockets' folder; its path is short enough for one."""
    with TemporaryDirectory(prefix="ct") as folder:
        monkeypatch.setattr(links, "_WIREGUARD_SOCKETS", (Path(folder),))
        yield Path(folder)


Serve = Callable[[Callable[[socket.socket], None]], None]


@pytest.fixture
def serve(place: Path) -> Iterator[Serve]:
    """Lets a program answer on the device's socket: it gets the first connection."""
    with contextlib.ExitStack() as running:

        def begin(program: Callable[[socket.socket], None]) -> None:
            listening = running.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(place / "wg0.sock"))
            listening.listen()
            thread = threading.Thread(target=_first_connection, args=(listening, program))
            thread.start()
            running.callback(thread.join, 5)

        yield begin


def _first_connection(listening: socket.socket, program: Callable[[socket.socket], None]) -> None:
    listening.settimeout(5)
    connection, _ = listening.accept()
    with connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        program(connection)


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    """A program that answers so, and hangs up; without an answer it hangs."""

    def program(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(answer)
        if not answer:
            connection.recv(100)

    return program


def refusal_of(link: Link) -> str:
    began = time.monotonic()
    with pytest.raises(DatapathError) as problem:
        wireguard.read_peers(link, PATIENCE)
    assert time.monotonic() - began < LIMIT
    return str(problem.value)


# -- programs


def test_a_program_answers(serve: Serve) -> None:
    asked = []

    def program(connection: socket.socket) -> None:
        asked.append(connection.recv(100))
        for at in range(0, len(GO), 100):
            connection.sendall(GO[at : at + 100])
        connection.recv(1)

    serve(program)
    assert list(wireguard.read_peers(TUN, 5)) == [ONE, TWO]
    assert asked == [b"get=1\n\n"]


def test_a_program_hangs(serve: Serve) -> None:
    serve(answering(b""))
    assert refusal_of(TUN) == f"wg0: its peers were not told within {PATIENCE} s"


def test_a_program_trickles(serve: Serve) -> None:
    """The time is for the whole answer, not for each piece."""

    def program(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"listen_port=1\n")
            time.sleep(PATIENCE / 10)

    serve(program)
    assert "not told within" in refusal_of(TUN)


def test_a_program_floods(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wireguard, "_MAX_ANSWER", 1 << 20)

    def program(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"listen_port=1\n" * 1000)

    serve(program)
    assert "longer than 1048576 bytes" in refusal_of(TUN)


def test_a_program_hangs_up(serve: Serve) -> None:
    serve(answering(GO[:300]))
    assert "the answer has no end" in refusal_of(TUN)


def test_a_program_talks_nonsense(serve: Serve) -> None:
    serve(answering(b"HTTP/1.1 400 Bad Request\r\n\n\n"))
    assert "make no sense" in refusal_of(TUN)


def test_a_program_that_never_accepts(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as others:
        listening.bind(str(place / "wg0.sock"))
        listening.listen(0)
        for _ in range(4):
            other = others.enter_context(socket.socket(socket.AF_UNIX))
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                other.connect(str(place / "wg0.sock"))
        assert "not told within" in refusal_of(TUN)


@pytest.mark.parametrize("kind", ["a dead socket", "a file"])
def test_nobody_is_there(place: Path, kind: str) -> None:
    path = place / "wg0.sock"
    if kind == "a file":
        path.touch()
    else:
        with socket.socket(socket.AF_UNIX) as once:
            once.bind(str(path))
    assert refusal_of(TUN) == f"wg0: nobody answers on {path}; start its program again"


@pytest.mark.usefixtures("place")
def test_the_socket_is_gone() -> None:
    assert refusal_of(TUN) == "wg0: its API socket is gone"


# -- the kernel


class FakeNetlink:
    """Answers the n-th request with the n-th list of datagrams."""

    def __init__(self, *answers: list[bytes]) -> None:
        self._answers = list(answers)
        self._datagrams: list[bytes] = []
        self.requests = 0

    def __enter__(self) -> FakeNetlink:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, _: float) -> None:
        pass

    def send(self, _: bytes) -> None:
        self.requests += 1
        self._datagrams += self._answers.pop(0)

    def recv(self, _: int) -> bytes:
        if not self._datagrams:
            raise TimeoutError
        return self._datagrams.pop(0)


Kernel = Callable[..., FakeNetlink]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    def install(*answers: list[bytes]) -> FakeNetlink:
        fake = FakeNetlink([family()], *answers)
        monkeypatch.setattr(wireguard.socket, "socket", lambda *_: fake)
        return fake

    return install


def test_the_kernel_answers(kernel: Kernel) -> None:
    """In several datagrams, after the rest of an answer that nobody waited for."""
    kernel(
        [
            message(device(peer(b"\7" * 32)), sequence=1),
            message(device(peer(ONE, "10.0.0.0/8"))),
            message(device(continued(ONE, "fd00::/8"), peer(TWO), first=False)) + done(),
        ]
    )
    peers = wireguard.read_peers(KERNEL, PATIENCE)
    assert list(peers) == [ONE, TWO]
    assert list(map(str, peers[ONE].allowed)) == ["10.0.0.0/8", "fd00::/8"]


def test_the_peers_change_while_they_are_listed(kernel: Kernel) -> None:
    cut = [message(device(peer(ONE)), flags=0x12), message(b"\0\0\0\0", 3, 0x12)]
    fake = kernel(cut, [message(device(peer(ONE), peer(TWO)), sequence=3), done(sequence=3)])
    assert list(wireguard.read_peers(KERNEL, PATIENCE)) == [ONE, TWO]
    assert fake.requests == 3


def test_the_peers_never_stop_changing(kernel: Kernel) -> None:
    kernel(*([message(device(), flags=0x12, sequence=n), done(sequence=n)] for n in (2, 3, 4)))
    assert refusal_of(KERNEL) == "wg0: its peers changed 3 times while they were listed"


@pytest.mark.parametrize("answer", [refusal(errno.ENODEV), done(errno.ENODEV)])
def test_the_kernel_refuses(kernel: Kernel, answer: bytes) -> None:
    kernel([answer])
    assert refusal_of(KERNEL) == f"wg0: its peers cannot be asked for: {os.strerror(errno.ENODEV)}"


def test_the_kernel_is_silent(kernel: Kernel) -> None:
    kernel([message(device(peer(ONE)))])
    assert "not told within" in refusal_of(KERNEL)


def test_the_kernel_cuts_a_message(kernel: Kernel) -> None:
    kernel([message(device(peer(ONE)))[:-4]])
    assert "make no sense" in refusal_of(KERNEL)


def test_a_device_that_the_real_kernel_does_not_have() -> None:
    """With or without the driver, with or without the right to ask: an error that can be told."""
    assert refusal_of(Link(2**31 - 1, "wg0", 1420, 65534, "wireguard")).startswith("wg0: its peers cannot be asked for")
