"""What every test in namespaces shares: what the machine must have, a lab, and skips for what the kernel cannot do."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator

import pytest

from lab import Lab, Unsupported
from support import require_bpf, require_command, require_file, require_netns


@pytest.fixture(scope="session", autouse=True)
def privileged() -> None:
    """Everything in this directory makes namespaces and attaches programs."""
    require_netns()
    require_bpf()
    require_command("tc", "nft", "ethtool", "wg", "wireguard-go")
    require_file("/dev/net/tun")


@pytest.fixture(scope="session", autouse=True)
def ended_cleanly() -> Iterator[None]:
    """A run that somebody ends by SIGTERM (timeout(1), CI) still takes its namespaces and processes away."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab for one test."""
    with Lab() as lab:
        yield lab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """A kernel without some kind of device skips the tests that need it."""
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """As for the set-up."""
    return (yield from _skipping())


def _skipping() -> Generator[None, None, None]:
    try:
        return (yield)
    except Unsupported as lack:
        pytest.skip(str(lack))
