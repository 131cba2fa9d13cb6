"""The course of one order, over simulated paths and a virtual clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address

import pytest

from mssclamp.pmtu.check import Check
from mssclamp.pmtu.search import Search, Verdict
from mssclamp.probe.choice import KNOCK_SIZE
from mssclamp.probe.errand import Errand, Memory, Packet
from mssclamp.probe.order import Chose, Ended, Fell, News, Order, RoundEnded
from mssclamp.wire.mtu import wireguard_padded
from sim import Path

A, B = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
OVERHEAD = 60
AWAY = [(0.0, 0)]


@dataclass
class FakeOuter:
    """The underlay's egress: outer packets above a size leave in fragments, or by another way that nobody watches."""

    fragmented_above: int = 65535
    unseen_above: int = 65535
    blind: bool = False
    counted: dict[int, int] = field(default_factory=dict)
    fragmented: int = 7
    closed: set[int] = field(default_factory=set)

    def open(self, lengths: Collection[int]) -> None:
        assert not self.counted.keys() & lengths
        self.counted |= dict.fromkeys(lengths, 0)

    def close(self, lengths: Collection[int]) -> None:
        assert lengths == self.counted.keys()
        self.closed |= set(lengths)

    def whole(self, length: int) -> int | None:
        return None if self.blind else self.counted[length]

    def fragments(self) -> int | None:
        return None if self.blind else self.fragmented

    def carry(self, length: int) -> None:
        if length > self.fragmented_above:
            self.fragmented += 2
        elif length <= self.unseen_above and length in self.counted:
            self.counted[length] += 1


@dataclass
class World:
    """Who answers: by echo, by TCP. `refuses_above`: what this machine's device takes."""

    echo: Mapping[IPv4Address, Path] = field(default_factory=dict)
    tcp: Mapping[IPv4Address, Path] = field(default_factory=dict)
    refuses_above: int = 65535
    tells_above: int | None = None
    """A router at the far end says "too big" of what is larger."""
    outer: FakeOuter | None = None
    sent: list[tuple[float, Packet]] = field(default_factory=list)

    def order(self, make: Callable[[], Search | Check] = lambda: Search(576, 1421), **options: object) -> Order:
        addresses = tuple(dict.fromkeys([*self.echo, *self.tcp])) or (A,)
        return Order(
            "peer",
            "wg0",
            addresses,
            make,
            lambda size: wireguard_padded(size, 1420) + OVERHEAD,
            self.outer,
            **options,  # type: ignore[arg-type]
        )

    def run(self, errand: Errand, *, patience: float = 60.0) -> list[tuple[float, News]]:
        """Drives it to its end; the news, with when they came."""
        now, began, news = 100.0, 100.0, []
        answers: list[tuple[float, int, bool]] = []
        while errand.ended is None:
            assert now < began + patience, "no end"
            errand.on_timeout(now)
            if errand.deadline is not None and errand.deadline <= now:
                for packet in errand.packets(now):
                    if errand.ended is None:
                        self._carry(errand, packet, now, answers)
            deadline = errand.deadline
            if answers and (deadline is None or answers[0][0] <= deadline):
                now, number, by_error = heapq.heappop(answers)
                errand.on_answer(number, now, by_error=by_error)
            elif deadline is not None:
                now = max(now, deadline)
            news += [(now - began, each) for each in errand.take_news()]
        errand.close()
        return news

    def _carry(self, errand: Errand, packet: Packet, now: float, answers: list[tuple[float, int, bool]]) -> None:
        if packet.size > self.refuses_above:
            errand.on_refused(packet.number, self.refuses_above, now)
            return
        self.sent.append((now, packet))
        if self.outer is not None:
            self.outer.carry(errand.order.outer_length(packet.size))
        if self.tells_above is not None and packet.size > self.tells_above:
            heapq.heappush(answers, (now + 0.02, packet.number, True))
            return
        path = (self.echo if packet.method == "echo" else self.tcp).get(packet.address)
        for at in () if path is None else path.answers(packet.size, now):
            heapq.heappush(answers, (at, packet.number, False))

    @property
    def sizes(self) -> list[int]:
        return [packet.size for _, packet in self.sent]


def ended(news: list[tuple[float, News]]) -> Ended:
    last = news[-1][1]
    assert isinstance(last, Ended)
    assert not any(isinstance(each, Ended) for _, each in news[:-1])
    return last


def chose(news: list[tuple[float, News]]) -> list[tuple[IPv4Address, str]]:
    return [(each.address, each.method) for _, each in news if isinstance(each, Chose)]


def test_a_choice_and_a_search() -> None:
    world = World({A: Path([(0, 1400)]), B: Path([(0, 1300)])})
    errand = Errand(world.order(), None)
    news = world.run(errand)
    end = ended(news)
    assert end.result is not None
    assert (end.result.mtu, end.result.exact, end.address, end.method) == (1400, True, A, "echo")
    assert end.rtt == pytest.approx(0.012)
    assert end.text == "1400 answered in 12 ms; 1401 lost three times beside it"
    assert end.held is None
    assert isinstance(news[0][1], Chose)
    assert news[0][1].rtt == pytest.approx(0.012)
    rounds = [each.round for _, each in news if isinstance(each, RoundEnded)]
    assert [each.number for each in rounds] == [1, 2, 3][: end.rounds]
    assert end.probes == len(world.sent) == sum(each.probes for each in rounds) + 2
    assert errand.memory == Memory(A, "echo")


def test_a_remembered_address_is_not_asked_first() -> None:
    world = World({A: Path([(0, 1400)]), B: Path([(0, 1300)])})
    news = world.run(Errand(world.order(), Memory(B, "echo")))
    assert chose(news) == [(B, "echo")]
    assert world.sizes[0] == 1420
    assert world.sent[0][0] == 100.0
    assert KNOCK_SIZE not in world.sizes


@pytest.mark.parametrize("memory", [Memory(IPv4Address("10.0.0.9"), "echo"), Memory(A, "tcp")])
def test_what_is_remembered_but_not_ordered(memory: Memory) -> None:
    world = World({A: Path([(0, 1400)])})
    assert chose(world.run(Errand(world.order(tcp=False), memory))) == [(A, "echo")]
    assert world.sizes[0] == KNOCK_SIZE


def test_a_remembered_address_that_answers_no_more() -> None:
    world = World({A: Path(AWAY), B: Path([(0, 1300)])})
    errand = Errand(world.order(), Memory(A, "echo"))
    news = world.run(errand)
    assert chose(news) == [(A, "echo"), (B, "echo")]
    assert ended(news).result.mtu == 1300
    assert errand.memory == Memory(B, "echo")
    assert ended(news).rounds == len([each for _, each in news if isinstance(each, RoundEnded)])
    assert ended(news).probes == len(world.sent)


def test_a_peer_that_has_gone_away() -> None:
    world = World({A: Path(AWAY)})
    errand = Errand(world.order(), Memory(A, "echo"))
    end = ended(world.run(errand))
    assert end.result is not None
    assert end.result.verdict is Verdict.AWAY
    assert end.text == "nothing answered, not even 576 bytes sent 5 times"
    assert errand.memory is None


def test_a_peer_that_never_answered() -> None:
    world = World({A: Path(AWAY), B: Path(AWAY)})
    errand = Errand(world.order(), None)
    end = ended(world.run(errand))
    assert (end.result, end.held, end.address, end.method, end.rounds) == (None, None, None, None, 0)
    assert end.text == "no answer from 10.0.0.1, 10.0.0.2 to a small echo"
    assert end.probes == 4


def test_by_tcp() -> None:
    """Our direction alone: the way back takes less."""
    world = World({A: Path([(0, 1280)])}, {A: Path([(0, 1400)])})
    errand = Errand(world.order(tcp=True), None)
    end = ended(world.run(errand))
    assert (end.result.mtu, end.method) == (1400, "tcp")
    assert errand.memory == Memory(A, "tcp")


def test_tcp_is_not_tried_unless_ordered() -> None:
    world = World({A: Path([(0, 1280)])}, {A: Path([(0, 1400)])})
    assert ended(world.run(Errand(world.order(), None))).method == "echo"
    assert {packet.method for _, packet in world.sent} == {"echo"}


def test_tcp_that_answers_small_segments_only_at_first() -> None:
    """Then echo is tried before the peer counts as away."""
    world = World({A: Path([(0, 1400)])}, {A: Path([(0, 1400), (100.03, 0)])})
    errand = Errand(world.order(tcp=True), None)
    news = world.run(errand)
    assert chose(news) == [(A, "tcp"), (A, "echo")]
    assert ended(news).result.mtu == 1400
    assert errand.memory == Memory(A, "echo")


def test_tcp_remembered_that_answers_no_more() -> None:
    world = World({A: Path([(0, 1400)])})
    errand = Errand(world.order(tcp=True), Memory(A, "tcp"))
    news = world.run(errand)
    assert chose(news) == [(A, "tcp"), (A, "echo")]
    assert errand.memory == Memory(A, "echo")


def test_a_check() -> None:
    world = World({A: Path([(0, 1400)])})
    end = ended(world.run(Errand(world.order(lambda: Check(1400)), Memory(A, "echo"))))
    assert (end.result.verdict, end.probes, world.sizes) == (Verdict.EXACT, 1, [1400])
    errand = Errand(world.order(lambda: Check(1401)), Memory(A, "echo"))
    end = ended(world.run(errand))
    assert (end.result.verdict, end.address) == (Verdict.DOUBT, A)
    assert errand.memory == Memory(A, "echo")


def test_the_fall_is_told_once() -> None:
    """At once, and in the words of the round that proves it."""
    world = World({A: Path([(0, 1350)])})
    news = world.run(Errand(world.order(lambda: Search(576, 1421, in_force=1420)), Memory(A, "echo")))
    ((at, fell),) = ((at, each) for at, each in news if isinstance(each, Fell))
    assert [type(each) for _, each in news[:3]] == [Chose, RoundEnded, Fell]
    assert fell.size == 1320
    assert fell.text == news[1][1].round.text
    assert fell.text.endswith("1420 lost three times")
    assert at < 0.25


def test_what_the_device_refuses() -> None:
    world = World({A: Path([(0, 1500)])}, refuses_above=1380)
    end = ended(world.run(Errand(world.order(), None)))
    assert (end.result.mtu, end.result.exact) == (1380, True)
    assert end.probes == len(world.sent)


@pytest.mark.parametrize("through_tunnel", [True, False])
def test_too_big_from_beyond_the_tunnel(through_tunnel: bool) -> None:
    """The probe came out there; so the tunnel carries it, if the order says that this is what counts."""
    world = World({A: Path([(0, 1500)])}, tells_above=1330)
    end = ended(world.run(Errand(world.order(through_tunnel=through_tunnel), None)))
    assert (end.result.mtu, end.result.exact) == (1420 if through_tunnel else 1330, True)
    if not through_tunnel:
        assert end.rtt == pytest.approx(0.012)


def test_too_big_chooses_no_address() -> None:
    world = World({A: Path([(0, 1500)])}, tells_above=50)
    end = ended(world.run(Errand(world.order(through_tunnel=True), None)))
    assert end.result is None


# -- whole packets only


def test_lengths_are_opened_and_closed() -> None:
    outer = FakeOuter()
    world = World({A: Path([(0, 1340)])}, outer=outer)
    make = partial(Search, 516, 1421, overhead=OVERHEAD, as_sent=partial(wireguard_padded, device_mtu=1420))
    end = ended(world.run(Errand(world.order(make), None)))
    assert (end.result.mtu, end.result.exact) == (1328, True)
    assert outer.closed == {size + OVERHEAD for size in world.sizes if size != KNOCK_SIZE}


def test_nobody_can_tell() -> None:
    world = World({A: Path([(0, 1400)])}, outer=FakeOuter(blind=True))
    assert ended(world.run(Errand(world.order(), None))).result.mtu == 1400


@pytest.mark.parametrize("mtu", [1500, 1300])
def test_fragments_hold_the_verdict(mtu: int) -> None:
    """Whether they arrive or not: neither answer nor loss of such a probe says anything."""
    outer = FakeOuter(fragmented_above=1400)
    world = World({A: Path([(0, mtu)])}, outer=outer)
    errand = Errand(world.order(), Memory(A, "echo"))
    end = ended(world.run(errand))
    assert end.result is None
    assert end.held == end.text
    assert "left this machine in fragments" in end.held
    assert outer.closed == outer.counted.keys()
    assert errand.memory == Memory(A, "echo")


def test_what_left_whole_before_proves_nothing() -> None:
    """A router tells the kernel in the middle of the search: the next probes leave, and arrive, in fragments."""

    @dataclass
    class Learning(FakeOuter):
        def carry(self, length: int) -> None:
            super().carry(length)
            if length == 1420 + OVERHEAD and self.counted[length] == 3:
                self.fragmented_above = 1400

    world = World(echo={A: Path([(0, 1340), (100.06, 1420)])}, outer=Learning())
    news = world.run(Errand(world.order(lambda: Search(516, 1421, overhead=OVERHEAD, in_force=1420)), None))
    assert any(isinstance(each, Fell) for _, each in news)
    assert ended(news).result is None
    assert "in fragments" in str(ended(news).held)


def test_one_that_leaves_late_proves_nothing_for_the_next() -> None:
    """A busy tunnel: the first copy is seen to leave only after the second was sent, and that leaves in fragments."""

    @dataclass
    class Late(FakeOuter):
        sent: int = 0

        def carry(self, length: int) -> None:
            if length != 1420 + OVERHEAD:
                super().carry(length)
                return
            self.sent += 1
            if self.sent == 2:
                self.counted[length] += 1
            if self.sent >= 2:
                self.fragmented += 1

    world = World(echo={A: Path([(0, 1340), (100.01, 1420)])}, outer=Late())
    news = world.run(Errand(world.order(lambda: Search(516, 1421, overhead=OVERHEAD, in_force=1420)), None))
    assert ended(news).result is None
    assert "in fragments" in str(ended(news).held)


def test_other_peoples_fragments_hold_nothing() -> None:
    outer = FakeOuter()
    world = World({A: Path([(0, 1400)])}, outer=outer)
    make = partial(Search, 576, 1421)

    def disturbing() -> Search:
        outer.fragmented += 10
        return make()

    assert ended(world.run(Errand(world.order(disturbing), None))).result.mtu == 1400


def test_answers_to_probes_that_were_not_seen_to_leave_do_not_count() -> None:
    world = World({A: Path([(0, 1500)])}, outer=FakeOuter(unseen_above=1400))
    end = ended(world.run(Errand(world.order(), None)))
    assert end.result is not None
    assert end.result.mtu is not None
    assert end.result.mtu + OVERHEAD <= 1400
    assert not end.result.exact


def test_nothing_was_seen_to_leave() -> None:
    world = World({A: Path([(0, 1500)])}, outer=FakeOuter(unseen_above=0))
    end = ended(world.run(Errand(world.order(), None)))
    assert end.result is None
    assert end.held is not None
    assert "none of the probes was seen to leave" in end.held


# -- what goes wrong


def test_failing() -> None:
    world = World({A: Path([(0, 1500)])})
    errand = Errand(world.order(), Memory(A, "echo"))
    first, second, *_ = errand.packets(0.0)
    errand.on_not_sent(first.number)
    errand.on_fault(second.number, "a firewall rule")
    end = ended([(0.0, each) for each in errand.take_news()])
    assert (end.result, end.text, end.held) == (None, "a firewall rule", None)
    assert errand.memory == Memory(A, "echo")
    assert errand.deadline is None
    errand.fail("once more")
    errand.on_answer(first.number, 1.0)
    errand.on_timeout(100.0)
    assert errand.take_news() == []
    assert errand.ended is end


def test_a_choice_where_nothing_can_be_sent() -> None:
    world = World({A: Path([(0, 1500)])})
    errand = Errand(world.order(), None)
    (packet,) = errand.packets(0.0)
    errand.on_fault(packet.number, "no route to 10.0.0.1")
    assert ended([(0.0, each) for each in errand.take_news()]).text == "no route to 10.0.0.1"
    errand.on_not_sent(packet.number)


def test_probes_that_were_not_sent_are_sent_again() -> None:
    """A full queue: the first wave does not leave at all."""
    world = World({A: Path([(0, 1400)])})
    errand = Errand(world.order(), Memory(A, "echo"))
    for packet in errand.packets(100.0):
        errand.on_not_sent(packet.number)
    assert ended(world.run(errand)).result.mtu == 1400


def test_a_search_that_waits_for_tokens_loses_no_time() -> None:
    world = World({A: Path([(0, 1400)])})
    errand = Errand(world.order(), Memory(A, "echo"))
    errand.on_timeout(10.0)
    assert errand.deadline == 0.0
    errand.on_timeout(90.0)  # 80 s later: still not begun
    assert ended(world.run(errand)).result.mtu == 1400
