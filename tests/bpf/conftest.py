"""The programs for all tests of this folder, and the tallies of the generated packets in pytest's summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from bpf.answering import AnsweringKernel
from bpf.kernel import Kernel
from mssclamp.wire.clamp import Reason
from mssclamp.wire.too_big import Outcome
from support import require_bpf

TALLY = pytest.StashKey[Counter[Reason | None]]()
OUTCOMES = pytest.StashKey[Counter[Outcome]]()


@pytest.fixture(scope="session")
def kernel() -> Iterator[Kernel]:
    """The programs, loaded once."""
    require_bpf()
    kernel = Kernel.load()
    yield kernel
    kernel.close()


@pytest.fixture(scope="session")
def answering() -> Iterator[AnsweringKernel]:
    """The programs once more, with peers that oversize packets are answered for, and no rate limits."""
    require_bpf()
    kernel = AnsweringKernel.load()
    yield kernel
    kernel.close()


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Counter[Reason | None]:
    """How many generated packets met each reason; what is put in here is printed at the end."""
    return pytestconfig.stash.setdefault(TALLY, Counter())


@pytest.fixture(scope="session")
def outcomes(pytestconfig: pytest.Config) -> Counter[Outcome]:
    """The same for the generated packets that leave, by what became of them."""
    return pytestconfig.stash.setdefault(OUTCOMES, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    def section(title: str, rows: list[tuple[str, int]]) -> None:
        if any(hits for _, hits in rows):
            terminalreporter.section(title)
            for name, hits in (*rows, ("in all", sum(hits for _, hits in rows))):
                terminalreporter.line(f"{hits:8}  {name}")

    tally, outcomes = config.stash.get(TALLY, Counter()), config.stash.get(OUTCOMES, Counter())
    reasons = [(reason.name.lower(), tally[reason]) for reason in Reason]
    section("generated packets by reason", [*reasons, ("not counted (no SYN, or not IP)", tally[None])])
    section("generated packets by outcome", [(outcome.value, outcomes[outcome]) for outcome in Outcome])
