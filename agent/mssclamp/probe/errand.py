"""One order being carried out: an address is chosen, then a search or check runs to its end.

No sockets, no clock: packets to send go out, answers and the time come in. The owner calls `on_timeout` at `deadline`;
if the deadline is not in the future afterwards, there are packets to send, whenever it pleases: the clock of a search
starts when they are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from mssclamp.pmtu.check import Check
from mssclamp.pmtu.search import Result, Search, Verdict
from mssclamp.pmtu.table import Address
from mssclamp.probe.choice import KNOCK_SIZE, Choice, Knock
from mssclamp.probe.order import Chose, Ended, Fell, Method, News, Order, RoundEnded


@dataclass(frozen=True)
class Memory:
    """Who answered last, and to what."""

    address: Address
    method: Method


@dataclass(frozen=True)
class Packet:
    """One packet to send; `number` is what the answer must be told by. `size`: the IP packet, bytes."""

    number: int
    address: Address
    method: Method
    size: int


@dataclass(frozen=True)
class _Sent:
    """What was sent when: a small probe of the choice, or the search's probe of this number.

    `whole`: how many of its length must have been seen to leave whole if it did, for they leave in the order in which
    they are sent; None where nobody watches.
    """

    at: float
    size: int
    what: Knock | int
    whole: int | None = None


class Errand:
    """The course of one order. `memory`: who answered before, if anybody; afterwards, whom to try next time."""

    def __init__(self, order: Order, memory: Memory | None) -> None:
        self.order = order
        self.memory = memory
        self.ended: Ended | None = None
        self._news: list[News] = []
        self._numbers = count()
        self._sent: dict[int, _Sent] = {}
        self._choice: Choice | None = None
        self._search: Search | Check | None = None
        self._started = self._fell = False
        self._told = 0
        self._address: Address | None = None
        self._method: Method = "echo"
        self._rtt: float | None = None
        self._rounds = self._probes = 0
        self._away: Result | None = None
        self._opened: set[int] = set()
        self._any_whole = False
        self._due_whole: dict[int, int] = {}
        self._fragments: int | None = None
        self._voided = False
        self._is_choice_fresh = False
        if memory is not None and memory.address in order.addresses and (order.tcp or memory.method == "echo"):
            self._begin_search(memory.address, memory.method, None)
        else:
            self._choose()
            self._go_on()

    # what the owner calls

    @property
    def deadline(self) -> float | None:
        """When to call `on_timeout`; None once it has ended."""
        if self.ended:
            return None
        if self._choice is not None:
            return self._choice.next_deadline()
        assert self._search is not None
        return self._search.next_deadline() if self._started else 0.0

    def on_timeout(self, now: float) -> None:
        """Judges what is overdue, and goes on."""
        if self._choice is not None:
            self._choice.on_timeout(now)
        elif self._search is not None and self._started:
            self._void_what_did_not_leave(now)
            passed = None if self.order.segments is None else self.order.segments.passed()
            if passed is not None:
                self._search.on_passed(passed, now)
            self._search.on_timeout(now)
        self._go_on()

    def packets(self, now: float) -> list[Packet]:
        """What is to be sent now: one wave."""
        if self._choice is not None:
            knocks = self._choice.to_send(now)
            return [self._packet(KNOCK_SIZE, now, each, each.address, each.method) for each in knocks]
        if self._search is None or self._address is None:
            return []
        if not self._started:
            self._started = True
            if self.order.segments is not None:
                self.order.segments.begin()
            self._search.start(now)
        probes = self._search.probes_to_send(now)
        self._open({self.order.outer_length(probe.size) for probe in probes})
        return [self._packet(probe.size, now, probe.number, self._address, self._method) for probe in probes]

    def on_answer(self, number: int, now: float, *, by_error: bool = False) -> None:
        """A packet was answered. `by_error`: by an ICMP error of somebody beyond who had it."""
        sent = self._sent.get(number)
        if sent is None or (by_error and not self.order.through_tunnel):
            return
        if isinstance(sent.what, Knock):
            if self._choice is not None and not by_error:
                self._choice.on_answer(sent.what, now - sent.at, now)
        elif self._search is not None:
            del self._sent[number]
            if not self._left_whole(sent):
                self._void(sent.what, sent.size)
            else:
                self._search.on_answer(sent.what, now)
                if not by_error:
                    self._rtt = now - sent.at if self._rtt is None else min(self._rtt, now - sent.at)
        self._go_on()

    def on_refused(self, number: int, limit: int, now: float) -> None:
        """This machine sends nothing over `limit` bytes there."""
        sent = self._take_back(number)
        if sent is None:
            return
        if isinstance(sent.what, Knock) and self._choice is not None:
            self._choice.on_fault(sent.what, f"{self.order.device} takes no more than {limit} bytes")
        elif isinstance(sent.what, int) and self._search is not None:
            self._search.on_refused(limit + 1, now)
        self._go_on()

    def on_not_sent(self, number: int) -> None:
        """The packet did not leave this machine."""
        sent = self._take_back(number)
        if sent is not None and isinstance(sent.what, int) and self._search is not None:
            self._search.on_not_sent(sent.what)
        self._go_on()

    def on_fault(self, number: int, text: str) -> None:
        """This machine cannot send that; `text` says why."""
        sent = self._take_back(number)
        if sent is not None and isinstance(sent.what, Knock) and self._choice is not None:
            self._choice.on_fault(sent.what, text)
            self._go_on()
        elif sent is not None:
            self.fail(text)

    def fail(self, text: str) -> None:
        """Ends it without a result."""
        self._end(None, text)

    def close(self) -> None:
        """Whatever happened: the underlay's program has nothing to look for any more."""
        if self.order.outer is not None and self._opened:
            self.order.outer.close(self._opened)
        if self.order.segments is not None and self._started:
            self.order.segments.end()

    def take_news(self) -> list[News]:
        """What there is to tell since the last call."""
        news, self._news = self._news, []
        return news

    # how it goes on

    def _choose(self) -> None:
        self._is_choice_fresh = True
        self._search, self._choice = None, Choice(self.order.addresses, tcp=self.order.tcp)
        self._sent.clear()

    def _begin_search(self, address: Address, method: Method, rtt: float | None) -> None:
        self._choice, self._search = None, self.order.make()
        self._address, self._method = address, method
        self._started, self._told = False, 0
        self._sent.clear()
        self._news.append(Chose(self.order, address, method, rtt))

    def _go_on(self) -> None:
        if self.ended is not None:
            return
        if self._choice is not None:
            if self._choice.chosen is not None:
                chosen = self._choice.chosen
                self._begin_search(chosen.address, chosen.method, chosen.rtt)
            elif self._choice.failed is not None:
                self._end(self._away, self._away.text if self._away else self._choice.failed)
        elif self._search is not None:
            self._tell()
            if self._search.result is not None:
                self._conclude(self._search.result)

    def _tell(self) -> None:
        """Rounds that are over, and the fall."""
        assert self._search is not None
        rounds = self._search.rounds
        over = len(rounds) if self._search.done else len(rounds) - 1
        for each in rounds[self._told : over]:
            self._news.append(RoundEnded(self.order, each))
            self._told += 1
            self._rounds += 1
        if not self._fell and self._search.fallen is not None:
            self._fell = True
            self._news.append(Fell(self.order, self._search.fallen, rounds[max(0, over - 1)].text))

    def _conclude(self, result: Result) -> None:
        assert self._address is not None
        if result.verdict is not Verdict.AWAY:
            self.memory = Memory(self._address, self._method)
            self._end(result, result.text)
            return
        self.memory = None
        if self._voided and not self._any_whole:
            self._hold("none of the probes was seen to leave this machine whole, so nothing can be said about the path")
        elif not self._is_choice_fresh:
            self._away = result
            self._choose()
        elif self._method == "tcp":  # what answered at first may be no honest end of the path
            self._begin_search(self._address, "echo", None)
        else:
            self._end(result, result.text)

    def _end(self, result: Result | None, text: str, held: str | None = None) -> None:
        if self.ended is not None:
            return
        address, method = (None, None) if self._address is None else (self._address, self._method)
        self.ended = Ended(
            self.order, result, self._rtt, address, method, self._rounds, self._probes, held, held or text
        )
        self._news.append(self.ended)

    # packets, and whether they left whole

    def _packet(self, size: int, now: float, what: Knock | int, address: Address, method: Method) -> Packet:
        number = next(self._numbers)
        whole = None
        if not isinstance(what, Knock) and self.order.outer is not None:
            length = self.order.outer_length(size)
            whole = self._due_whole[length] = self._due_whole[length] + 1
        self._sent[number] = _Sent(now, size, what, whole)
        self._probes += 1
        return Packet(number, address, method, size)

    def _take_back(self, number: int) -> _Sent | None:
        self._probes -= 1
        sent = self._sent.pop(number, None)
        if sent is not None and sent.whole is not None:
            self._due_whole[self.order.outer_length(sent.size)] -= 1
        return sent

    def _open(self, lengths: set[int]) -> None:
        outer = self.order.outer
        if outer is None or lengths <= self._opened:
            return
        if not self._opened:
            self._fragments = outer.fragments()
        new = lengths - self._opened
        self._opened |= new
        outer.open(new)
        self._due_whole |= {length: outer.whole(length) or 0 for length in new}

    def _left_whole(self, sent: _Sent) -> bool:
        """Whether it did, as far as can be told. Others of its length say nothing: the kernel may have learned."""
        outer = self.order.outer
        seen = None if outer is None else outer.whole(self.order.outer_length(sent.size))
        if seen is not None and sent.whole is not None and seen < sent.whole:
            return False
        self._any_whole = True
        return True

    def _void_what_did_not_leave(self, now: float) -> None:
        """Before losses are judged: what did not leave was not lost on the way."""
        if self._search is None or self.order.outer is None:
            return
        patience = self._search.round_trip.timeout
        for number, sent in list(self._sent.items()):
            if isinstance(sent.what, int) and now >= sent.at + patience and not self._left_whole(sent):
                del self._sent[number]
                self._void(sent.what, sent.size)

    def _void(self, number: int, size: int) -> None:
        """A probe that says nothing either way; and if it left in fragments, no other one says much."""
        assert self._search is not None
        self._search.on_not_sent(number)
        self._voided = True
        outer = self.order.outer
        fragments = None if outer is None else outer.fragments()
        if fragments is not None and self._fragments is not None and fragments > self._fragments:
            self._hold(f"probes of {size} bytes left this machine in fragments, so nothing can be said about the path")

    def _hold(self, why: str) -> None:
        self._end(None, why, held=why)
