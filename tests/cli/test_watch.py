"""Events as they come, and every way in which that ends."""

from __future__ import annotations

import json
import signal

import pytest

from cli.process import TIMEOUT, popen
from fake_daemon import an_event

EVENT = an_event(7, old=1400, new=1380, why="pinned")
LINE = "2026-01-31T12:00:00Z  branch-7: MTU 1400 -> 1380: pinned\n"


@pytest.fixture
def watch(daemon):
    """`clampctl watch` as a process that has shown one event."""
    with popen("--run-dir", str(daemon.run_dir), "watch") as child:
        try:
            daemon.tell(EVENT)
            assert child.stdout.readline() == LINE
            yield child
        finally:
            child.kill()


def test_words(watch, daemon):
    daemon.tell(an_event(8, "peer-removed"), an_event(9, "peer-added", mtu=1400))
    assert watch.stdout.readline() == "2026-01-31T12:00:00Z  branch-7: no longer a peer\n"
    assert watch.stdout.readline() == "2026-01-31T12:00:00Z  branch-7: new peer, MTU 1400\n"


def test_json_is_what_the_daemon_said(daemon):
    told = [{**EVENT.flat(), "later": {"x": [1, None]}}, {**EVENT.flat(), "event": "new-kind-of-event"}]
    with popen("--run-dir", str(daemon.run_dir), "watch", "--json") as child:
        daemon.tell(*told)
        assert [json.loads(child.stdout.readline()) for _ in told] == told
        child.kill()


def test_it_starts_now(watch, daemon):  # noqa: ARG001
    assert daemon.asked[-1].query == {}


def test_interrupt_is_a_clean_end(watch):
    watch.send_signal(signal.SIGINT)
    assert watch.communicate(timeout=TIMEOUT) == ("", "")
    assert watch.returncode == 0


@pytest.mark.parametrize("breaks_off", [False, True])
def test_the_daemon_goes_away(watch, daemon, breaks_off):
    daemon.breaks_off = breaks_off
    daemon.stop()
    out, err = watch.communicate(timeout=TIMEOUT)
    assert (watch.returncode, out) == (3, "")
    assert err.startswith("clampctl: the daemon ")
    assert err.endswith("see its log, or start it again\n")
    assert err.count("\n") == 1


def test_the_reader_leaves_between_two_events(watch):
    watch.stdout.close()
    assert watch.wait(TIMEOUT) == 0
    assert watch.stderr.read() == ""


def test_no_daemon(run_dir):
    with popen("--run-dir", str(run_dir), "watch") as child:
        out, err = child.communicate(timeout=TIMEOUT)
    assert (child.returncode, out) == (3, "")
    assert err.startswith("clampctl: no daemon there: ")
