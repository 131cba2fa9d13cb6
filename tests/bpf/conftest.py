"""The programs for all tests of this folder, and the tally of the generated packets in pytest's summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from bpf.kernel import Kernel
from mssclamp.wire.clamp import Reason
from support import require_bpf

TALLY = pytest.StashKey[Counter[Reason | None]]()


@pytest.fixture(scope="session")
def kernel() -> Iterator[Kernel]:
    """The programs, loaded once."""
    require_bpf()
    kernel = Kernel.load()
    yield kernel
    kernel.close()


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Counter[Reason | None]:
    """How many generated packets met each reason; what is put in here is printed at the end."""
    return pytestconfig.stash.setdefault(TALLY, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    hits = config.stash.get(TALLY, Counter())
    if not hits:
        return
    terminalreporter.section("generated packets by reason")
    for reason in (*Reason, None):
        name = "not counted (no SYN, or not IP)" if reason is None else reason.name.lower()
        terminalreporter.line(f"{hits[reason]:8}  {name}")
    terminalreporter.line(f"{hits.total():8}  in all")
