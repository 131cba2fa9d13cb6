"""The MTU table: what is in force, what it says changed, and what it remembers."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.errors import RequestError
from mssclamp.pmtu.table import EVIDENCE_KEPT, MAX_MTU, MIN_MTU, Change, PeerFacts, Table


def peer(name: str = "branch", device: str = "gre7", mtu: int | None = None) -> PeerFacts:
    return PeerFacts(id=name, name=name, device=device, prefixes=(ip_network("10.7.0.0/16"),), mtu=mtu)


def told(*facts: PeerFacts, mtus: dict[str, int] | None = None, pins: dict[str, int] | None = None) -> Table:
    table = Table(pins)
    table.update(facts, {"gre7": 1476} if mtus is None else mtus, 1.0)
    return table


# -- the value in force


@pytest.mark.parametrize(
    ("configured", "pinned", "device", "mtu", "state", "source", "why"),
    [
        (None, None, 1476, 1476, "unprobed", "device", "the MTU of gre7"),
        (None, None, None, None, "unprobed", "device", "gre7 is not there"),
        (1400, None, 1476, 1400, "pinned", "pin", "pinned by the configuration"),
        (None, 1380, 1476, 1380, "pinned", "pin", "pinned by clampctl"),
        (1400, 1380, 1476, 1380, "pinned", "pin", "pinned by clampctl"),
        (1400, 1450, 1476, 1450, "pinned", "pin", "pinned by clampctl"),
        (1400, None, None, 1400, "pinned", "pin", "pinned by the configuration"),
        (1400, None, 1300, 1300, "pinned", "device", "pinned to 1400 by the configuration, but gre7 takes only 1300"),
        (None, 1476, 1476, 1476, "pinned", "pin", "pinned by clampctl"),
        (None, None, 65536, 65535, "unprobed", "device", "the MTU of gre7"),
    ],
)
def test_value(
    configured: int | None, pinned: int | None, device: int | None, mtu: int | None, state: str, source: str, why: str
) -> None:
    table = told(
        peer(mtu=configured),
        mtus={} if device is None else {"gre7": device},
        pins={} if pinned is None else {"branch": pinned},
    )
    value = table.peers["branch"].value
    assert (value.mtu, value.state, value.source, value.why) == (mtu, state, source, why)


# -- what changed


def test_a_new_peer_is_told_once() -> None:
    table = Table()
    added = table.update([peer()], {"gre7": 1476}, 1.0)
    assert added == [Change("peer-added", "branch", {"mtu": 1476, "why": "the MTU of gre7"})]
    assert table.update([peer()], {"gre7": 1476}, 2.0) == []
    assert table.peers["branch"].changed == 1.0


def test_a_device_of_another_mtu_is_told_with_old_and_new() -> None:
    table = told(peer())
    changes = table.update([peer()], {"gre7": 1400}, 5.0)
    assert changes == [Change("mtu-changed", "branch", {"old": 1476, "new": 1400, "why": "the MTU of gre7"})]
    assert table.peers["branch"].changed == 5.0


def test_another_reason_for_the_same_value_is_evidence_but_no_change() -> None:
    table = told(peer())
    row = table.peers["branch"]
    assert table.pin(row, 1476, 5.0) == []
    assert row.changed == 1.0
    assert [(each.at, each.size, each.text) for each in row.evidence] == [
        (1.0, 1476, "the MTU of gre7"),
        (5.0, 1476, "pinned by clampctl"),
    ]


def test_a_peer_that_goes_is_told_before_those_that_come() -> None:
    table = told(peer("old"))
    changes = table.update([peer("new")], {"gre7": 1476}, 2.0)
    assert [(change.event, change.peer) for change in changes] == [("peer-removed", "old"), ("peer-added", "new")]
    assert list(table.peers) == ["new"]


def test_a_peer_moves_to_another_device() -> None:
    table = told(peer())
    (change,) = table.update([peer(device="wg0")], {"gre7": 1476, "wg0": 1420}, 2.0)
    assert (change.event, change.details["new"]) == ("mtu-changed", 1420)
    assert table.peers["branch"].facts.device == "wg0"


def test_a_device_that_goes_and_comes_back() -> None:
    table = told(peer())
    (gone,) = table.update([peer()], {}, 2.0)
    (back,) = table.update([peer()], {"gre7": 1476}, 3.0)
    assert gone.details == {"old": 1476, "new": None, "why": "gre7 is not there"}
    assert back.details == {"old": None, "new": 1476, "why": "the MTU of gre7"}


# -- pins


def test_unpin_returns_to_what_the_configuration_says() -> None:
    table = told(peer(mtu=1400))
    row = table.peers["branch"]
    assert [change.details["new"] for change in table.pin(row, 1380, 2.0)] == [1380]
    assert [change.details["new"] for change in table.unpin(row, 3.0)] == [1400]
    assert row.pin is None


def test_a_pin_waits_for_a_peer_that_is_away() -> None:
    table = told(peer(), pins={"branch": 1380})
    table.update([], {"gre7": 1476}, 2.0)
    table.update([peer()], {"gre7": 1476}, 3.0)
    assert table.peers["branch"].value.mtu == 1380


def test_an_unpinned_peer_that_comes_back_has_no_pin() -> None:
    table = told(peer(), pins={"branch": 1380})
    table.unpin(table.peers["branch"], 2.0)
    table.update([], {}, 3.0)
    table.update([peer()], {"gre7": 1476}, 4.0)
    assert table.peers["branch"].value.mtu == 1476


@pytest.mark.parametrize("mtu", [MIN_MTU, 1280, 1476])
def test_a_pin_that_can_be(mtu: int) -> None:
    table = told(peer())
    table.check_pin(table.peers["branch"], mtu)


@pytest.mark.parametrize(
    ("mtu", "says"),
    [
        (MIN_MTU - 1, "choose 576 to 65535"),
        (-1, "choose 576 to 65535"),
        (MAX_MTU + 1, "choose 576 to 65535"),
        (10**30, "choose 576 to 65535"),
        (1477, "1477 is over the MTU of gre7, which is 1476; pin 1476 or less"),
    ],
)
def test_a_pin_that_cannot_be(mtu: int, says: str) -> None:
    table = told(peer())
    with pytest.raises(RequestError, match=says):
        table.check_pin(table.peers["branch"], mtu)


def test_while_the_device_is_away_any_mtu_may_be_pinned() -> None:
    table = told(peer(), mtus={})
    table.check_pin(table.peers["branch"], MAX_MTU)


# -- any history

mtus = st.integers(MIN_MTU, 2_000)
names = st.sampled_from(("a", "b", "c"))
devices = st.sampled_from(("gre7", "wg0"))
looks = st.tuples(
    st.just("look"),
    st.dictionaries(names, st.tuples(devices, st.none() | mtus), max_size=3),
    st.dictionaries(devices, mtus, max_size=2),
)
pins = st.tuples(st.just("pin"), names, mtus)
unpins = st.tuples(st.just("unpin"), names, st.none())


@given(st.dictionaries(names, mtus), st.lists(st.one_of(looks, looks, pins, unpins), max_size=12))
def test_any_history(kept: dict[str, int], steps: list[tuple[str, object, object]]) -> None:
    """Never above the device; pins outlive everything; events alone tell the whole table."""
    table = Table(kept)
    pinned = dict(kept)
    limits: dict[str, int] = {}
    watched: dict[str, int | None] = {}
    for now, (verb, first, second) in enumerate(steps, start=1):
        if verb == "look":
            limits = second
            facts = [peer(name, device, mtu) for name, (device, mtu) in first.items()]
            changes = table.update(facts, limits, now)
        elif first not in table.peers:
            continue
        elif verb == "pin":
            pinned[first] = second
            changes = table.pin(table.peers[first], second, now)
        else:
            pinned.pop(first, None)
            changes = table.unpin(table.peers[first], now)

        for change in changes:
            match change.event:
                case "peer-added":
                    assert change.peer not in watched
                    watched[change.peer] = change.details["mtu"]
                case "peer-removed":
                    del watched[change.peer]
                case "mtu-changed":
                    assert watched[change.peer] == change.details["old"] != change.details["new"]
                    watched[change.peer] = change.details["new"]
        assert watched == {name: row.value.mtu for name, row in table.peers.items()}

        for name, row in table.peers.items():
            limit = limits.get(row.facts.device)
            asked = pinned.get(name, row.facts.mtu)
            assert row.pin == pinned.get(name)
            assert row.value.mtu == (limit if asked is None else asked if limit is None else min(asked, limit))
            assert row.value.state == ("unprobed" if asked is None else "pinned")
            assert row.evidence[-1].size == row.value.mtu
            assert row.evidence[-1].text == row.value.why
            assert row.changed <= now
        assert all(change.details.get("why") for change in changes if change.event != "peer-removed")


def test_evidence_is_bounded() -> None:
    table = told(peer())
    for now in range(EVIDENCE_KEPT):
        table.update([peer()], {"gre7": 1400 + now % 2}, now)
    evidence = table.peers["branch"].evidence
    assert len(evidence) == EVIDENCE_KEPT
    assert evidence[-1].at == EVIDENCE_KEPT - 1
