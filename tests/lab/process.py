"""A program running in the background, in a session of its own, with its output in a file."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

STOP_SECONDS = 5.0


class Process:
    """Started on entering, stopped on leaving: SIGTERM first, SIGKILL after `STOP_SECONDS`.

    Signals go to the process that was started and to nobody else.
    """

    def __init__(self, argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.argv = list(argv)
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Process:
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def child(self) -> subprocess.Popen[bytes]:
        assert self._child is not None, "not started"
        return self._child

    @property
    def pid(self) -> int:
        """The program's own pid: `ip netns exec` becomes the program that it starts."""
        return self.child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send one signal, if the process is still there."""
        if self.running:
            self.child.send_signal(number)

    def stop(self) -> int:
        """End the process as an operator would; its exit status (negative: a signal)."""
        self.send(signal.SIGTERM)
        try:
            return self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End the process without a chance to say goodbye."""
        self.send(signal.SIGKILL)
        return self.child.wait(STOP_SECONDS)

    def output(self) -> str:
        """Everything it has written so far, both streams."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""
