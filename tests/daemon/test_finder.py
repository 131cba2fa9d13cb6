"""What makes the daemon look at a peer, and what becomes of what it finds."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest

from finder_bench import ADDRESS, RAISE, RECHECK, STATIC, UNIX, WIREGUARD, Bench, NoSegments, segment, sizes
from mssclamp.daemon.stalled import LIFE
from mssclamp.pmtu.check import Check
from mssclamp.pmtu.schedule import FIRST_PATIENCE, RAISE_AFTER_LOWERING, SEARCH_AGAIN, STRONG_PATIENCE
from mssclamp.pmtu.search import Result, Round, Search, Verdict
from mssclamp.pmtu.table import Learned
from mssclamp.pmtu.table import Outer as Endpoint
from mssclamp.probe.order import Ended, Fell, Order, RoundEnded
from sim import Path, drive


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- first traffic


def test_the_first_large_packet_searches_once(bench: Bench) -> None:
    bench.large()
    assert bench.state() == ("searching", 1420)
    order = bench.order()
    bench.large()
    bench.finder.on_traffic(bench.peer, bench.now, bench.unix)
    assert bench.idle()
    bench.path = 1340
    bench.carry_out(order)
    assert bench.state() == ("confirmed", 1328)
    learned = bench.peer.learned
    assert learned is not None
    assert (learned.mtu, learned.ceiling, learned.direction, learned.rtt) == (1328, 1344, "both", 0.012)
    assert bench.host.kept == {"wg0:one": learned}
    assert (bench.peer.tally.rounds, bench.peer.tally.probes) == (2, 13)
    bench.large()
    assert bench.idle()


def test_small_packets_search_too_if_nothing_is_known(bench: Bench) -> None:
    bench.finder.on_traffic(bench.peer, bench.now, bench.unix)
    bench.path = 1340
    bench.carry_out()
    for _ in range(100):
        bench.wait(60)
        bench.finder.on_traffic(bench.peer, bench.now, bench.unix)
    assert bench.idle()


def test_what_is_ordered(bench: Bench) -> None:
    bench.large("10.7.1.2")
    order = bench.order()
    assert (order.peer, order.device, order.urgent, order.tcp, order.through_tunnel) == (
        "wg0:one", "wg0", False, True, True
    )  # fmt: skip
    assert order.addresses == (ADDRESS, ip_address("10.7.1.2"))
    assert (order.outer_length(1300), order.outer_length(1420)) == (1312 + 60, 1420 + 60)
    assert sizes(order) == [1420, 1360, 1328, 1296, 1248, 1216, 528]
    static = Bench(STATIC)
    static.large()
    order = static.order()
    assert (order.tcp, order.through_tunnel, order.outer_length(1300)) == (False, False, 1324)
    assert sizes(order)[0] == 1476


def test_a_method_that_measures_our_direction_alone(bench: Bench) -> None:
    bench.large()
    bench.carry_out(method="tcp")
    assert bench.peer.learned is not None
    assert bench.peer.learned.direction == "to-peer"


def test_what_is_remembered_is_searched_with_the_first_traffic() -> None:
    kept = Learned(1328, 1344, True, "probe", "1328 answered", UNIX - 9, UNIX - 9, "both", 0.1, trusted=False)
    bench = Bench(learned=kept)
    assert bench.state() == ("searching", 1328)
    bench.tick()
    assert bench.idle()
    bench.path = 1340
    bench.large()
    bench.carry_out()
    assert bench.state() == ("confirmed", 1328)
    assert bench.take("blackhole", "mtu-changed") == []


def test_addresses_to_ask() -> None:
    hosts = tuple(ip_network(f"10.99.0.{n}/32") for n in range(1, 8))
    bench = Bench(replace(WIREGUARD, prefixes=(*hosts, ip_network("10.7.0.0/16"))))
    for n in (1, 2, 2, 3, 4, 5):
        bench.large(f"10.7.0.{n}")
        bench.prober.orders.clear()
        bench.finder.forget(bench.peer, bench.now, bench.unix)
    bench.large("224.0.0.5")
    addresses = [str(address) for address in bench.prober.orders[-1].addresses]
    assert addresses == [f"10.99.0.{n}" for n in range(1, 5)] + [f"10.7.0.{n}" for n in (5, 4, 3, 2)]
    named = Bench(replace(WIREGUARD, probe_address=ip_address("10.7.0.9")))
    named.large()
    assert named.order().addresses == (ip_address("10.7.0.9"),)


# -- checks, and looks upwards


def test_large_packets_are_a_reason_to_check(bench: Bench) -> None:
    bench.learn(9000)
    bench.wait(RECHECK - 5)
    bench.large()
    assert bench.idle()
    bench.wait(5)
    bench.large()
    order = bench.order()
    assert sizes(order) == [1420]
    assert (order.urgent, order.segments) == (False, None)
    assert isinstance(bench.carry_out(order), Check)
    assert bench.state() == ("confirmed", 1420)
    assert bench.peer.learned is not None
    assert bench.peer.learned.checked == bench.unix
    assert bench.take("probe-round", "mtu-changed") == []
    bench.large()
    assert bench.idle()


def test_without_traffic_nothing_is_sent(bench: Bench) -> None:
    bench.learn(1340)
    for _ in range(200):
        bench.wait(60)
        bench.tick()
    assert bench.idle()


def test_now_and_then_a_look_upwards(bench: Bench) -> None:
    bench.learn(1340)  # this lowered it: looks upwards after 2, 8, 30, 120 s
    for pause in RAISE_AFTER_LOWERING:
        bench.wait(pause - 0.5)
        bench.large()  # told seldom by the kernel, but counted
        bench.prober.orders.clear()
        bench.finder._subjects["wg0:one"].task = None
        bench.tick()
        assert bench.idle()
        bench.wait(0.5)
        bench.tick()
        order = bench.order()
        assert min(sizes(order)) == 1328
        assert isinstance(bench.carry_out(order), Search)
        assert bench.state() == ("confirmed", 1328)
    bench.wait(RAISE - 1)
    bench.large()
    assert sizes(bench.order()) == [1328]


def test_a_look_upwards_that_finds_more(bench: Bench) -> None:
    bench.learn(1340)
    bench.host.large += 1
    bench.path = 1400
    bench.wait(2)
    bench.tick()
    bench.carry_out()
    assert bench.state() == ("confirmed", 1392)
    (change,) = bench.take("mtu-changed")
    assert (change[1]["old"], change[1]["new"]) == (1328, 1392)


def test_the_clock_alone_does_not_look_upwards(bench: Bench) -> None:
    """Only where large packets went out since."""
    bench.learn(1340)
    bench.wait(60)
    bench.tick()
    assert bench.idle()
    bench.host.large += 1
    bench.tick()
    assert not bench.idle()


def test_a_check_that_nobody_answers_becomes_a_search(bench: Bench) -> None:
    bench.learn(9000)
    bench.path = 1250
    bench.wait(RECHECK)
    bench.large()
    assert isinstance(bench.carry_out(), Check)
    order = bench.order()
    assert order.urgent
    assert bench.state() == ("searching", 1420)
    bench.carry_out(order)
    assert bench.state() == ("confirmed", 1248)
    assert [details["new"] for _, details in bench.take("mtu-changed")][-1] == 1248
    assert bench.peer.tally.blackholes == 1


def test_a_check_lost_by_chance_changes_nothing(bench: Bench) -> None:
    bench.learn(9000)
    bench.path = 0
    bench.wait(RECHECK)
    bench.large()
    bench.carry_out()
    bench.path = 9000
    bench.carry_out()
    assert bench.state() == ("confirmed", 1420)
    assert bench.take("mtu-changed", "blackhole") == []
    assert bench.peer.tally.hints_refuted == 0  # it was nobody's hint


def test_a_look_upwards_that_nobody_answers_becomes_a_search(bench: Bench) -> None:
    bench.learn(1340)
    bench.host.large += 1
    bench.path = 1250
    bench.wait(2)
    bench.tick()
    assert min(sizes(bench.prober.orders[0])) == 1328
    bench.carry_out()
    bench.carry_out()
    assert bench.state() == ("confirmed", 1248)


def test_a_peer_that_is_away_keeps_its_value(bench: Bench) -> None:
    bench.learn(9000)
    bench.path = 0
    bench.wait(RECHECK)
    bench.large()
    bench.carry_out()
    bench.carry_out()
    assert bench.idle()
    assert bench.state() == ("confirmed", 1420)
    assert bench.take("mtu-changed", "blackhole") == []
    assert bench.peer.evidence[-1].verdict == "nothing learned"
    bench.wait(RECHECK)
    bench.large()
    assert sizes(bench.order()) == [1420]


# -- segments sent again


def test_a_resent_segment_searches_at_once(bench: Bench) -> None:
    bench.learn(9000)
    bench.path = 1250
    bench.resent()
    order = bench.order()
    assert order.urgent
    assert isinstance(order.segments, NoSegments)
    assert sizes(order).count(1420) == 1
    bench.carry_out(order)
    assert bench.state() == ("confirmed", 1248)
    assert (bench.peer.tally.hints, bench.peer.tally.hints_refuted, bench.peer.tally.blackholes) == (1, 0, 1)
    bench.wait(FIRST_PATIENCE)
    bench.resent()  # a hint that was right costs no patience
    assert not bench.idle()


def test_a_resent_segment_does_not_wait_for_a_check(bench: Bench) -> None:
    bench.learn(9000)
    bench.wait(RECHECK)
    bench.large()
    check = bench.order()
    bench.resent()
    assert isinstance(bench.order().make(), Search)
    bench.news(Ended(check, None, None, None, None, 0, 1, None, "too late"))
    assert bench.state() == ("searching", 1420)


def test_hints_during_a_search_are_part_of_it(bench: Bench) -> None:
    bench.learn(1340)
    bench.finder.probe(bench.peer, bench.unix)
    order = bench.order()
    bench.resent()
    bench.resent(port=5001)
    assert bench.idle()
    bench.carry_out(order)
    assert (bench.peer.tally.hints, bench.peer.tally.hints_refuted) == (2, 1)


def test_refuted_hints_are_looked_at_less_and_less(bench: Bench) -> None:
    """As over a path that loses a segment now and then."""
    bench.learn(1340)
    began, looks = bench.now, []
    while bench.now < began + 120:
        bench.resent(sequence=int(8 * bench.now))
        if not bench.idle():
            looks.append(bench.now - began)
            bench.carry_out()
        bench.wait(0.25)
    assert looks[0] == 0
    assert len(looks) <= 8
    assert all(later - sooner >= min(2.0**number, 30) for number, (sooner, later) in enumerate(pairwise(looks), 1))
    assert bench.peer.tally.hints_refuted == len(looks)
    assert bench.state() == ("confirmed", 1328)


def test_a_flow_that_makes_no_progress_is_looked_at_soon(bench: Bench) -> None:
    """Whatever was refuted before, but not all the time."""
    bench.learn(1340)
    for number in range(8):
        bench.resent(sequence=number)
        if not bench.idle():
            bench.carry_out()
        bench.wait(10)
    began, looks = bench.now, 0
    while bench.now < began + 20:
        bench.resent(sequence=4711)
        if not bench.idle():
            looks += 1
            bench.carry_out()
        bench.wait(0.25)
    assert 20 / (STRONG_PATIENCE + 1) <= looks <= 20 / STRONG_PATIENCE


# -- a fall


def test_a_fall_is_in_the_kernel_before_anybody_is_told(bench: Bench) -> None:
    """And the flows that wait are told once, what fits now."""
    bench.learn(1340)
    bench.path = 1250
    bench.resent(1328, 5000)
    order = bench.order()
    bench.resent(1328, 5001)
    bench.resent(1328, 5000)
    bench.resent(1200, 5002)  # fits
    bench.take()
    bench.carry_out(order)
    done = bench.take()
    kinds = [kind for kind, _ in done]
    assert kinds[:4] == ["act", "blackhole", "mtu-changed", "answer"]
    value, flows = done[3][1]
    assert value == done[0][1] == done[2][1]["new"] < 1328
    assert flows == [segment(port=5001).flow, segment(port=5000).flow]
    assert [details for kind, details in done[4:] if kind == "answer" and details[1]] == []
    assert done[1][1]["size"] == 1328
    assert bench.state() == ("confirmed", 1248)


def test_a_search_that_ends_lower_answers_too(bench: Bench) -> None:
    """Without a fall on the way, as after losses here and there."""
    bench.learn(1340)
    bench.resent(1328)
    order = bench.order()
    search = order.make()
    assert isinstance(search, Search)
    drive(search, Path([(0, 1250)]))
    assert search.result is not None
    bench.take()
    bench.news(Ended(order, search.result, 0.012, ADDRESS, "echo", 2, 14, None, search.result.text))
    assert [kind for kind, _ in bench.take("act", "mtu-changed", "answer")] == ["act", "mtu-changed", "answer"]


def test_flows_that_waited_too_long_have_moved_on(bench: Bench) -> None:
    bench.learn(1340)
    bench.resent(1328, 5000)
    order = bench.order()
    bench.wait(LIFE + 1)
    bench.take()
    bench.news(Fell(order, 1248, "1248 answered; 1328 lost three times"))
    assert bench.take("answer") == [("answer", (1248, []))]


def test_nobody_is_told_where_the_value_stays(bench: Bench) -> None:
    """As under a pin."""
    bench.learn(1340)
    bench.finder.probe(bench.peer, bench.unix)
    order = bench.order()
    bench.table.pin(bench.peer, 1200, bench.unix)
    bench.take()
    bench.news(Fell(order, 1248, "1248 answered; 1328 lost three times"))
    assert bench.take("answer", "blackhole", "mtu-changed") == []


# -- rounds as events


def test_rounds_are_told(bench: Bench) -> None:
    bench.path = 1340
    bench.large()
    bench.carry_out()
    first, *more, last = [details for _, details in bench.take("probe-round")]
    assert first["round"] == 1
    assert first["done"] is False
    assert first["answered"][0] == {"size": 528, "rtt": 0.012}
    assert first["lost"] == [{"size": 1360, "times": 1}, {"size": 1420, "times": 3}]
    assert first["text"].endswith("1420 lost three times")
    assert [each["round"] for each in more] == [2]
    assert last == {
        "done": True,
        "verdict": "exact",
        "mtu": 1328,
        "exact": True,
        "text": "1328 answered in 12 ms; 1344 lost three times beside it",
        "fix": None,
        "address": "10.99.0.1",
        "method": "echo",
        "rounds": 2,
        "probes": 13,
    }


def test_an_end_without_a_word(bench: Bench) -> None:
    bench.large()
    bench.fail("no address answered")
    ((_, end),) = bench.take("probe-round")
    assert (end["done"], end["verdict"], end["mtu"], end["exact"]) == (True, "away", None, False)
    assert end["fix"] == "name an address that answers with probe_address"
    assert bench.peer.value.why == (
        "the MTU of wg0; no address answered; name an address that answers with probe_address"
    )


@pytest.mark.parametrize(
    ("endpoint", "command"),
    [("198.51.100.7", "`ip route flush cache`"), ("2001:db8::7", "`ip -6 route flush cache`")],
)
def test_what_this_machine_holds_back(endpoint: str, command: str) -> None:
    """Probes left in fragments: nothing is learned, and the remedy is told."""
    bench = Bench(replace(WIREGUARD, outer=Endpoint(ip_address(endpoint), 17, 51820)))
    bench.large()
    bench.fail(held="probes of 1420 bytes left this machine in fragments")
    ((_, end),) = bench.take("probe-round")
    assert (end["verdict"], end["text"]) == ("held", "probes of 1420 bytes left this machine in fragments")
    assert end["fix"] == f"this machine's own cache may be wrong about the path to {endpoint}: {command} empties it"
    assert bench.state() == ("unprobed", 1420)


def test_an_address_that_the_operator_named_and_that_is_silent() -> None:
    bench = Bench(replace(WIREGUARD, probe_address=ip_address("10.7.0.9")))
    bench.large()
    bench.fail("10.7.0.9 does not answer")
    assert bench.take("probe-round")[-1][1]["fix"] == "see that its probe_address answers `ping`"


# -- searches that end early


def ends_inexactly(bench: Bench, order: Order, size: int) -> None:
    text = f"{size} answered in 12 ms; larger sizes were not tried when the search ended after 30 s"
    result = Result(Verdict.INEXACT, size, None, text)
    bench.news(Ended(order, result, 0.012, ADDRESS, "echo", 1, 9, None, text))


@pytest.mark.parametrize("lost", [{}, {1420: 1}, {1420: 2, 1360: 1}])
def test_what_was_not_proven_lowers_nothing(bench: Bench, lost: dict[int, int]) -> None:
    """A search without the time, or the luck, to try a size three times has nothing against it."""
    bench.large()
    order = bench.order()
    bench.news(RoundEnded(order, Round(1, {1280: 0.012}, lost, 9)))
    ends_inexactly(bench, order, 1280)
    assert bench.state() == ("unprobed", 1420)
    bench.wait(SEARCH_AGAIN)
    bench.large()
    assert isinstance(bench.order().make(), Search)


@pytest.mark.parametrize("lost", [{1420: 3}, {1360: 6}])
def test_what_was_proven_lowers_though_nothing_is_exact(bench: Bench, lost: dict[int, int]) -> None:
    bench.large()
    order = bench.order()
    bench.news(RoundEnded(order, Round(1, {1280: 0.012}, lost, 9)))
    ends_inexactly(bench, order, 1280)
    assert bench.state() == ("searching", 1280)


def test_a_search_that_fell_and_ended_without_a_word_goes_on_soon(bench: Bench) -> None:
    """What it fell to may be far too small."""
    bench.learn(1420)
    bench.resent()
    order = bench.order()
    bench.news(Fell(order, 1216, "1216 answered; 1420 lost three times"))
    away = Result(Verdict.AWAY, None, None, "nothing answered")
    bench.news(Ended(order, away, None, ADDRESS, "echo", 2, 12, None, away.text))
    assert bench.state() == ("searching", 1216)
    bench.wait(SEARCH_AGAIN)
    bench.large()
    bench.carry_out()
    assert bench.state() == ("confirmed", 1420)
