"""Finds peers' MTUs and keeps them true: what happens asks for a look, looks become orders to the prober, its news goes
into the table.

Who wants something to happen to packets is the table; this decides only when to look, and how.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mssclamp.control.protocol import EventName
from mssclamp.daemon.stalled import Segment, StalledFlows
from mssclamp.errors import ConflictError
from mssclamp.pmtu.check import Check
from mssclamp.pmtu.constants import BASE_MTU4, MAX_PROBES
from mssclamp.pmtu.schedule import Look, Schedule
from mssclamp.pmtu.search import Result, Round, Search, Verdict
from mssclamp.pmtu.table import Address, Change, Learned, Network, Peer, Table
from mssclamp.probe.order import Ended, Fell, News, Order, Outer, RoundEnded, Segments

log = logging.getLogger(__name__)

_SMALLEST = 256
"""Bytes of the smallest probe that is any use."""

_CANDIDATES = 8
_SEEN = 4
"""Addresses in a peer's traffic that are remembered."""

_AWAKE = 1.5
"""A peer of which no large packet was told for so many times `recheck` is not in use just now."""

_RETRY = 1.0
_RETRIES = 5
"""Seconds until a look that had to wait for a handshake is tried again, and how often."""

HINTS = frozenset({"resent", "icmp"})
"""What may be wrong or forged, and is counted as refuted where probes say so."""


@dataclass(frozen=True)
class Obstacle:
    """Why a peer cannot be probed, and what would help."""

    why: str
    fix: str | None = None

    def __str__(self) -> str:
        return f"{self.why}; {self.fix}" if self.fix else self.why


_NO_ADDRESS = Obstacle(
    "no address behind it is known that could answer", "name one with probe_address, or send large packets through it"
)
_ASLEEP = Obstacle(
    "it sleeps (no WireGuard handshake in the last three minutes), and clampd wakes nobody", "send it a packet"
)
_SILENT = "name an address that answers with probe_address"


class Prober(Protocol):
    """`probe.engine.Engine`, as far as it is used."""

    def submit(self, order: Order) -> None: ...
    def cancel(self, peer: str) -> None: ...
    def hurry(self, peer: str) -> None: ...


class Host(Protocol):
    """What the daemon does for us."""

    def act(self, peer: Peer, changes: Sequence[Change]) -> None:
        """The table has another value for the peer: into the kernel at once, then to whoever listens."""

    def tell(self, event: EventName, peer: str, details: Mapping[str, object]) -> None:
        """An event."""


class Hands(Protocol):
    """What can be asked and done about a peer: `hands.Hands`."""

    def keep(self, peer: Peer) -> None: ...
    def obstacle(self, peer: Peer) -> Obstacle | None: ...
    def is_asleep(self, peer: Peer) -> bool: ...
    def large_packets(self, peer: Peer) -> int: ...
    def outer(self, peer: Peer) -> Outer | None: ...
    def room(self, peer: Peer) -> int | None: ...
    def segments(self, peer: Peer) -> Segments: ...
    def answer_stalled(self, peer: Peer, segments: Sequence[Segment]) -> None: ...


@dataclass
class _Task:
    """What is under way for a peer, why (see HINTS), and the value before it."""

    order: Order
    look: Look
    before: int
    cause: str
    word: int | None = None
    """The inner size that a router named which saw our traffic."""
    proven: bool = False
    """Whether a round has proven that the value before passes no more."""


@dataclass
class _Subject:
    """What is remembered of one peer."""

    schedule: Schedule
    task: _Task | None = None
    seen: deque[Address] = field(default_factory=lambda: deque(maxlen=_SEEN))
    retry: tuple[float, int, Look, str] | None = None
    """When, after how many tries, what and why."""
    held: bool = False
    """Whether the last look could not be, and waits for what stands in the way (`_standing_obstacle`)."""
    large_before: int = 0
    large_at: float = float("-inf")
    """When we last heard of a large packet."""


class Finder:
    """One per daemon, in its thread. Times: `now` in seconds of a clock that nobody sets, `unix` for people."""

    def __init__(
        self, table: Table, prober: Prober, host: Host, hands: Hands, recheck: float, raise_after: float
    ) -> None:
        self._table = table
        self._prober = prober
        self._host = host
        self._hands = hands
        self._recheck, self._raise_after = recheck, raise_after
        self._subjects: dict[str, _Subject] = {}
        self._stalled = StalledFlows()
        self._prefixes: dict[str, tuple[str, frozenset[Network]]] = {}  # by peer: its device, and what it holds there

    # -- who there is ---------------------------------------------------------------------------------------

    def update(self, recheck: float, raise_after: float) -> None:
        """The table has other peers, or the configuration other times."""
        self._recheck, self._raise_after = recheck, raise_after
        for gone in self._subjects.keys() - self._table.peers.keys():
            self._prober.cancel(gone)
            self._stalled.forget(gone)
            del self._subjects[gone]
        self._forget_moved_addresses()
        for peer_id, subject in self._subjects.items():
            peer = self._table.peers[peer_id]
            subject.schedule.recheck, subject.schedule.raise_after = recheck, raise_after
            if subject.task is not None and self._hands.obstacle(peer) is not None:
                self._prober.cancel(peer_id)
                subject.task = None
                subject.held = True
                self._table.search_dropped(peer)
            elif subject.held and self._standing_obstacle(peer, subject) is None:
                subject.held = False
                subject.schedule.search_soon()

    def _forget_moved_addresses(self) -> None:
        """An address that traffic to a peer was seen to go to may be another peer's where prefixes have moved."""
        held = {
            peer_id: (peer.facts.device, frozenset(peer.facts.prefixes)) for peer_id, peer in self._table.peers.items()
        }
        before, self._prefixes = self._prefixes, held
        moved = {
            network
            for peer_id in before.keys() | held.keys()
            if before.get(peer_id) != held.get(peer_id)
            for _, networks in (before.get(peer_id, ("", frozenset())), held.get(peer_id, ("", frozenset())))
            for network in networks
        }
        for subject in self._subjects.values() if moved else ():
            for address in list(subject.seen):
                if any(address in network for network in moved):
                    subject.seen.remove(address)

    def _subject(self, peer: Peer) -> _Subject:
        found = self._subjects.get(peer.facts.id)
        if found is None:
            found = self._subjects[peer.facts.id] = _Subject(Schedule(self._recheck, self._raise_after))
        return found

    # -- what asks for a look -------------------------------------------------------------------------------

    def on_large(self, peer: Peer, segment: Segment, now: float, unix: float) -> None:
        """Large packets go to the peer."""
        subject = self._subject(peer)
        self._see(subject, segment, now)
        look = subject.schedule.on_traffic(now)
        if look is not None and subject.task is None:
            self._look(peer, subject, look, "traffic", now, unix)

    def on_traffic(self, peer: Peer, now: float, unix: float) -> None:
        """Packets of whatever size went to and fro: the first of a peer are a reason to find out what fits."""
        subject = self._subject(peer)
        if peer.learned is None and subject.task is None and subject.schedule.on_traffic(now) is not None:
            self._look(peer, subject, Look.SEARCH, "traffic", now, unix)

    def on_resent(self, peer: Peer, segment: Segment, now: float, unix: float) -> None:
        """A large segment left again after its flow was silent."""
        subject = self._subject(peer)
        self._see(subject, segment, now)
        stuck = self._stalled.add(peer.facts.id, segment, now)
        self._on_hint(peer, subject, "resent", now, unix, strong=stuck)

    def on_too_big(self, peer: Peer, size: int, seen: bool, now: float, unix: float) -> None:
        """A router says that inner packets of `size` bytes are the largest. `seen`: it has seen packets of ours.

        That no more fits than what is in force is no news: our own probes make routers say so.
        """
        if peer.value.mtu is not None and size >= peer.value.mtu:
            return
        self._on_hint(
            peer, self._subject(peer), "icmp", now, unix, likely=size, word=size if seen else None, strong=seen
        )

    def _on_hint(
        self,
        peer: Peer,
        subject: _Subject,
        cause: str,
        now: float,
        unix: float,
        likely: int | None = None,
        word: int | None = None,
        strong: bool = False,
    ) -> None:
        peer.tally.hints += 1
        if subject.task is not None and subject.task.look is Look.SEARCH:
            subject.task.cause = cause
            subject.task.word = subject.task.word if word is None else word
            self._prober.hurry(peer.facts.id)
        elif subject.schedule.on_hint(now, strong=strong):
            self._look(peer, subject, Look.SEARCH, cause, now, unix, likely=likely, word=word)

    def on_other_path(self, peer: Peer, why: str, now: float, unix: float) -> None:
        """Its packets take another way now."""
        subject = self._subject(peer)
        self._table.note(peer, "kernel", None, "changed", why, unix)
        subject.schedule.search_soon()
        if subject.task is not None or now - subject.large_at <= _AWAKE * self._recheck:
            self._look(peer, subject, Look.SEARCH, "path", now, unix)

    def probe(self, peer: Peer, unix: float) -> None:
        """An operator asks. Raises ConflictError where it cannot be."""
        subject = self._subject(peer)
        obstacle = self._obstacle(peer, subject)
        if obstacle is not None:
            raise ConflictError(f"{peer.facts.name} cannot be probed: {obstacle.why}", fix=obstacle.fix)
        self._start(peer, subject, Look.SEARCH, "asked", unix)

    def forget(self, peer: Peer, now: float, unix: float) -> None:
        """Drops what was learned, and searches again if that may be."""
        subject = self._subjects.pop(peer.facts.id, None)
        self._prober.cancel(peer.facts.id)
        self._stalled.forget(peer.facts.id)
        self._host.act(peer, self._table.forget(peer, unix))
        self._hands.keep(peer)
        fresh = self._subject(peer)
        if subject is not None:
            fresh.seen = subject.seen
        self._look(peer, fresh, Look.SEARCH, "asked", now, unix)

    def tick(self, now: float, unix: float) -> None:
        """What is due by the clock alone."""
        self._stalled.expire(now)
        for peer_id, subject in list(self._subjects.items()):  # what the host does may change them
            peer = self._table.peers.get(peer_id)
            if peer is None or subject.task is not None:
                continue
            if subject.retry is not None and now >= subject.retry[0]:
                _, _, look, cause = subject.retry
                self._look(peer, subject, look, cause, now, unix)
                continue
            due = subject.schedule.next_look()
            if due is not None and now >= due:
                before, subject.large_before = subject.large_before, self._hands.large_packets(peer)
                if subject.large_before > before:  # now, not only some time since: a session may be about to end
                    self._look(peer, subject, Look.RAISE, "time", now, unix)

    # -- looks become orders --------------------------------------------------------------------------------

    def _look(
        self,
        peer: Peer,
        subject: _Subject,
        look: Look,
        cause: str,
        now: float,
        unix: float,
        *,
        likely: int | None = None,
        word: int | None = None,
    ) -> None:
        if peer.value.state == "pinned":
            subject.retry = None
            return
        obstacle = self._obstacle(peer, subject)
        if obstacle is None:
            self._start(peer, subject, look, cause, unix, likely=likely, word=word)
            return
        tries = 0 if subject.retry is None else subject.retry[1]
        if tries < _RETRIES and self._hands.is_asleep(peer):  # the packet that we heard of may be waking it just now
            subject.retry = now + _RETRY, tries + 1, look, cause
            return
        subject.retry = None
        subject.held = obstacle is not _ASLEEP
        self._learn_nothing(peer, subject, str(obstacle), word, now, unix)

    def _obstacle(self, peer: Peer, subject: _Subject) -> Obstacle | None:
        return self._standing_obstacle(peer, subject) or (_ASLEEP if self._hands.is_asleep(peer) else None)

    def _standing_obstacle(self, peer: Peer, subject: _Subject) -> Obstacle | None:
        """What somebody has to change, and what no packet of the peer's does away with."""
        found = self._hands.obstacle(peer)
        if found is not None:
            return found
        if self._table.limit(peer) is None:
            return Obstacle(f"{peer.facts.device} is not there")
        return None if self._candidates(peer, subject) else _NO_ADDRESS

    def _candidates(self, peer: Peer, subject: _Subject) -> tuple[Address, ...]:
        """Addresses that may answer: the operator's word, the peer's own, those that traffic went to."""
        if peer.facts.probe_address is not None:
            return (peer.facts.probe_address,)
        own = [network.network_address for network in peer.facts.prefixes if network.prefixlen == network.max_prefixlen]
        return tuple(dict.fromkeys([*own[: _CANDIDATES - _SEEN], *subject.seen, *own]))[:_CANDIDATES]

    def _most(self, peer: Peer, limit: int) -> int:
        """The largest packet worth a probe, bytes: what is larger leaves this machine in fragments, or not at all."""
        room = self._hands.room(peer)
        if room is None or peer.facts.overhead is None:
            return limit
        inside = room - peer.facts.overhead
        sizes = range(min(inside, limit), 0, -1)
        return next((size for size in sizes if peer.facts.as_sent(size, limit) <= inside), limit)

    def _see(self, subject: _Subject, segment: Segment, now: float) -> None:
        subject.large_at = now
        address = segment.destination
        if address is not None and address not in subject.seen and not address.is_multicast:
            subject.seen.appendleft(address)

    def _start(
        self,
        peer: Peer,
        subject: _Subject,
        look: Look,
        cause: str,
        unix: float,
        *,
        likely: int | None = None,
        word: int | None = None,
    ) -> None:
        facts, limit = peer.facts, self._table.limit(peer)
        assert limit is not None
        overhead = facts.overhead or 0
        most = self._most(peer, limit)
        known = limit if peer.learned is None else min(peer.learned.mtu, limit)
        if known > most:
            look = Look.SEARCH
        rtt = None if peer.learned is None or look is Look.SEARCH else peer.learned.rtt

        def as_sent(size: int) -> int:
            return facts.as_sent(size, limit)

        def make() -> Search | Check:
            if look is Look.CHECK:
                return Check(known, rtt=rtt)
            lowest = known if look is Look.RAISE else min(max(_SMALLEST, BASE_MTU4 - overhead), most)
            return Search(
                lowest,
                most + 1,
                overhead=overhead,
                as_sent=as_sent,
                likely=[] if likely is None else [likely],
                in_force=min(known, most) if look is Look.SEARCH else None,
                rtt=rtt,
            )

        order = Order(
            peer=facts.id,
            device=facts.device,
            addresses=self._candidates(peer, subject),
            make=make,
            outer_length=lambda size: as_sent(size) + overhead,
            outer=self._hands.outer(peer),
            segments=None if look is Look.CHECK else self._hands.segments(peer),
            urgent=cause != "traffic",
            tcp=facts.kind == "wireguard",
            through_tunnel=facts.kind == "wireguard",
        )
        subject.task = _Task(order, look, known, cause, word)
        subject.retry = None
        if look is Look.SEARCH:
            self._host.act(peer, self._table.search_begins(peer, unix))
        self._prober.submit(order)

    # -- what the prober tells ------------------------------------------------------------------------------

    def on_news(self, news: News, now: float, unix: float) -> None:
        """Something about an order."""
        peer = self._table.peers.get(news.order.peer)
        subject = self._subjects.get(news.order.peer)
        if peer is None or subject is None or subject.task is None or subject.task.order is not news.order:
            return  # about an order that is none any more
        match news:
            case Fell():
                subject.task.proven = True
                subject.schedule.known = False  # the search may yet end without a word
                self._on_fell(peer, news, now, unix)
            case RoundEnded():
                subject.task.proven = subject.task.proven or _is_proof(news.round, subject.task.before)
                if subject.task.look is not Look.CHECK:
                    self._host.tell("probe-round", peer.facts.id, _round_details(news.round))
            case Ended():
                self._on_ended(peer, subject, subject.task, news, now, unix)

    def _on_fell(self, peer: Peer, news: Fell, now: float, unix: float) -> None:
        before = peer.value.mtu
        flows = self._stalled.count(peer.facts.id, news.size, now)
        self._host.act(peer, self._table.fell(peer, news.size, news.text, unix, flows))
        self._heal(peer, before, now)

    def _heal(self, peer: Peer, before: int | None, now: float) -> None:
        """Has the stalled flows told, if less is in force than before."""
        if peer.value.mtu is not None and before is not None and peer.value.mtu < before:
            self._hands.answer_stalled(peer, self._stalled.take(peer.facts.id, peer.value.mtu, now))

    def _on_ended(self, peer: Peer, subject: _Subject, task: _Task, news: Ended, now: float, unix: float) -> None:
        subject.task = None
        peer.tally.probes += news.probes
        peer.tally.rounds += news.rounds
        result = news.result
        verdict = None if result is None else result.verdict
        if task.look is not Look.CHECK:
            self._host.tell("probe-round", peer.facts.id, _end_details(news, _fix(peer, news)))
        if verdict is Verdict.DOUBT or (verdict is Verdict.AWAY and task.look is Look.RAISE):
            # What was lost may be the peer, or its path: a search tells them apart.
            self._look(peer, subject, Look.SEARCH, "loss", now, unix)
            return
        if result is None or result.mtu is None:
            self._on_nothing(peer, subject, task, news, now, unix)
        elif task.look is Look.CHECK:
            subject.schedule.on_checked(now)
            self._host.act(peer, self._table.confirmed(peer, news.rtt, unix))
        elif verdict is Verdict.INEXACT and result.mtu < task.before and not task.proven:
            # Larger sizes were tried too seldom, or had bad luck: nothing gets smaller for that.
            self._learn_nothing(peer, subject, result.text, None, now, unix)
        else:
            self._on_found(peer, subject, task, result, news, now, unix)

    def _on_found(
        self, peer: Peer, subject: _Subject, task: _Task, result: Result, news: Ended, now: float, unix: float
    ) -> None:
        limit = self._table.limit(peer)
        assert result.mtu is not None
        learned = Learned(
            mtu=result.mtu,
            ceiling=result.ceiling,
            exact=result.exact,
            source="probe",
            why=result.text,
            found=unix,
            checked=unix,
            direction="to-peer" if news.method == "tcp" else "both",
            rtt=news.rtt,
        )
        in_force = peer.value.mtu
        flows = self._stalled.count(peer.facts.id, result.mtu, now)
        self._host.act(peer, self._table.found(peer, learned, unix, flows))
        self._heal(peer, in_force, now)
        self._hands.keep(peer)
        lowered = result.mtu < task.before
        if task.cause in HINTS and not lowered:
            peer.tally.hints_refuted += 1
            subject.schedule.on_refuted(now)
        at_limit = limit is not None and result.mtu >= limit
        subject.schedule.on_found(
            now, lowered=lowered, raised=result.mtu > task.before, exact=result.exact, at_limit=at_limit
        )
        subject.large_before = self._hands.large_packets(peer)

    def _on_nothing(self, peer: Peer, subject: _Subject, task: _Task, news: Ended, now: float, unix: float) -> None:
        fix = _fix(peer, news)
        why = f"{news.text}; {fix}" if fix else news.text
        cannot_be_probed = news.result is None and news.held is None
        self._learn_nothing(peer, subject, why, task.word if cannot_be_probed else None, now, unix)

    def _learn_nothing(
        self, peer: Peer, subject: _Subject, why: str, word: int | None, now: float, unix: float
    ) -> None:
        """`word`: the size that a router named which saw our traffic; believed of a peer that nothing can probe."""
        subject.schedule.on_silence(now)
        self._host.act(peer, self._table.search_ended(peer, why, unix))
        if word is not None and (peer.learned is None or peer.learned.source == "icmp"):
            text = f"a router that saw our packets says that {word} fit; {why}"
            self._host.act(peer, self._table.hinted(peer, word, text, unix))


def _is_proof(of: Round, size: int) -> bool:
    """Whether a round has proven that `size` passes no more: it, or less, was lost often enough beside a smaller."""
    smallest = min(of.answered, default=size)
    return any(times >= MAX_PROBES and smallest < lost <= size for lost, times in of.lost.items())


def _round_details(of: Round) -> dict[str, object]:
    return {
        "round": of.number,
        "probes": of.probes,
        "answered": [{"size": size, "rtt": round(rtt, 6)} for size, rtt in sorted(of.answered.items())],
        "lost": [{"size": size, "times": times} for size, times in sorted(of.lost.items())],
        "text": of.text,
        "done": False,
    }


def _end_details(news: Ended, fix: str | None) -> dict[str, object]:
    result = news.result
    return {
        "done": True,
        "verdict": "held" if news.held is not None else "away" if result is None else result.verdict.value,
        "mtu": None if result is None else result.mtu,
        "exact": result is not None and result.exact,
        "text": news.text if result is None else result.text,
        "fix": fix,
        "address": None if news.address is None else str(news.address),
        "method": news.method,
        "rounds": news.rounds,
        "probes": news.probes,
    }


def _fix(peer: Peer, news: Ended) -> str | None:
    """What would help where nothing was learned."""
    if news.result is not None:
        return None
    if news.held is None or peer.facts.outer is None:
        return _SILENT if peer.facts.probe_address is None else "see that its probe_address answers `ping`"
    family = "" if peer.facts.outer.address.version == 4 else "-6 "
    return (
        f"this machine's own cache may be wrong about the path to {peer.facts.outer.address}: "
        f"`ip {family}route flush cache` empties it"
    )
