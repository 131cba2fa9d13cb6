"""What a test needs of the machine: each `require_...()` skips the calling test where it is missing.

With CLAMPD_TESTS_NO_SKIP=1 a skip counts as a failure, unless tests/expected-skips lists the test (conftest.py).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Tally = Callable[[str, Mapping[str, int]], None]
"""The fixture `tally`: a title and counts by name, for pytest's summary."""


def require(condition: object, missing: str) -> None:
    """Skips the calling test unless `condition` holds; `missing` says what it needs."""
    if not condition:
        pytest.skip(f"needs {missing}")


def require_root() -> None:
    """The test changes the machine's network or loads programs."""
    require(os.geteuid() == 0, "root")


def require_bpf() -> None:
    """The test loads programs into the kernel, by bcc."""
    require_root()
    problem = _bpf_problem()
    require(problem is None, f"bpf(2): {problem}")


def require_netns() -> None:
    """The test makes network namespaces."""
    require_root()
    require_command("ip")
    require(_can_make_netns(), "network namespaces")


def require_command(*names: str) -> None:
    """The test runs these commands."""
    for name in names:
        require(shutil.which(name), f"the command {name}")


def require_file(path: str) -> None:
    """The test opens this device or file."""
    require(Path(path).exists(), path)


@functools.cache
def _bpf_problem() -> str | None:
    """Why the programs cannot be loaded here, or None. A program that does not compile is no such reason."""
    try:
        from bcc import BPF  # noqa: F401

        from mssclamp.datapath import bpf
    except ImportError as error:
        return str(error)
    try:
        bpf.possible_cpus()
        # Only a kernel that forbids or lacks bpf(2) answers this with anything but "no such map".
        bpf.Map.by_id(0xFFFFFFFF).close()
    except FileNotFoundError:
        return None
    except Exception as error:
        return str(error)
    return None


@functools.cache
def _can_make_netns() -> bool:
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0
