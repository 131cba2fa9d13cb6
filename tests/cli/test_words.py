"""Values in words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fake_daemon import a_peer
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
    assert words.packets(Counters(clamped=2, would_clamp=1)) == "clamped 2, would clamp 1"
    assert words.packets(Counters(retransmits=9, probes=4)) == "resent 9"
    assert words.packets(Counters()) == "nothing yet"
    everything = Counters(probes=14, rounds=2, hints=5, hints_refuted=4, blackholes=1)
    assert words.probing(everything) == "2 rounds, 14 probes, 5 hints (4 refuted), 1 black hole"
    assert words.probing(Counters(hints=1)) == "1 hint"
    assert words.probing(Counters()) == ""


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ("2026-01-31T11:54:30Z", "5m 30s ago, at 11:54:30 UTC"),
        ("2026-01-30T23:00:00Z", "13h ago, at 2026-01-30 23:00:00 UTC"),
    ],
)
def test_moment(at, text):
    assert words.moment(at, NOON) == text


@pytest.mark.parametrize(
    ("floor", "ceiling", "text"),
    [
        (1328, 1329, "1328 passes, 1329 does not"),
        (1328, None, "1328 passes, nothing known not to"),
        (None, 1329, "nothing proven to pass, 1329 does not"),
    ],
)
def test_bounds(floor, ceiling, text):
    assert words.bounds(a_peer(floor=floor, ceiling=ceiling)) == text


@pytest.mark.parametrize(("mode", "cell"), [("enforce", "12"), ("observe", "3")])
def test_clamped_in_observe_mode_is_what_would_be(mode, cell):
    row = dict(zip(words.PEER_COLUMNS, words.peer_row(a_peer(mode=mode), NOON), strict=True))
    assert row["clamped"] == cell


def test_a_measured_wireguard_peer_fits_in_100_columns():
    peer = a_peer(
        "wg0:mV3k9Qa1",
        device="wg0",
        state="confirmed",
        mtu=1328,
        path_mtu=1388,
        checked="2026-01-31T11:59:30Z",
        prefixes=["10.99.0.4/32", "fd00:99::4/128"],
    )
    assert words.table(words.PEER_COLUMNS, [words.peer_row(peer, NOON)]).splitlines() == [
        "name          device  state       mtu  path  mss        checked  mode     clamped  prefixes",
        "wg0:mV3k9Qa1  wg0     confirmed  1328  1388  1340/1320  30s      enforce       12  10.99.0.4/32 +1",
    ]


def test_states():
    assert words.states({"unprobed": 1, "pinned": 2, "hinted": 0}) == "3 peers: 2 pinned, 1 unprobed"
    assert words.states({"pinned": 1}) == "1 peer: 1 pinned"
    assert words.states({}) == "0 peers"


def test_trial():
    trial = Trial(device=None, until="2026-01-31T12:10:00Z", seconds_left=250)
    assert words.trial(trial) == "all devices: enforcing on trial, 4m 10s left; `clampctl confirm` keeps it"
    assert "wg0: " in words.trial(Trial(device="wg0", until="", seconds_left=1))
