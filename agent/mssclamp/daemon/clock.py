"""The daemon's clocks, and the only place that reads them."""

from __future__ import annotations

import time
from pathlib import Path


def unix() -> float:
    """Seconds since 1970, for people and evidence."""
    return time.time()


def boot_ns() -> int:
    """CLOCK_BOOTTIME, which the programs in the kernel compare deadlines with."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot() -> float:
    """The same in seconds: for everything that only measures time."""
    return boot_ns() / 1e9


def boot_id() -> str:
    """Names this boot: a CLOCK_BOOTTIME of another one means nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
