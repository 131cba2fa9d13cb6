"""What happened, in sentences."""

from __future__ import annotations

import pytest

from fake_daemon import a_search, an_event
from mssclamp.cli import sentences


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
        (
            an_event(event="hint", hint="oversize", size=1420, mtu=1328, family=4),
            "branch-7: hint: an IPv4 packet of 1420 bytes is over the MTU of 1328",
        ),
        (
            an_event(event="hint", hint="oversize-df-clear", size=1420, mtu=1328, family=4),
            "branch-7: hint: an IPv4 packet of 1420 bytes without DF is over the MTU of 1328 and goes on unanswered",
        ),
        (
            an_event(event="hint", hint="resent", size=1400, mtu=1420, family=6),
            "branch-7: hint: a TCP segment of 1400 bytes left again after silence",
        ),
        (
            an_event(event="hint", hint="icmp", mtu=1388, size=1480, why="it shows a packet of ours", **{"from": "x"}),
            "branch-7: hint: x says: too big, MTU 1388, about an outer packet of 1480 bytes: it shows a packet of ours",
        ),
        (
            an_event(event="hint", hint="icmp", refuted=True),
            "branch-7: hint, refuted by probes: somebody on the underlay says: too big",
        ),
        (an_event(event="hint", hint="link", mtu=1400, old=1500), "branch-7: hint: link (mtu 1400, old 1500)"),
        (an_event(event="hint"), "branch-7: hint: unnamed"),
        (
            an_event(event="blackhole", size=1400, mtu=1328, flows=2, why="1344 lost three times"),
            "branch-7: black hole: packets of 1400 bytes vanish, MTU 1328 from now on, 2 stalled flows told: "
            "1344 lost three times",
        ),
        (an_event(event="blackhole", flows=0), "branch-7: black hole: large packets vanish"),
        (
            an_event(event="suppressed", size=1420, mtu=1328, family=6, why="over the rate limit of answers"),
            "branch-7: no answer for an IPv6 packet of 1420 bytes over the MTU of 1328: over the rate limit of answers",
        ),
        (a_search()[0], "branch-7: round 1: 1280 and 1328 answered; 1392 and 1420 lost once"),
        (
            a_search(later=1)[-1],
            "branch-7: search ended (echo to 10.7.0.1, 2 rounds, 8 probes): MTU 1328, exact, both ways: "
            "1328 answered in 12 ms; 1344 lost three times beside it (later 1)",
        ),
        (
            a_search(verdict="away", mtu=None, exact=False, text="nothing answered", address=None, method=None)[-1],
            "branch-7: search ended (2 rounds, 8 probes): nothing answered; the MTU stays",
        ),
        (an_event(event="probe-round", rounds=1), "branch-7: probe-round (rounds 1)"),
        (an_event(event="something-new", peer=None, x=1), "clampd: something-new (x 1)"),
    ],
)
def test_event(event, text):
    assert sentences.event(event) == text


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        ((1328, True, "both"), "MTU 1328, exact, both ways"),
        ((1328, False, "to-peer"), "MTU at least 1328, towards the peer only"),
        ((1420, None, None), "MTU 1420"),
        ((None, None, None), "MTU -"),
    ],
)
def test_measured(measured, text):
    assert sentences.measured(*measured) == text
