"""The engine over this machine's loopback: turns, budget, and what must not get in anybody's way."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Collection, Iterator
from ipaddress import ip_address

import pytest

from mssclamp.errors import DatapathError
from mssclamp.pmtu.check import Check
from mssclamp.pmtu.search import Search, Verdict
from mssclamp.probe.choice import KNOCK_SIZE
from mssclamp.probe.echo_socket import EchoSocket
from mssclamp.probe.engine import AT_ONCE, URGENT_AT_ONCE, Chose, Ended, Engine, News, Order, RoundEnded
from mssclamp.wire.mtu import IpVersion
from support import require_root

LOOPBACK = (ip_address("127.0.0.1"),)
LADDER = 10
"""Probes of a search from 576 to 1500 that finds 1500."""


class Listener:
    """Keeps all news; waits for ends."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self._more = threading.Condition()

    def __call__(self, news: News) -> None:
        with self._more:
            self.news.append(news)
            self._more.notify_all()

    @property
    def ends(self) -> list[Ended]:
        return [each for each in self.news if isinstance(each, Ended)]

    def wait_ends(self, number: int = 1, seconds: float = 30) -> list[Ended]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.ends) >= number, seconds), f"{len(self.ends)} of {number}"
            return self.ends


class Cookies:
    """Those allowed and not yet forgotten."""

    def __init__(self) -> None:
        self.allowed: set[int] = set()

    def allow(self, cookie: int) -> None:
        self.allowed.add(cookie)

    def forget(self, cookie: int) -> None:
        self.allowed.remove(cookie)


@pytest.fixture
def heard() -> Listener:
    return Listener()


@pytest.fixture
def cookies() -> Cookies:
    return Cookies()


@pytest.fixture
def start(heard: Listener, cookies: Cookies) -> Iterator[Callable[..., Engine]]:
    require_root()
    made: list[Engine] = []

    def begin(rate: float = 10_000) -> Engine:
        made.append(Engine(heard, cookies.allow, cookies.forget, rate))
        return made[-1]

    yield begin
    for engine in made:
        engine.close()
    assert not cookies.allowed


def order(peer: str = "peer", make: Callable[[], Search | Check] = lambda: Search(576, 1501), **options) -> Order:
    whole = {"device": "lo", "addresses": LOOPBACK, "outer_length": lambda size: size + 60, "outer": None} | options
    return Order(peer=peer, make=make, **whole)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("tcp", [False, True])
def test_one_order(address: str, tcp: bool, start, heard: Listener, cookies: Cookies) -> None:
    asked = order(addresses=(ip_address(address),), tcp=tcp)
    start().submit(asked)
    (end,) = heard.wait_ends()
    assert [type(each) for each in heard.news] == [Chose, RoundEnded, Ended]
    assert all(each.order is asked for each in heard.news)
    assert end.result is not None
    assert (end.result.verdict, end.result.mtu) == (Verdict.EXACT, 1500)
    assert (str(end.address), end.method, end.rounds) == (address, "tcp" if tcp else "echo", 1)
    assert end.probes == 1 + tcp + LADDER
    assert len(cookies.allowed) == 1 + tcp


def test_many_orders_share_the_budget(start, heard: Listener) -> None:
    rate, orders = 1000, 200
    began = time.monotonic()
    engine = start(rate)
    for i in range(orders):
        engine.submit(order(f"peer-{i}"))
    ends = heard.wait_ends(orders)
    took = time.monotonic() - began
    assert {each.order.peer for each in ends} == {f"peer-{i}" for i in range(orders)}
    assert all(each.result is not None and each.result.mtu == 1500 for each in ends)
    probes = sum(each.probes for each in ends)
    assert probes >= orders * (1 + LADDER)
    assert probes <= rate * took + rate + LADDER
    running = 0
    for each in heard.news:
        running += isinstance(each, Chose)
        running -= isinstance(each, Ended)
        assert running <= AT_ONCE


def test_one_wave_in_turn(start, heard: Listener) -> None:
    """With little budget everybody gets his first wave before anybody his second."""
    engine = start(1)
    engine.submit(order("first", lambda: Check(1400)))
    heard.wait_ends()
    for i in range(8):
        engine.submit(order(f"peer-{i}"))
    time.sleep(0.2)
    engine.set_rate(100)
    heard.wait_ends(9)
    kinds = [type(each) for each in heard.news[3:]]
    assert kinds.index(Ended) >= 8


def test_urgent_orders_overtake(start, heard: Listener) -> None:
    engine = start(50)
    for i in range(40):
        engine.submit(order(f"peer-{i}"))
    time.sleep(0.3)
    engine.submit(order("urgent", urgent=True))
    while not any(each.order.urgent for each in heard.ends):
        heard.wait_ends(len(heard.ends) + 1)
    assert len(heard.ends) <= AT_ONCE


def test_urgent_orders_need_no_place(start, heard: Listener) -> None:
    engine = start()
    for i in range(3 * AT_ONCE):
        engine.submit(order(f"peer-{i}", urgent=True))
    heard.wait_ends(3 * AT_ONCE)


def test_a_rush_of_urgent_orders(start, heard: Listener) -> None:
    """As when the route to all peers changes: so many at once that each has its share of the budget."""
    engine = start(1)
    orders = [order(f"peer-{i}", urgent=True) for i in range(URGENT_AT_ONCE + 20)]
    for each in orders:
        engine.submit(each)
    engine.submit(order("peer-80"))  # no reason to drop the urgent one
    time.sleep(0.2)
    assert len(engine._running) == URGENT_AT_ONCE
    engine.cancel(orders[-1].peer)
    engine.set_rate(10_000)
    heard.wait_ends(len(orders) - 1)
    assert sorted(each.order.peer for each in heard.ends) == sorted(each.peer for each in orders[:-1])
    assert all(each.order.urgent for each in heard.ends)


def test_who_hurries_need_not_wait(start) -> None:
    engine = start(1)
    for i in range(2 * AT_ONCE):
        engine.submit(order(f"peer-{i}"))
    engine.hurry(f"peer-{2 * AT_ONCE - 1}")
    engine.hurry("nobody")
    time.sleep(0.2)
    assert f"peer-{2 * AT_ONCE - 1}" in engine._running


def test_who_answered_is_asked_again(start, heard: Listener) -> None:
    engine = start()
    engine.submit(order())
    assert heard.wait_ends()[0].probes == 1 + LADDER
    engine.submit(order(make=lambda: Check(1400)))
    assert heard.wait_ends(2)[1].probes == 1
    engine.cancel("peer")
    engine.submit(order(make=lambda: Check(1400)))
    assert heard.wait_ends(3)[2].probes == 2


def test_a_newer_order_replaces_an_older_one(start, heard: Listener) -> None:
    engine = start(1)
    engine.submit(order("other"))
    old, new = order(), order()
    engine.submit(old)
    engine.submit(new)
    engine.set_rate(1000)
    heard.wait_ends(2)
    assert not any(each.order is old for each in heard.news)


def test_an_urgent_one_is_replaced_by_an_urgent_one_alone(start, heard: Listener) -> None:
    engine = start(1)
    engine.submit(order("other"))
    first, second, ordinary = order(urgent=True), order(urgent=True), order()
    for each in (first, second, ordinary):
        engine.submit(each)
    engine.set_rate(1000)
    heard.wait_ends(2)
    assert [each.order for each in heard.ends if each.order.peer == "peer"] == [second]


def test_a_cancelled_order_says_nothing(start, heard: Listener) -> None:
    engine = start(1)
    engine.submit(order("other"))
    for i in range(2 * AT_ONCE):
        engine.submit(order(f"peer-{i}"))
    time.sleep(0.1)
    for i in range(2 * AT_ONCE):
        engine.cancel(f"peer-{i}")
    engine.cancel("nobody")
    engine.set_rate(1000)
    heard.wait_ends()
    time.sleep(0.2)
    assert {each.order.peer for each in heard.news} == {"other"}


def test_nothing_is_told_after_the_end(start, heard: Listener, cookies: Cookies) -> None:
    engine = start(100)
    for i in range(50):
        engine.submit(order(f"peer-{i}"))
    heard.wait_ends()
    engine.close()
    told = len(heard.news)
    assert not cookies.allowed
    engine.submit(order("late"))
    engine.close()
    time.sleep(0.2)
    assert len(heard.news) == told


class FragmentingOuter:
    """Everything leaves in fragments."""

    def __init__(self) -> None:
        self.opened: set[int] = set()
        self.fragmented = 0

    def open(self, lengths: Collection[int]) -> None:
        self.opened |= set(lengths)

    def close(self, lengths: Collection[int]) -> None:
        self.opened -= set(lengths)

    def whole(self, _: int) -> int | None:
        return 0

    def fragments(self) -> int | None:
        self.fragmented += 2
        return self.fragmented


def test_probes_in_fragments(start, heard: Listener) -> None:
    outer = FragmentingOuter()
    start().submit(order(outer=outer))
    (end,) = heard.wait_ends()
    assert end.result is None
    assert end.held is not None
    assert "in fragments" in end.held
    assert not outer.opened


# -- what goes wrong is one order's alone


class BrokenOuter(FragmentingOuter):
    """The kernel refuses."""

    def open(self, _: Collection[int]) -> None:
        raise DatapathError("the map is full")


class BadlyBrokenOuter(FragmentingOuter):
    """A mistake of ours."""

    def whole(self, _: int) -> int | None:
        raise KeyError("length")

    def close(self, _: Collection[int]) -> None:
        raise KeyError("length")


def impossible() -> Search:
    return Search(576, 576)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"device": "ct-nothing"}, "ct-nothing is not there"),
        ({"addresses": ()}, "no address of the peer is known that could answer"),
        ({"addresses": (ip_address("255.255.255.255"),)}, "this machine may not send to 255.255.255.255: it is a b"),
        ({"outer": BrokenOuter()}, "the map is full"),
        ({"outer": BadlyBrokenOuter()}, "the search broke off: 'length'"),
        ({"make": impossible}, "the search broke off: no size from 576 up to 575"),
        ({"make": lambda: Check(KNOCK_SIZE // 4)}, "the search broke off: negative argument not allowed"),
    ],
)
def test_words(options, text: str, start, heard: Listener) -> None:
    engine = start()
    for i in range(4):
        engine.submit(order(f"peer-{i}"))
    engine.submit(order("poor", **options))
    ends = {each.order.peer: each for each in heard.wait_ends(5)}
    assert (ends["poor"].result, ends["poor"].held) == (None, None)
    assert ends["poor"].text.startswith(text)
    assert all(ends[f"peer-{i}"].result.mtu == 1500 for i in range(4))


def test_a_kernel_without_ipv6(start, heard: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has addresses of both kinds is probed by the other."""

    class NoIpv6(EchoSocket):
        def __init__(self, version: IpVersion, *others) -> None:
            if version == 6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(version, *others)

    monkeypatch.setattr("mssclamp.probe.sockets.EchoSocket", NoIpv6)
    start().submit(order(addresses=(ip_address("::1"), *LOOPBACK)))
    (end,) = heard.wait_ends()
    assert end.result is not None
    assert (end.result.mtu, end.address) == (1500, LOOPBACK[0])


def test_sockets_that_the_kernel_does_not_allow(heard: Listener) -> None:
    require_root()

    def refuse(_: int) -> None:
        raise DatapathError("the map is full")

    engine = Engine(heard, refuse, refuse, 100)
    engine.submit(order())
    (end,) = heard.wait_ends()
    engine.close()
    assert (end.result, end.text) == (None, "the map is full")


def test_a_listener_that_fails(cookies: Cookies) -> None:
    require_root()
    heard = Listener()

    def on_news(news: News) -> None:
        heard(news)
        raise RuntimeError("not my day")

    engine = Engine(on_news, cookies.allow, cookies.forget, 100)
    for i in range(2):
        engine.submit(order(f"peer-{i}"))
        heard.wait_ends(i + 1)
    engine.close()
