"""Running commands, waiting with a bound, and names that no parallel run uses."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

COMMAND_SECONDS = 30.0
POLL_SECONDS = 0.02

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_serial = itertools.count()


class LabError(Exception):
    """The lab could not do what it was asked; the message holds the command's own words."""


class Unsupported(LabError):
    """This kernel lacks a feature that the topology needs."""


def unique(role: str) -> str:
    """A name of this process alone, of at most 15 characters (the limit of device names) for short roles."""
    return f"ct{_base36(os.getpid())}{_base36(next(_serial))}{role}"[:15]


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    check: bool = True,
    timeout: float = COMMAND_SECONDS,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; LabError with its output if it fails, or lasts over `timeout` seconds."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=None if env is None else {**os.environ, **env},
        )
    except subprocess.TimeoutExpired as expired:
        raise LabError(f"{' '.join(argv)}: still running after {timeout:g} s") from expired
    except FileNotFoundError as missing:
        raise LabError(f"{argv[0]} is not installed") from missing
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def wait_for(probe: Callable[[], T], what: str, *, timeout: float = 10.0) -> T:
    """Ask `probe` until its answer is true, and return it; LabError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:g} s in vain for {what}; last seen: {answer!r}")
        time.sleep(POLL_SECONDS)


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if not number:
            return digits
