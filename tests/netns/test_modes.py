"""Observe, enforce, and `enforce --for`, whose end lies in the kernel's map and holds without the daemon.

client ────── gateway with clampd ══════ site        (lab.topology)
"""

from __future__ import annotations

import time

import pytest

from lab import Clampd, Lab, peer_table, wait_for
from lab.topology import SITE_PREFIXES, Ends, Line, line, mss_for

pytestmark = pytest.mark.netns

PEER_MTU = 1400
CLAMPED = mss_for(PEER_MTU, 4), mss_for(PEER_MTU, 4)
UNCLAMPED = mss_for(1500, 4), mss_for(1500, 4)
TRIAL_SECONDS = 2.0
LATER_SECONDS = 3.0


@pytest.fixture
def built(lab: Lab) -> Line:
    return line(lab)


@pytest.fixture
def clampd(lab: Lab, built: Line) -> Clampd:
    """Observing, as by default."""
    clampd = lab.clampd(built.gateway, peer_table("site", built.device, SITE_PREFIXES, PEER_MTU))
    clampd.attached(built.device)
    return clampd


@pytest.fixture
def ends(lab: Lab, built: Line) -> Ends:
    return Ends(lab, built)


@pytest.mark.parametrize("scope", [[], ["wan"]], ids=["all devices", "one device"])
def test_enforce_and_observe(clampd: Clampd, ends: Ends, scope: list[str]) -> None:
    assert ends.mss() == UNCLAMPED
    assert clampd.peer("site")["mode"] == "observe"
    clampd.ctl("enforce", *scope)
    assert ends.mss() == CLAMPED
    assert clampd.peer("site")["mode"] == "enforce"
    clampd.kill()
    clampd.start()
    clampd.attached("wan")
    assert ends.mss() == CLAMPED, "what the operator said is kept"
    clampd.ctl("observe", *scope)
    assert ends.mss() == UNCLAMPED
    counters = clampd.peer("site")["counters"]
    assert counters["clamped"] >= 4
    assert counters["would_clamp"] >= 4


def test_a_trial_falls_back(clampd: Clampd, ends: Ends) -> None:
    clampd.ctl("enforce", "--for", f"{TRIAL_SECONDS:g}s")
    assert ends.mss() == CLAMPED
    assert len(clampd.status()["trials"]) == 1
    wait_for(lambda: ends.mss() == UNCLAMPED, "the trial to end", timeout=TRIAL_SECONDS + LATER_SECONDS)
    wait_for(lambda: not clampd.status()["trials"], "the daemon to notice")
    assert clampd.peer("site")["mode"] == "observe"


def test_a_trial_falls_back_without_the_daemon(clampd: Clampd, ends: Ends) -> None:
    clampd.ctl("enforce", "--for", f"{TRIAL_SECONDS:g}s")
    clampd.kill()
    assert ends.mss() == CLAMPED
    wait_for(lambda: ends.mss() == UNCLAMPED, "the trial to end", timeout=TRIAL_SECONDS + LATER_SECONDS)
    clampd.start()
    clampd.attached("wan")
    assert ends.mss() == UNCLAMPED
    assert not clampd.status()["trials"]


def test_a_trial_outlives_a_restart(clampd: Clampd, ends: Ends) -> None:
    """The next daemon neither ends it early nor forgets its end."""
    clampd.ctl("enforce", "--for", "5s")
    clampd.kill()
    clampd.start()
    clampd.attached("wan")
    assert ends.mss() == CLAMPED
    wait_for(lambda: ends.mss() == UNCLAMPED, "the trial to end", timeout=5 + LATER_SECONDS)


def test_a_confirmed_trial_stays(clampd: Clampd, ends: Ends) -> None:
    clampd.ctl("enforce", "--for", f"{TRIAL_SECONDS:g}s")
    over = time.monotonic() + TRIAL_SECONDS + 0.5
    clampd.ctl("confirm")
    assert not clampd.status()["trials"]
    wait_for(lambda: time.monotonic() > over, "the moment at which it would have ended")
    assert ends.mss() == CLAMPED
    assert clampd.ctl("confirm", check=False).returncode == 1, "there is nothing left to confirm"
