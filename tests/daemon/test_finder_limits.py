"""Whom the daemon does not look at, what it may believe, and what happens meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from finder_bench import ADDRESS, RAISE, RECHECK, STATIC, WIREGUARD, Bench, segment, sizes
from mssclamp.daemon.finder import Obstacle
from mssclamp.daemon.stalled import Segment
from mssclamp.errors import ConflictError
from mssclamp.pmtu.schedule import FIRST_PATIENCE, SEARCH_AGAIN, STRONG_PATIENCE
from mssclamp.pmtu.table import HINT_LIFE, Change, Peer, PeerFacts
from mssclamp.probe.order import Ended, Fell


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- who cannot be probed


def test_who_never_answers_is_asked_seldom(bench: Bench) -> None:
    bench.large()
    bench.fail()
    assert bench.state() == ("unprobed", 1420)
    bench.wait(SEARCH_AGAIN - 1)
    bench.large()
    assert bench.idle()
    bench.wait(1)
    bench.large()
    assert not bench.idle()


@pytest.mark.parametrize(
    "problem", [Obstacle("its [[peer]] says probe = false"), Obstacle("clampd is kept off", "attach")], ids=str
)
def test_who_must_not_be_probed(bench: Bench, problem: Obstacle) -> None:
    bench.host.problem = problem
    bench.large()
    bench.resent()
    bench.tick()
    assert bench.idle()
    assert bench.peer.value.why == f"the MTU of wg0; {problem}"


def test_who_may_be_probed_again(bench: Bench) -> None:
    """What the configuration forbade is done at once when it is allowed, not after SEARCH_AGAIN."""
    bench.host.problem = Obstacle("its [[peer]] says probe = false")
    bench.large()
    bench.finder.update(RECHECK, RAISE)
    bench.large()
    assert bench.idle()
    bench.host.problem = None
    bench.finder.update(RECHECK, RAISE)
    bench.large()
    assert not bench.idle()


def test_an_address_to_ask_is_named() -> None:
    bench = Bench(replace(STATIC, prefixes=(ip_network("10.7.0.0/16"),)))
    bench.finder.on_traffic(bench.peer, bench.now, bench.unix)
    assert bench.idle()
    facts = replace(bench.peer.facts, probe_address=ip_address("10.7.1.2"))
    bench.table.update([facts], {facts.device: 1500}, bench.unix)
    bench.finder.update(RECHECK, RAISE)
    bench.finder.on_traffic(bench.peer, bench.now, bench.unix)
    assert bench.order().addresses == (ip_address("10.7.1.2"),)


def test_no_address_to_ask() -> None:
    bench = Bench(replace(STATIC, prefixes=(ip_network("10.7.0.0/16"),)))
    bench.finder.on_traffic(bench.peer, bench.now, bench.unix)
    assert bench.idle()
    assert "name one with probe_address" in bench.peer.value.why
    bench.wait(SEARCH_AGAIN)
    bench.large("10.7.1.2")  # now one is known
    assert bench.order().addresses == (ip_address("10.7.1.2"),)


def test_a_device_that_is_away(bench: Bench) -> None:
    bench.table.update([WIREGUARD], {}, bench.unix)
    bench.large()
    bench.resent()
    assert bench.idle()
    with pytest.raises(ConflictError, match="one cannot be probed: wg0 is not there"):
        bench.finder.probe(bench.peer, bench.unix)


# -- WireGuard's sleep


def test_who_sleeps_is_not_woken(bench: Bench) -> None:
    bench.host.asleep = True
    bench.large()
    for _ in range(20):
        bench.now += 1
        bench.tick()
        bench.large()
        bench.resent()
    assert bench.idle()
    assert bench.state() == ("unprobed", 1420)
    assert "it sleeps (no WireGuard handshake in the last three minutes)" in bench.peer.value.why


def test_who_wakes_is_looked_at(bench: Bench) -> None:
    """The packet that we heard of causes a handshake just now."""
    bench.host.asleep = True
    bench.large()
    assert bench.idle()
    assert bench.peer.unprobed_why is None
    bench.now += 0.5
    bench.tick()
    assert bench.idle()
    bench.host.asleep = False
    bench.now += 0.5
    bench.tick()
    bench.path = 1340
    bench.carry_out()
    assert bench.state() == ("confirmed", 1328)
    bench.wait(1)
    bench.tick()
    assert bench.idle()


def test_a_resent_segment_of_who_wakes_stays_urgent(bench: Bench) -> None:
    bench.learn(1340)
    bench.host.asleep = True
    bench.wait(180)
    bench.resent()
    assert bench.idle()
    bench.host.asleep = False
    bench.now += 1
    bench.tick()
    assert bench.order().urgent


def test_a_sleeping_peer_keeps_its_value(bench: Bench) -> None:
    bench.learn(1340)
    bench.host.asleep = True
    for _ in range(30):
        bench.wait(RECHECK)
        bench.large()
        bench.tick()
    assert bench.idle()
    assert bench.state() == ("confirmed", 1328)
    assert bench.peer.learned is not None
    assert bench.peer.learned.checked < bench.unix - 600  # its age is told


def test_pinned_peers_are_left_alone(bench: Bench) -> None:
    bench.table.pin(bench.peer, 1300, bench.unix)
    bench.large()
    bench.resent()
    bench.too_big(1200, seen=True)
    bench.finder.on_traffic(bench.peer, bench.now, bench.unix)
    bench.finder.on_other_path(bench.peer, "its endpoint is another", bench.now, bench.unix)
    bench.tick()
    assert bench.idle()
    assert (bench.state(), bench.peer.learned) == (("pinned", 1300), None)


def test_an_operator_may_probe_a_pinned_peer(bench: Bench) -> None:
    bench.table.pin(bench.peer, 1300, bench.unix)
    bench.path = 1340
    bench.finder.probe(bench.peer, bench.unix)
    bench.carry_out()
    assert bench.state() == ("pinned", 1300)
    assert bench.take("blackhole", "mtu-changed") == []
    bench.table.unpin(bench.peer, bench.unix)
    assert bench.state() == ("confirmed", 1328)


# -- ICMP


@pytest.mark.parametrize("seen", [True, False])
def test_icmp_about_who_can_be_probed_is_a_hint(bench: Bench, seen: bool) -> None:
    """It says where to probe, not what is so: here it lies."""
    bench.learn(1340)
    bench.too_big(1200, seen=seen)
    order = bench.order()
    assert order.urgent
    assert bench.state() == ("searching", 1328)
    bench.carry_out(order)
    assert bench.state() == ("confirmed", 1328)
    assert (bench.peer.tally.hints, bench.peer.tally.hints_refuted) == (1, 1)


def test_icmp_names_a_size_to_try(bench: Bench) -> None:
    bench.learn(9000)
    bench.too_big(1420, seen=True)
    assert (bench.idle(), bench.peer.tally.hints) == (True, 0)  # our own probes make routers say so
    bench.too_big(1376, seen=False)
    order = bench.order()
    assert 1376 in sizes(order)
    bench.path = 1376
    bench.carry_out(order)
    assert bench.state() == ("confirmed", 1376)
    assert bench.peer.tally.hints_refuted == 0


def test_icmp_that_saw_our_packets_lowers_who_cannot_be_probed(bench: Bench) -> None:
    bench.too_big(1344, seen=True)
    assert bench.state() == ("searching", 1420)
    bench.fail()
    assert bench.state() == ("hinted", 1344)
    assert bench.peer.value.why.startswith("a router that saw our packets says that 1344 fit; nobody answers")
    assert bench.take("mtu-changed")[-1][1]["new"] == 1344
    bench.table.expire_hints(bench.unix + HINT_LIFE)
    assert bench.state() == ("unprobed", 1420)


def test_icmp_that_may_be_forged_lowers_nobody(bench: Bench) -> None:
    for _ in range(20):
        bench.too_big(1344, seen=False)
        bench.fail()
        bench.wait(SEARCH_AGAIN)
    assert bench.state() == ("unprobed", 1420)


def test_icmp_never_lowers_what_probes_have_proven(bench: Bench) -> None:
    bench.learn(1340)
    bench.too_big(1200, seen=True)
    bench.fail()
    assert bench.state() == ("confirmed", 1328)


def test_icmp_never_lowers_who_is_only_away(bench: Bench) -> None:
    """Somebody answered once: what nothing answers now says nothing about the path."""
    bench.too_big(1344, seen=True)
    bench.path = 0
    bench.carry_out()
    assert bench.state() == ("unprobed", 1420)


def test_icmp_that_comes_while_addresses_are_tried_counts(bench: Bench) -> None:
    """The very packets that cause the first search make the router speak."""
    bench.large()
    bench.too_big(1344, seen=True)
    assert bench.prober.hurried == ["wg0:one"]
    bench.fail()
    assert bench.state() == ("hinted", 1344)


def test_icmp_never_raises(bench: Bench) -> None:
    bench.too_big(1344, seen=True)
    bench.fail()
    bench.wait(FIRST_PATIENCE)
    bench.too_big(1400, seen=True)
    assert bench.idle()  # no news
    assert bench.state() == ("hinted", 1344)
    bench.wait(FIRST_PATIENCE)
    bench.too_big(1296, seen=True)
    bench.fail()
    assert bench.state() == ("hinted", 1296)


def test_icmp_about_who_must_not_be_probed(bench: Bench) -> None:
    bench.host.problem = Obstacle("its [[peer]] says probe = false")
    bench.too_big(1344, seen=False)
    assert bench.state() == ("unprobed", 1420)
    bench.wait(STRONG_PATIENCE)
    bench.too_big(1344, seen=True)
    assert bench.idle()
    assert bench.state() == ("hinted", 1344)


def test_who_was_hinted_and_answers_now_is_proven(bench: Bench) -> None:
    bench.too_big(1344, seen=True)
    bench.fail()
    bench.wait(SEARCH_AGAIN)
    bench.large()
    bench.path = 1400
    bench.carry_out()
    assert bench.state() == ("confirmed", 1392)


# -- another path


def test_another_path_is_searched_at_once(bench: Bench) -> None:
    bench.learn(1340)
    bench.finder.on_other_path(bench.peer, "its endpoint is 192.0.2.8:51820 now", bench.now, bench.unix)
    order = bench.order()
    assert order.urgent
    assert bench.peer.evidence[-1].text == "its endpoint is 192.0.2.8:51820 now"
    bench.path = 9000
    bench.carry_out(order)
    assert bench.state() == ("confirmed", 1420)


def test_another_path_of_who_has_no_traffic_waits(bench: Bench) -> None:
    bench.finder.on_other_path(bench.peer, "its endpoint is 192.0.2.8:51820 now", bench.now, bench.unix)
    assert bench.idle()
    bench.large()
    assert not bench.idle()


# -- operators


def test_probe(bench: Bench) -> None:
    bench.learn(1340)
    bench.finder.probe(bench.peer, bench.unix)
    assert bench.state() == ("searching", 1328)
    order = bench.order()
    assert order.urgent
    bench.finder.probe(bench.peer, bench.unix)  # anew, in place of the first
    again = bench.order()
    bench.carry_out(order)
    assert bench.state() == ("searching", 1328)
    bench.carry_out(again)
    assert bench.state() == ("confirmed", 1328)


def test_probe_where_it_cannot_be(bench: Bench) -> None:
    bench.host.asleep = True
    with pytest.raises(ConflictError, match="one cannot be probed: it sleeps") as caught:
        bench.finder.probe(bench.peer, bench.unix)
    assert caught.value.fix == "send it a packet"
    bench.host.problem = Obstacle("clampd is kept off wg0", "`clampctl attach wg0`")
    with pytest.raises(ConflictError, match="clampd is kept off wg0") as caught:
        bench.finder.probe(bench.peer, bench.unix)
    assert caught.value.fix == "`clampctl attach wg0`"
    unknown = Bench(replace(WIREGUARD, prefixes=(ip_network("10.7.0.0/16"),)))
    with pytest.raises(ConflictError, match="no address behind it is known") as caught:
        unknown.finder.probe(unknown.peer, unknown.unix)
    assert caught.value.fix is not None
    assert "probe_address" in caught.value.fix
    assert bench.idle()
    assert bench.state() == ("unprobed", 1420)


def test_forget(bench: Bench) -> None:
    bench.learn(1340)
    bench.resent(1328)
    old = bench.order()
    bench.take()
    bench.finder.forget(bench.peer, bench.now, bench.unix)
    assert bench.prober.cancelled == ["wg0:one"]
    assert bench.host.kept == {"wg0:one": None}
    assert bench.take("mtu-changed")[0][1]["new"] == 1420
    assert bench.state() == ("searching", 1420)
    order = bench.order()
    assert ip_address("10.7.1.2") in order.addresses  # who was seen may still be asked
    bench.path = 1300
    bench.carry_out(old)
    assert bench.state() == ("searching", 1420)
    bench.path = 1340
    bench.carry_out(order)
    assert bench.state() == ("confirmed", 1328)
    assert [flows for kind, (_, flows) in bench.take("answer") if flows] == []  # that flow is forgotten as well


def test_forget_where_nobody_can_be_asked(bench: Bench) -> None:
    bench.learn(1340)
    bench.host.problem = Obstacle("its [[peer]] says probe = false")
    bench.finder.forget(bench.peer, bench.now, bench.unix)
    assert bench.idle()
    assert bench.state() == ("unprobed", 1420)


# -- comings and goings


def test_news_of_another_order_is_none_of_ours(bench: Bench) -> None:
    bench.learn(1340)
    bench.finder.probe(bench.peer, bench.unix)
    old = bench.order()
    bench.finder.probe(bench.peer, bench.unix)
    bench.order()
    bench.take()
    bench.news(Fell(old, 800, "800 answered"))
    bench.news(Ended(old, None, None, None, None, 1, 9, None, "nothing"))
    assert bench.take() == []
    assert bench.state() == ("searching", 1328)


def test_a_peer_that_goes(bench: Bench) -> None:
    bench.large()
    order = bench.order()
    bench.table.update([], bench.devices, bench.unix)
    bench.finder.update(RECHECK, RAISE)
    assert bench.prober.cancelled == ["wg0:one"]
    bench.news(Ended(order, None, None, None, None, 1, 9, None, "nothing"))
    bench.tick()
    bench.table.update([WIREGUARD], bench.devices, bench.unix)
    bench.news(Ended(order, None, None, None, None, 1, 9, None, "nothing"))
    bench.take()
    bench.large()
    assert not bench.idle()


def test_a_device_that_goes_during_a_search(bench: Bench) -> None:
    """The prober's last word may come after."""
    bench.path = 1340
    bench.large()
    order = bench.order()
    bench.table.update([WIREGUARD], {}, bench.unix)
    bench.carry_out(order)
    assert bench.state() == ("unprobed", None)
    bench.table.update([WIREGUARD], bench.devices, bench.unix)
    assert bench.state() == ("confirmed", 1328)


def test_who_must_not_be_probed_any_more(bench: Bench) -> None:
    """Somebody said so during a search."""
    bench.learn(1340)
    bench.finder.probe(bench.peer, bench.unix)
    order = bench.order()
    bench.host.problem = Obstacle("its [[peer]] says probe = false")
    bench.finder.update(RECHECK, RAISE)
    assert bench.prober.cancelled == ["wg0:one"]
    assert bench.state() == ("confirmed", 1328)
    bench.path = 1250
    bench.carry_out(order)
    assert bench.state() == ("confirmed", 1328)


def test_peers_may_go_while_we_look(bench: Bench) -> None:
    """What we have the host do may have it read the configuration, or the devices, again."""
    others = [replace(WIREGUARD, id=f"wg0:{n}", name=str(n)) for n in range(3)]
    bench.table.update([WIREGUARD, *others], bench.devices, bench.unix)
    bench.host.asleep = True
    for each in list(bench.table.peers.values()):
        bench.finder.on_large(each, segment(), bench.now, bench.unix)
    bench.host.asleep = False

    def act(peer: Peer, changes: Sequence[Change]) -> None:
        del changes
        bench.table.update([peer.facts], bench.devices, bench.unix)
        bench.finder.update(RECHECK, RAISE)

    bench.host.act = act  # type: ignore[method-assign]
    bench.now += 1
    bench.tick()
    assert len(bench.table.peers) == 1


def test_another_configuration_takes_effect(bench: Bench) -> None:
    bench.learn(9000)
    bench.finder.update(5.0, RAISE)
    bench.wait(5)
    bench.large()
    assert sizes(bench.order()) == [1420]


def test_a_head_that_tells_no_address(bench: Bench) -> None:
    bench.finder.on_large(bench.peer, Segment(7, 4, 1420, 0, b"\x45\0"), bench.now, bench.unix)
    assert bench.order().addresses == (ADDRESS,)


def test_addresses_that_have_become_another_peers(bench: Bench) -> None:
    """Probes to them would measure the other one's path."""
    bench.finder.update(RECHECK, RAISE)
    bench.learn(1340)
    bench.large("10.7.1.2")
    bench.large("10.7.9.9")
    other = replace(WIREGUARD, id="wg0:two", name="two", prefixes=(ip_network("10.7.1.0/24"),))
    bench.table.update([WIREGUARD, other], bench.devices, bench.unix)
    bench.finder.update(RECHECK, RAISE)
    bench.finder.probe(bench.peer, bench.unix)
    assert bench.order().addresses == (ADDRESS, ip_address("10.7.9.9"))
    fewer = replace(WIREGUARD, prefixes=WIREGUARD.prefixes[:1])
    bench.table.update([fewer, other], bench.devices, bench.unix)
    bench.finder.update(RECHECK, RAISE)
    bench.finder.probe(bench.peer, bench.unix)
    assert bench.order().addresses == (ADDRESS,)


def test_a_pin_ends_the_waiting_for_who_sleeps(bench: Bench) -> None:
    bench.host.asleep = True
    bench.large()
    bench.table.pin(bench.peer, 1300, bench.unix)
    bench.wait(60)
    bench.tick()
    bench.table.unpin(bench.peer, bench.unix)
    bench.host.asleep = False
    bench.tick()
    assert bench.idle()


@pytest.mark.parametrize(
    ("facts", "narrow", "most"), [(WIREGUARD, 1492, 1420), (WIREGUARD, 1400, 1328), (STATIC, 1400, 1376)]
)
def test_what_this_machine_would_fragment_is_not_probed(facts: PeerFacts, narrow: int, most: int) -> None:
    """The underlay's own devices bound the search, or its first probe would leave in fragments and decide nothing."""
    bench = Bench(facts)
    bench.host.narrow = narrow
    bench.large()
    order = bench.order()
    assert sizes(order)[0] == most
    bench.carry_out(order)
    assert bench.state() == ("confirmed", most)
    bench.host.narrow = 1300  # told as another path, or not yet
    bench.wait(RECHECK)
    bench.large()
    assert sizes(bench.order())[0] == (1232 if facts is WIREGUARD else 1276)


def test_an_underlay_too_narrow_for_anything(bench: Bench) -> None:
    bench.host.narrow = 68
    bench.large()
    assert sizes(bench.order())[0] <= 1420
