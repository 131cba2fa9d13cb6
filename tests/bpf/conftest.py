"""The programs for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bpf.answering import AnsweringKernel
from bpf.kernel import Kernel
from support import require_bpf


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
