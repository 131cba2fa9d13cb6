"""`clampctl top` in a terminal: what it shows, which keys it takes, and how it leaves the terminal behind."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from cli.process import TIMEOUT, environment, popen
from fake_daemon import FakeDaemon, a_peer, a_status, an_event
from mssclamp.control.protocol import Counters, PeersDocument

ENTERS, LEAVES = "\x1b[?1049h", "\x1b[?1049l"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

START = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from mssclamp.cli import main
main(["--run-dir", sys.argv[1], "top"])
"""
"""Makes its standard input the terminal of its session, as a login would."""


class Terminal:
    """A terminal of 80x24 with `clampctl top` in it."""

    def __init__(self, run_dir: object) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._slave = slave
        self.before = termios.tcgetattr(slave)
        self.child = subprocess.Popen(
            [sys.executable, "-c", START, str(run_dir)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=environment(TERM="xterm"),
        )
        self.raw = ""

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def shows(self, *texts: str) -> str:
        """Waits until a screen that has all these texts is drawn from now on; returns it without its escapes."""
        seen = len(self.raw)
        deadline = time.monotonic() + TIMEOUT
        while True:
            shown = ESCAPES.sub("", self.raw[seen:])
            if all(text in shown for text in texts):
                return shown
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                pytest.fail(f"{texts} not shown in:\n{shown}")

    def ends(self) -> int:
        """Waits until it has ended; its status."""
        deadline = time.monotonic() + TIMEOUT
        while self.child.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        while self._read(0):
            pass
        return self.child.wait(0)

    @property
    def is_restored(self) -> bool:
        return termios.tcgetattr(self._slave) == self.before and self.raw.count(ENTERS) == self.raw.count(LEAVES)

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self._slave)
        os.close(self._master)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], seconds)
        if ready:
            self.raw += os.read(self._master, 65536).decode(errors="replace")
        return bool(ready)


@pytest.fixture
def serving(daemon: FakeDaemon) -> FakeDaemon:
    """Two peers, of which one clamps ten SYNs between any two samples... at first; then nothing more happens."""
    daemon.answers("GET", "/v1/status", a_status())
    samples = [
        PeersDocument(
            peers=[
                a_peer("branch-7", counters=Counters(clamped=10 * n)),
                a_peer("home", device="wg0", counters=Counters()),
            ]
        )
        for n in range(3)
    ]
    daemon.answers("GET", "/v1/peers", *samples)
    return daemon


@pytest.fixture
def terminal(serving: FakeDaemon) -> Iterator[Terminal]:
    made = Terminal(serving.run_dir)
    try:
        yield made
    finally:
        made.close()


def test_a_session(terminal, serving):
    terminal.shows("clampd 0.1.0  enforce", "branch-7", "home", "1-2 of 2  q leave")
    serving.tell(an_event(old=1400, new=1380))
    terminal.shows("12:00:00 branch-7: MTU 1400 -> 1380")
    terminal.type("/hom\r")
    assert "branch-7  gre7" not in terminal.shows("1-1 of 1", "/ filter: hom").rpartition("clampd 0.1.0")[2]
    terminal.type("\x1b")
    terminal.shows("1-2 of 2", "branch-7")
    terminal.type("p")
    terminal.shows("PAUSED", "p go on")
    terminal.type("q")
    assert terminal.ends() == 0
    assert ENTERS in terminal.raw
    assert terminal.is_restored


def test_rates_come_with_the_second_sample(terminal):
    terminal.shows("branch-7", "  - ")
    shown = terminal.shows("home      wg0     pinned  1380  enforce        0        0       0      0")
    rate = re.search(r"branch-7 +gre7 +pinned +1380 +enforce +([\d.]+)", shown)
    assert rate is not None
    assert 5 < float(rate[1]) <= 10.1


def test_the_daemon_goes_and_comes_back(terminal, serving):
    terminal.shows("1-2 of 2")
    serving.stop()
    terminal.shows("no daemon: waiting (")
    serving.answers("GET", "/v1/peers", PeersDocument(peers=[a_peer("another")]))
    serving.start()
    terminal.shows("another")
    serving.tell(an_event(9, "peer-removed"))
    terminal.shows("branch-7: no longer a peer")
    terminal.type("q")
    assert terminal.ends() == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)]
)
def test_signals_restore_the_terminal(terminal, number, status):
    terminal.shows("1-2 of 2")
    terminal.child.send_signal(number)
    assert terminal.ends() == status
    assert terminal.is_restored


def test_an_answer_that_is_not_understood_restores_the_terminal(terminal, serving):
    terminal.shows("1-2 of 2")
    serving.answers("GET", "/v1/status", b"nonsense")
    assert terminal.ends() == 1
    assert terminal.is_restored
    assert "clampctl: the answer of the daemon on" in terminal.raw.rpartition(LEAVES)[2]


def test_no_daemon_at_the_start(run_dir):
    terminal = Terminal(run_dir)
    try:
        assert terminal.ends() == 3
        assert ENTERS not in terminal.raw
    finally:
        terminal.close()


def test_no_terminal(daemon):
    with popen("--run-dir", str(daemon.run_dir), "top") as child:
        out, err = child.communicate(timeout=TIMEOUT)
    assert (child.returncode, out) == (1, "")
    assert err == "clampctl: top needs a terminal; use `clampctl peers` or `clampctl watch` here\n"
