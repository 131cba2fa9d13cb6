"""The machines, connected once; and what a run leaves: figures, logs, and captures of what failed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from vmlab.checks import Record
from vmlab.machine import WORK, Machine, MachineError
from vmlab.site import Site

CAPTURES = "/var/lib/lab/captures"
BYTES_OF_A_PACKET, MEGABYTES_OF_A_FILE, FILES = 160, 8, 4
"""The last 24 megabytes at least are kept."""


def results() -> Path:
    """Where this run's artefacts go."""
    folder = Path(os.environ["CLAMPD_VM_RESULTS"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The three machines, WireGuard between the gateways, clampd on both."""
    with Site() as connected:
        try:
            connected.start()
            connected.reset()
            connected.session()
            yield connected
        finally:
            _keep_logs(connected)


@pytest.fixture(scope="session")
def figures() -> Iterator[dict[str, Any]]:
    """Numbers that the run measures, by name: build/vm/KERNEL/figures.json."""
    measured: dict[str, Any] = {}
    yield measured
    (results() / "figures.json").write_text(json.dumps(measured, indent=1) + "\n")


@pytest.fixture
def record(figures: dict[str, Any], record_property: Record) -> Record:
    """Keep a figure, in figures.json and in the JUnit report."""

    def keep(name: str, value: Any) -> None:
        figures[name] = value
        record_property(name, value)

    return keep


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        item.stash[FAILED] = True


FAILED = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def around(site: Site, request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything is captured while a test runs, and kept if it fails; afterwards the path is whole again."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(_start_capture, site.machines))
        yield
        failed = request.node.stash.get(FAILED, False)
        with contextlib.suppress(MachineError):
            site.reset()
        list(pool.map(_stop_capture, site.machines))
        if failed:
            folder = results() / "captures" / request.node.name.replace("/", "_")
            folder.mkdir(parents=True, exist_ok=True)
            for machine in site.machines:
                (folder / f"{machine}.pcaps.tar").write_bytes(machine.pull(f"{CAPTURES}.tar"))


def _start_capture(machine: Machine) -> None:
    if not machine.connected:  # as after a reboot that did not end well
        machine.connect()
    machine.script(
        f"systemctl stop lab-capture 2> /dev/null || true; rm -rf {CAPTURES}; mkdir -p {CAPTURES}\n"
        f"systemd-run --quiet --collect --unit lab-capture tcpdump -Z root -i any -U -n -s {BYTES_OF_A_PACKET} "
        f"-C {MEGABYTES_OF_A_FILE} -W {FILES} -w {CAPTURES}/part.pcap not port 22"
    )


def _stop_capture(machine: Machine) -> None:
    with contextlib.suppress(MachineError):
        machine.script(
            f"systemctl stop lab-capture || true; tar -C {CAPTURES} -cf {CAPTURES}.tar .",
        )


def _keep_logs(site: Site) -> None:
    folder = results() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    for machine in site.machines:
        with contextlib.suppress(MachineError):
            (folder / f"{machine}.journal").write_text(machine.run("journalctl", "--no-pager", "-o", "short-monotonic"))
        with contextlib.suppress(OSError):
            (folder / f"{machine}.console").write_bytes((WORK / f"{machine}.console.log").read_bytes())
