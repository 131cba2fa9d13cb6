"""`clampctl` as a process of its own, for what signals, pipes and terminals do to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mssclamp

TIMEOUT = 20.0

_PRESENTATION = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")


def environment(**values: str) -> dict[str, str]:
    """Ours but for what would change the output, so that the child finds this very package."""
    ours = {name: value for name, value in os.environ.items() if name not in _PRESENTATION}
    return ours | {"PYTHONPATH": str(Path(mssclamp.__file__).parent.parent)} | values


def popen(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Starts `clampctl`, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "mssclamp.cli", *arguments],
        env=environment(),
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )
