"""The MTU table: what is in force, what it says changed, and what it remembers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.errors import RequestError
from mssclamp.pmtu.table import EVIDENCE_KEPT, HINT_LIFE, MAX_MTU, MIN_MTU, Change, Learned, Peer, PeerFacts, Table


def peer(name: str = "branch", device: str = "gre7", mtu: int | None = None, **more: Any) -> PeerFacts:
    return PeerFacts(id=name, name=name, device=device, prefixes=(ip_network("10.7.0.0/16"),), mtu=mtu, **more)


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


# -- what is learned


def proven(mtu: int, ceiling: int | None = None, *, exact: bool = True, at: float = 5.0, **more: Any) -> Learned:
    why = f"{mtu} answered in 12 ms"
    return Learned(mtu, ceiling, exact, "probe", why, at, at, "both", 0.012, **more)


def row_of(table: Table, name: str = "branch") -> Peer:
    return table.peers[name]


def searched(mtu: int = 1400, ceiling: int | None = 1401) -> tuple[Table, Peer]:
    """A table whose only peer (device limit 1476) has been searched to its end."""
    table = told(peer(overhead=24))
    row = row_of(table)
    table.search_begins(row, 4.0)
    table.found(row, proven(mtu, ceiling), 5.0)
    return table, row


def test_a_first_search() -> None:
    """At first sight the device's limit stays in force; then what was proven, and what led there."""
    table = told(peer())
    row = row_of(table)
    assert table.search_begins(row, 4.0) == []
    assert (row.value.state, row.value.mtu, row.value.source) == ("searching", 1476, "device")
    assert not row.value.has_evidence
    assert table.found(row, proven(1400, 1401), 5.0) == [
        Change("mtu-changed", "branch", {"old": 1476, "new": 1400, "why": "1400 answered in 12 ms"})
    ]
    assert (row.value.state, row.value.mtu, row.value.source) == ("confirmed", 1400, "probe")
    assert row.value.has_evidence
    assert (row.changed, row.tally.blackholes) == (5.0, 0)
    assert [(each.at, each.source, each.size) for each in row.evidence] == [(1.0, "device", 1476), (5.0, "probe", 1400)]


def test_a_search_that_finds_the_device_s_limit() -> None:
    table = told(peer())
    assert table.found(row_of(table), proven(1476), 5.0) == []
    assert (row_of(table).value.state, row_of(table).value.source) == ("confirmed", "probe")
    assert row_of(table).evidence[-1].text == "1476 answered in 12 ms"


def test_while_a_search_goes_on_the_last_value_stays() -> None:
    table, row = searched()
    assert table.search_begins(row, 6.0) == []
    assert (row.value.state, row.value.mtu) == ("searching", 1400)
    assert table.search_ended(row, "nothing answered", 7.0) == []
    assert (row.value.state, row.value.mtu, row.value.why) == ("confirmed", 1400, "1400 answered in 12 ms")
    assert (row.evidence[-1].verdict, row.evidence[-1].text) == ("nothing learned", "nothing answered")


def test_what_is_not_exact_is_in_force_and_searched_on() -> None:
    table = told(peer())
    table.found(row_of(table), proven(1400, 1420, exact=False), 5.0)
    assert (row_of(table).value.state, row_of(table).value.mtu) == ("searching", 1400)


def test_a_fall() -> None:
    """The value comes down before the search is over, and the end counts no second black hole."""
    table, row = searched()
    table.search_begins(row, 9.0)
    fallen = table.fell(row, 1320, "1320 answered; 1400 lost three times", 10.0)
    why = "1320 answered; 1400 lost three times"
    assert fallen == [
        Change("blackhole", "branch", {"size": 1400, "mtu": 1320, "why": why, "flows": 0}),
        Change("mtu-changed", "branch", {"old": 1400, "new": 1320, "why": why}),
    ]
    assert row.learned is not None
    assert (row.learned.mtu, row.learned.ceiling, row.learned.exact, row.learned.rtt) == (1320, 1400, False, 0.012)
    assert row.value.state == "searching"
    (risen,) = table.found(row, proven(1350, 1351), 11.0)
    assert risen.details == {"old": 1320, "new": 1350, "why": "1350 answered in 12 ms"}
    assert (row.value.state, row.tally.blackholes) == ("confirmed", 1)


def test_a_search_that_finds_less_tells_of_a_black_hole() -> None:
    table, row = searched()
    assert [change.event for change in table.found(row, proven(1380, 1381), 10.0)] == ["blackhole", "mtu-changed"]
    assert [change.event for change in table.found(row, proven(1450, 1451), 11.0)] == ["mtu-changed"]
    assert row.tally.blackholes == 1


def test_what_was_only_remembered_is_no_black_hole() -> None:
    table = Table(learned={"branch": proven(1400, 1401, trusted=False)})
    table.update([peer()], {"gre7": 1476}, 1.0)
    assert [change.event for change in table.found(row_of(table), proven(1300, 1301), 5.0)] == ["mtu-changed"]
    assert row_of(table).tally.blackholes == 0


def test_a_pinned_peer_falls_without_a_word() -> None:
    """Its value in force stays: nothing got smaller, and what is learned waits for `unpin`."""
    table = told(peer(), pins={"branch": 1300})
    row = row_of(table)
    assert table.fell(row, 1380, "1380 answered; 1476 lost three times", 5.0) == []
    assert row.learned is not None
    assert (row.learned.mtu, row.learned.ceiling) == (1380, 1476)
    for now in (6.0, 7.0):
        assert table.found(row, proven(1200, 1201), now) == []
    assert (row.value.mtu, row.value.state, row.tally.blackholes) == (1300, "pinned", 0)
    (change,) = table.unpin(row, 8.0)
    assert change.details["new"] == 1200


def test_a_check_that_is_answered() -> None:
    table, row = searched()
    assert table.confirmed(row, 0.02, 35.0) == []
    assert row.learned is not None
    assert (row.learned.checked, row.learned.found, row.learned.rtt) == (35.0, 5.0, 0.02)
    table.confirmed(row, None, 65.0)
    assert (row.learned.checked, row.learned.rtt) == (65.0, 0.02)


def test_what_is_remembered_is_in_force_but_not_trusted() -> None:
    table = Table(learned={"branch": proven(1400, 1401, trusted=False)})
    (added,) = table.update([peer()], {"gre7": 1476}, 1.0)
    assert added.details["mtu"] == 1400
    row = row_of(table)
    assert (row.value.state, row.value.mtu, row.value.source) == ("searching", 1400, "probe")
    assert table.confirmed(row, None, 2.0) == []
    assert row.value.state == "confirmed"


def test_what_was_learned_waits_for_a_peer_that_is_away() -> None:
    table, _ = searched()
    table.update([], {"gre7": 1476}, 6.0)
    table.update([peer(overhead=24)], {"gre7": 1476}, 7.0)
    row = row_of(table)
    assert (row.value.mtu, row.value.state) == (1400, "searching")
    assert row.learned == proven(1400, 1401, trusted=False)


def test_why_nothing_is_learned_is_said() -> None:
    table = told(peer())
    row = row_of(table)
    table.search_begins(row, 4.0)
    for now in range(5, 50):
        table.search_ended(row, "nobody answers; name one", now)
    assert (row.value.state, row.value.mtu) == ("unprobed", 1476)
    assert row.value.why == "the MTU of gre7; nobody answers; name one"
    assert len(row.evidence) <= 4  # said again and again, it would push out all else
    table.found(row, proven(1476), 60.0)
    table.forget(row, 61.0)
    assert row.value.why == "the MTU of gre7"


def test_forget() -> None:
    table, row = searched()
    (change,) = table.forget(row, 9.0)
    assert change.details == {"old": 1400, "new": 1476, "why": "the MTU of gre7"}
    assert (row.learned, row.value.state) == (None, "unprobed")
    assert [each.text for each in row.evidence] == ["the MTU of gre7"]
    assert table.forget(row, 10.0) == []
    assert [each.at for each in row.evidence] == [10.0]
    table.update([], {}, 11.0)
    table.update([peer()], {"gre7": 1476}, 12.0)
    assert row_of(table).learned is None


def test_a_pin_beats_what_is_learned() -> None:
    table, row = searched()
    (pinned,) = table.pin(row, 1450, 6.0)
    assert (pinned.details["new"], row.value.state) == (1450, "pinned")
    (back,) = table.unpin(row, 7.0)
    assert back.details == {"old": 1450, "new": 1400, "why": "1400 answered in 12 ms"}


def test_a_device_that_takes_less_than_was_proven() -> None:
    """Then the device is what limits, and the kernel tells senders so."""
    table, row = searched()
    (change,) = table.update([peer(overhead=24)], {"gre7": 1300}, 8.0)
    assert change.details == {"old": 1400, "new": 1300, "why": "the MTU of gre7; 1400 answered in 12 ms"}
    assert (row.value.source, row.value.has_evidence) == ("device", False)
    (back,) = table.update([peer(overhead=24)], {"gre7": 1476}, 9.0)
    assert (back.details["new"], row.value.source) == (1400, "probe")


def test_notes_are_evidence_alone() -> None:
    table, row = searched()
    table.note(row, "kernel", None, "changed", "its endpoint is 192.0.2.8 now", 6.0)
    assert row.evidence[-1].text == "its endpoint is 192.0.2.8 now"
    assert row.value.mtu == 1400


# -- black holes: a path that does not even carry min_outer


@pytest.mark.parametrize(
    ("overhead", "mtu", "ceiling", "state"),
    [
        (24, 1256, 1257, "confirmed"),  # 1280 outer passes, to the byte
        (24, 1255, 1256, "blackhole"),
        (0, 1280, 1281, "confirmed"),
        (0, 1279, 1280, "blackhole"),
        (60, 1216, 1232, "confirmed"),  # all that is padded to 1220 or less
        (60, 1200, 1216, "blackhole"),
        (24, 552, 553, "blackhole"),
        (None, 1279, 1280, "blackhole"),
        (24, 1200, None, "confirmed"),  # the device takes no more: that is no fault of the path's
    ],
)
def test_black_holes(overhead: int | None, mtu: int, ceiling: int | None, state: str) -> None:
    table = told(peer(overhead=overhead))
    table.found(row_of(table), proven(mtu, ceiling), 5.0)
    assert (row_of(table).value.state, row_of(table).value.mtu) == (state, mtu)


def test_the_operator_says_what_is_too_small() -> None:
    table = told(peer(overhead=24))
    table.min_outer = 1400
    table.found(row_of(table), proven(1300, 1301), 5.0)
    assert row_of(table).value.state == "blackhole"


# -- the word of routers


def test_a_hint() -> None:
    table = told(peer())
    row = row_of(table)
    (change,) = table.hinted(row, 1300, "a router says 1300", 5.0)
    assert change.details == {"old": 1476, "new": 1300, "why": "a router says 1300"}
    assert (row.value.state, row.value.source, row.value.has_evidence) == ("hinted", "icmp", True)
    assert table.hinted(row, 1400, "a router says 1400", 6.0) == []
    assert table.hinted(row, 1300, "a router says 1300", 7.0) == []
    assert row.value.mtu == 1300


def test_a_hint_ages_out() -> None:
    table = told(peer())
    row = row_of(table)
    table.hinted(row, 1300, "a router says 1300", 5.0)
    assert table.expire_hints(5.0 + HINT_LIFE - 1) == []
    (change,) = table.expire_hints(5.0 + HINT_LIFE)
    assert change.details == {"old": 1300, "new": 1476, "why": "the MTU of gre7"}
    assert row.value.state == "unprobed"
    assert table.expire_hints(5.0 + 2 * HINT_LIFE) == []


def test_what_was_proven_does_not_age() -> None:
    table, row = searched()
    assert table.expire_hints(1e9) == []
    assert row.value.mtu == 1400


def test_a_proof_takes_a_hint_s_place() -> None:
    table = told(peer())
    row = row_of(table)
    table.hinted(row, 1300, "a router says 1300", 5.0)
    (change,) = table.found(row, proven(1450, 1451), 6.0)
    assert (change.details["new"], row.value.state) == (1450, "confirmed")


def test_a_hint_while_the_device_is_away() -> None:
    table = told(peer(), mtus={})
    assert table.hinted(row_of(table), 1300, "a router says 1300", 5.0) == []
    assert row_of(table).learned is None


# -- tunnels in tunnels


def nest(*names: str, learned: int | None = None) -> Table:
    """gre7 (1476) goes through wg0's (1420) peer "outer"; the table has the peers in this order."""
    facts = {
        "outer": peer("outer", "wg0", kind="wireguard", overhead=60),
        "inner": peer("inner", "gre7", overhead=24),
        "innermost": peer("innermost", "gre8", overhead=24),
    }
    table = Table(learned={} if learned is None else {"outer": proven(learned, learned + 16)})
    table.within = {"inner": "outer", "innermost": "inner"}
    table.update([facts[name] for name in names], {"gre7": 1476, "gre8": 1476, "wg0": 1420}, 1.0)
    return table


def in_force(table: Table) -> dict[str, int | None]:
    return {name: row.value.mtu for name, row in table.peers.items()}


@pytest.mark.parametrize("names", [("outer", "inner", "innermost"), ("innermost", "inner", "outer")])
def test_never_above_the_peer_around(names: tuple[str, ...]) -> None:
    """Whatever order the table has them in."""
    table = nest(*names)
    assert in_force(table) == {"outer": 1420, "inner": 1396, "innermost": 1372}
    facts = [row.facts for row in table.peers.values()]
    changes = table.update(facts, {"gre7": 1476, "gre8": 1476, "wg0": 1380}, 2.0)
    assert in_force(table) == {"outer": 1380, "inner": 1356, "innermost": 1332}
    assert sorted(change.peer for change in changes) == sorted(names)
    table.found(table.peers["outer"], proven(1328, 1344), 3.0)
    assert [change.peer for change in table.revalue(3.0)] == ["inner", "innermost"]
    assert in_force(table) == {"outer": 1328, "inner": 1304, "innermost": 1280}


def test_why_a_tunnel_in_a_tunnel_is_small() -> None:
    inner = nest("outer", "inner").peers["inner"].value
    assert (inner.why, inner.state, inner.source) == ("inside outer: its 1420 less 24", "unprobed", "device")
    assert not inner.has_evidence
    inner = nest("outer", "inner", learned=1328).peers["inner"].value
    assert (inner.mtu, inner.source, inner.has_evidence) == (1304, "probe", True)


def test_wireguard_in_a_tunnel_is_padded() -> None:
    table = told(peer("outer"), peer("inner", "wg0", kind="wireguard", overhead=60), mtus={"gre7": 1460, "wg0": 1420})
    table.within = {"inner": "outer"}
    table.revalue(2.0)
    assert in_force(table)["inner"] == 1392  # 1400 would be padded to 1408


def test_what_is_smaller_anyway_stays() -> None:
    table = nest("outer", "inner")
    table.found(table.peers["inner"], proven(1300, 1301), 2.0)
    assert table.peers["inner"].value.why == "1300 answered in 12 ms"
    table.pin(table.peers["inner"], 1450, 3.0)
    assert in_force(table)["inner"] == 1450  # pins beat everything


def test_tunnels_that_go_round_in_circles_end() -> None:
    table = told(peer("a", overhead=24), peer("b", overhead=24))
    table.within = {"a": "b", "b": "a"}
    table.revalue(2.0)
    table.revalue(3.0)
    assert all(mtu is not None and MIN_MTU <= mtu <= 1476 for mtu in in_force(table).values())


# -- any history of searches, hints and pins

sizes = st.integers(552, 1600)
events = st.one_of(
    st.tuples(st.just("found"), sizes, st.booleans()),
    st.tuples(st.just("fell"), sizes, st.none()),
    st.tuples(st.just("hinted"), sizes, st.none()),
    st.tuples(st.just("confirmed"), st.none(), st.none()),
    st.tuples(st.just("begins"), st.none(), st.none()),
    st.tuples(st.just("ended"), st.none(), st.none()),
    st.tuples(st.just("forget"), st.none(), st.none()),
    st.tuples(st.just("wait"), st.floats(0, 2 * HINT_LIFE), st.none()),
    st.tuples(st.just("pin"), st.integers(MIN_MTU, 1476), st.none()),
    st.tuples(st.just("unpin"), st.none(), st.none()),
    st.tuples(st.just("device"), st.none() | st.integers(MIN_MTU, 1600), st.none()),
    st.tuples(st.just("leaves"), st.none(), st.none()),
)


@given(st.lists(events, max_size=25))
def test_any_history_of_what_is_learned(steps: list[tuple[str, Any, Any]]) -> None:
    """Pins always win, hints never raise, nothing is above the device, and events alone tell all values."""
    table = told(peer(overhead=24))
    limit: int | None = 1476
    now, seen = 10.0, row_of(table).value.mtu
    for verb, size, exact in steps:
        now += 1
        row = row_of(table)
        before = row.value.mtu
        match verb:
            case "found":
                changes = table.found(row, proven(size, size + 1, exact=exact, at=now), now)
            case "fell":
                known = min(each for each in (limit, row.learned and row.learned.mtu, 1600) if each is not None)
                changes = table.fell(row, size, "lost", now) if size < known else []
            case "hinted":
                changes = table.hinted(row, size, "a router", now)
                assert before is None or (row.value.mtu is not None and row.value.mtu <= before)
            case "confirmed":
                changes = table.confirmed(row, None, now)
            case "begins":
                changes = table.search_begins(row, now)
            case "ended":
                changes = table.search_ended(row, "nobody answers", now)
            case "forget":
                changes = table.forget(row, now)
            case "wait":
                now += size
                changes = table.expire_hints(now)
                assert row.learned is None or row.learned.source == "probe" or now - row.learned.found < HINT_LIFE
            case "pin":
                changes = table.pin(row, size, now)
            case "unpin":
                changes = table.unpin(row, now)
            case "device":
                limit = size
                changes = table.update([row.facts], {} if limit is None else {"gre7": limit}, now)
            case "leaves":
                kept, facts, mtus = row.learned, row.facts, {} if limit is None else {"gre7": limit}
                table.update([], mtus, now)
                (added,) = table.update([facts], mtus, now)
                row = row_of(table)
                assert row.learned == (None if kept is None else replace(kept, trusted=False))
                changes, seen = [], added.details["mtu"]

        told_of = [change for change in changes if change.event == "mtu-changed"]
        for change in told_of:
            assert change.details["old"] == seen != change.details["new"]
            seen = change.details["new"]
        assert seen == row.value.mtu
        for change in changes:
            assert change.event in ("mtu-changed", "blackhole")
            if change.event == "blackhole":
                assert change.details["size"] == before
                assert change.details["mtu"] == row.value.mtu
                assert change.details["size"] > change.details["mtu"]

        value, learned = row.value, row.learned
        if row.pin is not None:
            assert (value.mtu, value.state) == (row.pin if limit is None else min(row.pin, limit), "pinned")
        elif limit is None:
            assert (value.mtu, value.state) == (None, "unprobed")
        elif learned is None:
            assert (value.mtu, value.state) == (limit, "searching" if row.searching else "unprobed")
            assert not value.has_evidence
        else:
            assert value.mtu == min(limit, learned.mtu)
            assert (value.state == "hinted") == (learned.source == "icmp")
            if value.state in ("confirmed", "blackhole"):
                assert learned.exact
                assert learned.trusted
                assert not row.searching
        assert limit is None or value.mtu is None or value.mtu <= limit
        last = next(each for each in reversed(row.evidence) if each.verdict == "in force")
        assert (last.size, last.text) == (value.mtu, value.why)
        if learned is not None and learned.ceiling is not None:
            assert learned.mtu < learned.ceiling
