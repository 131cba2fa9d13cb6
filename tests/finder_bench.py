"""A finder between a prober and a host that are fakes; the table, the schedule and the searches are real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from mssclamp.daemon.finder import Finder, Obstacle
from mssclamp.daemon.stalled import Segment
from mssclamp.pmtu.check import Check
from mssclamp.pmtu.search import Search
from mssclamp.pmtu.table import Change, Learned, Peer, PeerFacts, Table
from mssclamp.pmtu.table import Outer as Endpoint
from mssclamp.probe.order import Chose, Ended, Fell, Method, News, Order, Outer, RoundEnded, Segments
from sim import Path, drive

RECHECK, RAISE = 30.0, 600.0
UNIX = 1_769_860_800.0
ADDRESS = IPv4Address("10.99.0.1")

WIREGUARD = PeerFacts(
    id="wg0:one",
    name="one",
    device="wg0",
    prefixes=(ip_network("10.99.0.1/32"), ip_network("10.7.0.0/16")),
    kind="wireguard",
    overhead=60,
    outer=Endpoint(ip_address("198.51.100.7"), 17, 51820),
)
STATIC = replace(WIREGUARD, id="two", name="two", device="gre7", kind="static", overhead=24)


def segment(destination: str = "10.7.1.2", size: int = 1420, port: int = 5000, sequence: int = 0) -> Segment:
    """A packet's head: IPv4, with TCP's ports and sequence number."""
    addresses = ip_address("192.0.2.9").packed + ip_address(destination).packed
    tcp = port.to_bytes(2, "big") + b"\0\x50" + sequence.to_bytes(4, "big")
    return Segment(7, 4, size, 0, b"\x45" + bytes(11) + addresses + tcp)


class FakeProber:
    """Keeps its orders."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.cancelled: list[str] = []
        self.hurried: list[str] = []

    def submit(self, order: Order) -> None:
        self.orders.append(order)

    def cancel(self, peer: str) -> None:
        self.cancelled.append(peer)

    def hurry(self, peer: str) -> None:
        self.hurried.append(peer)


class NoSegments:
    """Nothing is acknowledged."""

    def begin(self) -> None:
        pass

    def passed(self) -> int | None:
        return None

    def end(self) -> None:
        pass


class FakeHost:
    """Notes everything that the finder has the daemon do, in order."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Any]] = []
        self.problem: Obstacle | None = None
        self.asleep = False
        self.large = 0
        self.narrow: int | None = None
        self.kept: dict[str, Learned | None] = {}

    def act(self, peer: Peer, changes: Sequence[Change]) -> None:
        self.done.append(("act", peer.value.mtu))
        self.done += [(change.event, change.details) for change in changes]

    def tell(self, event: str, peer: str, details: Mapping[str, object]) -> None:
        del peer
        self.done.append((event, details))

    def keep(self, peer: Peer) -> None:
        self.kept[peer.facts.id] = peer.learned

    def obstacle(self, peer: Peer) -> Obstacle | None:
        del peer
        return self.problem

    def is_asleep(self, peer: Peer) -> bool:
        del peer
        return self.asleep

    def large_packets(self, peer: Peer) -> int:
        del peer
        return self.large

    def outer(self, peer: Peer) -> Outer | None:
        del peer
        return None

    def room(self, peer: Peer) -> int | None:
        del peer
        return self.narrow

    def segments(self, peer: Peer) -> Segments:
        del peer
        return NoSegments()

    def answer_stalled(self, peer: Peer, segments: Sequence[Segment]) -> None:
        self.done.append(("answer", (peer.value.mtu, [each.flow for each in segments])))


class Bench:
    """A finder, and time. The path to each peer carries packets of `path` bytes."""

    def __init__(self, facts: PeerFacts = WIREGUARD, learned: Learned | None = None) -> None:
        self.prober, self.host = FakeProber(), FakeHost()
        self.table = Table(learned={} if learned is None else {facts.id: learned})
        self.devices = {"wg0": 1420, "gre7": 1476}
        self.table.update([facts], self.devices, UNIX)
        self.finder = Finder(self.table, self.prober, self.host, self.host, RECHECK, RAISE)
        self.facts = facts
        self.now = 1000.0
        self.path = 9000

    @property
    def unix(self) -> float:
        return UNIX + self.now - 1000.0

    @property
    def peer(self) -> Peer:
        return self.table.peers[self.facts.id]

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    # what happens

    def large(self, destination: str = "10.7.1.2") -> None:
        self.host.large += 1
        self.finder.on_large(self.peer, segment(destination), self.now, self.unix)

    def resent(self, size: int = 1420, port: int = 5000, sequence: int = 0) -> None:
        lost = segment(size=size, port=port, sequence=sequence)
        self.finder.on_resent(self.peer, lost, self.now, self.unix)

    def too_big(self, size: int, *, seen: bool) -> None:
        self.finder.on_too_big(self.peer, size, seen, self.now, self.unix)

    def tick(self) -> None:
        self.finder.tick(self.now, self.unix)

    def news(self, news: News) -> None:
        self.finder.on_news(news, self.now, self.unix)

    # the prober's work

    def order(self) -> Order:
        """The only order since last asked."""
        (order,) = self.prober.orders
        self.prober.orders.clear()
        return order

    def idle(self) -> bool:
        return not self.prober.orders

    def carry_out(self, order: Order | None = None, method: Method = "echo") -> Search | Check:
        """Does what the prober would, over a path without faults that carries inner packets of `path` bytes."""
        order = self.order() if order is None else order
        work = order.make()
        outcome = drive(work, Path([(0, self.path)]))
        self.now += outcome.seconds
        self.news(Chose(order, ADDRESS, method, 0.012))
        if work.fallen is not None:
            self.news(Fell(order, work.fallen, work.rounds[0].text))
        for each in work.rounds:
            self.news(RoundEnded(order, each))
        assert work.result is not None
        rtt = None if work.result.mtu is None else 0.012
        self.news(
            Ended(order, work.result, rtt, ADDRESS, method, len(work.rounds), work.probes, None, work.result.text)
        )
        return work

    def fail(self, text: str = "nobody answers", held: str | None = None) -> None:
        """The prober learns nothing."""
        self.news(Ended(self.order(), None, None, None, None, 0, 6, held, held or text))

    def learn(self, path: int) -> None:
        """A first search, over a path of so many bytes."""
        self.path = path
        self.large()
        self.carry_out()
        self.take()

    # what the host was asked

    def take(self, *kinds: str) -> list[tuple[str, Any]]:
        done, self.host.done = self.host.done, []
        return [each for each in done if not kinds or each[0] in kinds]

    def state(self) -> tuple[str, int | None]:
        return self.peer.value.state, self.peer.value.mtu


def sizes(order: Order) -> list[int]:
    """What the first burst of an order would send."""
    work = order.make()
    work.start(0.0)
    return [probe.size for probe in work.probes_to_send(0.0)]
