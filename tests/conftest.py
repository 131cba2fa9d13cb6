"""For all tests: a skip that nobody expects can be made a failure; hypothesis does the same in every run; tallies are
printed at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings

from support import Tally

# No deadline: the machine is shared. No database: a run depends on nothing but the tree.
settings.register_profile("clampd", deadline=None, derandomize=True, database=None)
settings.load_profile("clampd")

EXPECTED_SKIPS = Path(__file__).with_name("expected-skips")


def expected_skips() -> frozenset[str]:
    """The ids of the tests that may be skipped; a file's name stands for all tests in it."""
    lines = EXPECTED_SKIPS.read_text().splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _not_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns an unexpected skip into a failure if the environment asks for it."""
    if os.environ.get("CLAMPD_TESTS_NO_SKIP") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return
    node, file = report.nodeid, report.nodeid.partition("::")[0]
    if not {node, file} & expected_skips():
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = (
            f"skipped, and CLAMPD_TESTS_NO_SKIP is set: {why}\n(tests/expected-skips does not list {node})"
        )


def pytest_configure() -> None:
    # A shell's background job ignores SIGINT, and so would what the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _not_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _not_skipped(report)
    return report


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Called with a title and counts by name: they stand in pytest's summary, whichever process ran the test."""
    return lambda title, counts: record_property(TALLY, [title, dict(counts)])


TALLY = "tally"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == TALLY:
                title, counts = value
                terminalreporter.section(title)
                for what, count in {**counts, "in all": sum(counts.values())}.items():
                    terminalreporter.line(f"{count:8}  {what}")
