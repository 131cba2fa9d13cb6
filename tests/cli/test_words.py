"""Values in words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fake_daemon import an_event
from mssclamp.cli import words
from mssclamp.control.protocol import Counters, Trial

NOON = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (59.4, "59s"),
        (60, "1m"),
        (90, "1m 30s"),
        (7500, "2h 5m"),
        (3601, "1h 1s"),
        (90061, "1d 1h"),
    ],
)
def test_span(seconds, text):
    assert words.span(seconds) == text


@pytest.mark.parametrize(
    ("at", "text"),
    [("2026-01-31T11:54:30Z", "5m"), ("2026-01-28T11:00:00Z", "3d"), ("2026-01-31T12:00:01Z", "0s"), (None, "-")],
)
def test_age(at, text):
    assert words.age(at, NOON) == text


def test_what_is_unknown():
    assert (words.size(None), words.mss(None, None), words.mss(1340, None)) == ("-", "-", "1340/-")


@pytest.mark.parametrize(
    ("items", "text"), [([], "-"), (["10.0.0.0/8"], "10.0.0.0/8"), (["10.0.0.0/8", "::/0", "x"], "10.0.0.0/8 +2")]
)
def test_shortened(items, text):
    assert words.shortened(items) == text


def test_counters_leave_out_what_is_zero():
    assert words.counters(Counters(clamped=2, would_clamp=1)) == "clamped 2, would clamp 1"
    assert words.counters(Counters()) == "nothing yet"


def test_states():
    assert words.states({"unprobed": 1, "pinned": 2, "hinted": 0}) == "3 peers: 2 pinned, 1 unprobed"
    assert words.states({"pinned": 1}) == "1 peer: 1 pinned"
    assert words.states({}) == "0 peers"


def test_trial():
    trial = Trial(device=None, until="2026-01-31T12:10:00Z", seconds_left=250)
    assert words.trial(trial) == "all devices: enforcing on trial, 4m 10s left; `clampctl confirm` keeps it"
    assert "wg0: " in words.trial(Trial(device="wg0", until="", seconds_left=1))


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (an_event(old=1400, new=1380, why="pinned"), "branch-7: MTU 1400 -> 1380: pinned"),
        (an_event(old=None, new=1380), "branch-7: MTU unknown -> 1380"),
        (
            an_event(event="peer-added", mtu=1476, why="the MTU of gre7"),
            "branch-7: new peer, MTU 1476: the MTU of gre7",
        ),
        (an_event(event="peer-removed"), "branch-7: no longer a peer"),
        (an_event(event="device-attached", peer=None, device="gre7"), "gre7: programs attached"),
        (an_event(event="device-detached", peer=None, device="gre7"), "gre7: programs no longer attached"),
        (
            an_event(event="mode-changed", peer=None, device=None, mode="enforce", why="clampctl", seconds=600.0),
            "all devices: enforce for 10m: clampctl",
        ),
        (
            an_event(event="mode-changed", peer=None, device="wg0", mode="observe", why="the trial is over"),
            "wg0: observe: the trial is over",
        ),
        (an_event(event="hint", source="icmp", size=1300), "branch-7: hint (source icmp, size 1300)"),
        (an_event(event="something-new", peer=None), "clampd: something-new"),
    ],
)
def test_event(event, text):
    assert words.event(event) == text
