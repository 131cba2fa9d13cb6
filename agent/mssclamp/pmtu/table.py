"""The MTU table: every peer with the value in force and the evidence for it.

PURE: time comes in as Unix seconds, what changed goes out as `Change`s. A value comes from the operator (pins), from
what was learned of the peer's path (probes; or, where nothing can be probed, the word of routers that saw our traffic),
or else from the device: nothing gets smaller before a round has proven that it must.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from mssclamp.errors import RequestError
from mssclamp.wire.mtu import WIREGUARD_PADDING, wireguard_padded

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
State = Literal["unprobed", "searching", "confirmed", "blackhole", "hinted", "pinned"]
Direction = Literal["both", "to-peer"]

EVIDENCE_KEPT = 64

MIN_MTU = 576
"""Smallest pin: what every IPv4 host takes (RFC 791, section 3.2)."""

MAX_MTU = 65535

HINT_LIFE = 600.0
"""Seconds for which the word of a router holds (as the kernel's path MTU cache)."""


@dataclass(frozen=True)
class Outer:
    """Where a peer's outer packets go. `protocol`: IP's number; `port`: 0 where there is none or it is not known."""

    address: Address
    protocol: int
    port: int = 0
    mark: int = 0
    """Of the packets, by which they may be routed."""
    source_port: int = 0
    """Ours; 0 where it is not known."""


@dataclass(frozen=True)
class PeerFacts:
    """What is said about a peer rather than measured. `mtu` is the configuration's pin."""

    id: str
    name: str
    device: str
    prefixes: tuple[Network, ...]
    kind: Literal["wireguard", "tunnel", "static"] = "static"
    public_key: str | None = None
    endpoint: str | None = None
    overhead: int | None = None
    mtu: int | None = None
    mode: Literal["observe", "enforce"] | None = None
    outer: Outer | None = None
    probe: bool = True
    probe_address: Address | None = None

    def as_sent(self, size: int, device_mtu: int) -> int:
        """The size that an inner packet of `size` bytes has on its way: WireGuard pads."""
        return wireguard_padded(size, device_mtu) if self.kind == "wireguard" else size


@dataclass(frozen=True)
class Learned:
    """What is known of one peer's path. Sizes are inner packets, times Unix seconds.

    `mtu`: the largest size proven; `ceiling`: the smallest known not to pass, None where the device takes no more;
    `exact`: nothing lies between them. `trusted`: seen to be so by this daemon, not only remembered.
    """

    mtu: int
    ceiling: int | None
    exact: bool
    source: Literal["probe", "icmp"]
    why: str
    found: float
    checked: float
    direction: Direction | None = None
    rtt: float | None = None
    trusted: bool = True


@dataclass(frozen=True)
class Value:
    """An MTU in force (bytes; None while the device is away and nobody pinned one) and where it comes from."""

    mtu: int | None
    state: State
    source: Literal["device", "probe", "icmp", "pin"]
    why: str

    @property
    def has_evidence(self) -> bool:
        """Whether there is more to it than the device, so that senders may be told."""
        return self.state == "pinned" or self.source != "device"


@dataclass
class Tally:
    """What happened to one peer, counted by the daemon."""

    blackholes: int = 0
    hints: int = 0
    hints_refuted: int = 0
    probes: int = 0
    rounds: int = 0


@dataclass(frozen=True)
class Observation:
    """One fact that led to a value. `at`: Unix seconds; `size`: bytes."""

    at: float
    source: str
    size: int | None
    verdict: str
    text: str

    def says_as_much_as(self, other: Observation) -> bool:
        """Whether only time and words differ."""
        return (self.source, self.size, self.verdict) == (other.source, other.size, other.verdict)


@dataclass(frozen=True)
class Change:
    """Something to tell: `event` and `details` as on the wire."""

    event: Literal["peer-added", "peer-removed", "mtu-changed", "blackhole"]
    peer: str
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass
class Peer:
    """One row."""

    facts: PeerFacts
    value: Value
    changed: float
    pin: int | None = None
    """By clampctl; beats the configuration's."""
    learned: Learned | None = None
    searching: bool = False
    """Whether a full search is under way."""
    unprobed_why: str | None = None
    """Why nothing is learned, and what would help."""
    tally: Tally = field(default_factory=Tally)
    evidence: deque[Observation] = field(default_factory=lambda: deque(maxlen=EVIDENCE_KEPT))


class Table:
    """All peers, by id."""

    def __init__(self, pins: Mapping[str, int] | None = None, learned: Mapping[str, Learned] | None = None) -> None:
        self.peers: dict[str, Peer] = {}
        self._pins = dict(pins or {})  # also of peers that are not there now
        self._learned = dict(learned or {})  # the same; trusted by nobody yet
        self._device_mtus: dict[str, int] = {}
        self._hinted: set[str] = set()
        self.min_outer = 1280
        """Bytes of outer packet: a path that does not carry them is a black hole."""
        self.within: Mapping[str, str] = {}
        """Peers whose outer packets go to an address behind another peer: a tunnel in a tunnel."""

    def update(self, facts: Iterable[PeerFacts], device_mtus: Mapping[str, int], now: float) -> list[Change]:
        """Takes the peers that there are and the MTUs of the devices that there are; returns what changed.

        A peer that goes takes its bounds along; they are there again when it comes back.
        """
        # Some devices take more (loopback 65536, dummies anything), but no IP packet is larger.
        self._device_mtus = {device: min(mtu, MAX_MTU) for device, mtu in device_mtus.items()}
        wanted = {each.id: each for each in facts}
        changes = [Change("peer-removed", peer_id) for peer_id in self.peers if peer_id not in wanted]
        for change in changes:
            learned = self.peers.pop(change.peer).learned
            if learned is not None:
                self._learned[change.peer] = replace(learned, trusted=False)
        for peer_id, each in wanted.items():
            peer = self.peers.get(peer_id)
            if peer is None:
                unknown = Value(None, "unprobed", "device", "")
                peer = Peer(each, unknown, now, self._pins.get(peer_id), self._learned.pop(peer_id, None))
                value = peer.value = self._value(peer)
                peer.evidence.append(_observation(value, now))
                self.peers[peer_id] = peer
                changes.append(Change("peer-added", peer_id, {"mtu": value.mtu, "why": value.why}))
            else:
                peer.facts = each
                changes += self._revalue(peer, now)
        return changes + (self.revalue(now) if self.within else [])

    def check_pin(self, peer: Peer, mtu: int) -> None:
        """Raises RequestError for a value that cannot be right."""
        if not MIN_MTU <= mtu <= MAX_MTU:
            raise RequestError(f"an MTU of {mtu} is out of range", fix=f"choose {MIN_MTU} to {MAX_MTU}")
        limit = self._device_mtus.get(peer.facts.device)
        if limit is not None and mtu > limit:
            raise RequestError(
                f"{mtu} is over the MTU of {peer.facts.device}, which is {limit}",
                fix=f"pin {limit} or less, or raise the device's MTU first",
            )

    def pin(self, peer: Peer, mtu: int, now: float) -> list[Change]:
        """Puts the operator's value, which `check_pin` let pass, in force."""
        self._pins[peer.facts.id] = peer.pin = mtu
        return self._revalue(peer, now)

    def unpin(self, peer: Peer, now: float) -> list[Change]:
        """Returns to what is known without clampctl's pin."""
        self._pins.pop(peer.facts.id, None)
        peer.pin = None
        return self._revalue(peer, now)

    # -- what is learned ------------------------------------------------------------------------------------

    def limit(self, peer: Peer) -> int | None:
        """The largest packet that its device takes, bytes; None while there is no device."""
        return self._device_mtus.get(peer.facts.device)

    def search_begins(self, peer: Peer, now: float) -> list[Change]:
        """A full search is under way."""
        peer.searching = True
        return self._revalue(peer, now)

    def fell(self, peer: Peer, size: int, text: str, now: float, flows: int = 0) -> list[Change]:
        """A round has proven that the size in force passes no more, and that `size` does; the search goes on.

        `flows`: how many are held as stalled.
        """
        known, limit = peer.learned, self.limit(peer)
        peer.learned = Learned(
            mtu=size,
            ceiling=limit if known is None else known.mtu if limit is None else min(known.mtu, limit),
            exact=False,
            source="probe",
            why=text,
            found=now,
            checked=now,
            rtt=None if known is None else known.rtt,
        )
        return self._lose(peer, known, flows, now)

    def found(self, peer: Peer, learned: Learned, now: float, flows: int = 0) -> list[Change]:
        """A search has ended with a size that passes. `flows`: how many are held as stalled."""
        known = peer.learned
        peer.learned, peer.searching, peer.unprobed_why = learned, False, None
        return self._lose(peer, known, flows, now)

    def confirmed(self, peer: Peer, rtt: float | None, now: float) -> list[Change]:
        """A check was answered: what is learned holds."""
        if peer.learned is not None:
            known = peer.learned
            peer.learned = replace(known, checked=now, trusted=True, rtt=known.rtt if rtt is None else rtt)
        return self._revalue(peer, now)

    def search_ended(self, peer: Peer, why: str, now: float) -> list[Change]:
        """A search has ended without a word about the path: everything stays."""
        peer.searching = False
        if peer.learned is None:
            peer.unprobed_why = why
        if not peer.evidence or peer.evidence[-1].text != why:
            peer.evidence.append(Observation(now, "probe", None, "nothing learned", why))
        return self._revalue(peer, now)

    def search_dropped(self, peer: Peer) -> None:
        """The search under way is none any more, whatever it would have found."""
        peer.searching = False
        peer.value = self._value(peer)  # no more of it than the state can be another

    def hinted(self, peer: Peer, size: int, text: str, now: float) -> list[Change]:
        """The word of a router that saw our traffic, about a peer whom nothing can probe; holds for HINT_LIFE.

        It never raises what is in force (RFC 1191, section 3; RFC 8201, section 4).
        """
        if peer.value.mtu is None or size >= peer.value.mtu:
            return []
        peer.learned = Learned(
            mtu=size, ceiling=None, exact=False, source="icmp", why=text, found=now, checked=now, direction="to-peer"
        )
        self._hinted.add(peer.facts.id)
        return self._revalue(peer, now)

    def expire_hints(self, now: float) -> list[Change]:
        """Drops what routers said too long ago."""
        changes = []
        for peer_id in list(self._hinted):
            peer = self.peers.get(peer_id)
            if peer is None or peer.learned is None or peer.learned.source != "icmp":
                self._hinted.discard(peer_id)
            elif not 0 <= now - peer.learned.found < HINT_LIFE:  # below 0: somebody has set the clock
                self._hinted.discard(peer_id)
                peer.learned = None
                changes += self._revalue(peer, now)
        return changes

    def forget(self, peer: Peer, now: float) -> list[Change]:
        """Drops what was learned, evidence included."""
        peer.learned, peer.searching, peer.unprobed_why = None, False, None
        peer.evidence.clear()
        changes = self._revalue(peer, now)
        if not peer.evidence:
            peer.evidence.append(_observation(peer.value, now))
        return changes

    def note(self, peer: Peer, source: str, size: int | None, verdict: str, text: str, now: float) -> None:
        """Keeps an observation that changes nothing by itself."""
        peer.evidence.append(Observation(now, source, size, verdict, text))

    def revalue(self, now: float) -> list[Change]:
        """Works out every value anew."""
        outermost_first = sorted(self.peers.values(), key=self._depth)
        return [change for peer in outermost_first for change in self._revalue(peer, now)]

    # -- the value in force ---------------------------------------------------------------------------------

    def _lose(self, peer: Peer, known: Learned | None, flows: int, now: float) -> list[Change]:
        """What passes became less: where that lowers what is in force, it was a black hole.

        Not where it is only seen for the first time, unless flows were held up by it.
        """
        before = peer.value.mtu
        changes = self._revalue(peer, now)
        value = peer.value
        if before is None or value.mtu is None or value.mtu >= before:
            return changes
        if (known is None or not known.trusted) and not flows:
            return changes
        peer.tally.blackholes += 1
        details = {"size": before, "mtu": value.mtu, "why": value.why, "flows": flows}
        return [Change("blackhole", peer.facts.id, details), *changes]

    def _revalue(self, peer: Peer, now: float) -> list[Change]:
        value = self._value(peer)
        old, peer.value = peer.value, value
        if (value.mtu, value.source, value.why) != (old.mtu, old.source, old.why):
            fresh = _observation(value, now)
            if peer.evidence and peer.evidence[-1].says_as_much_as(fresh):
                peer.evidence.pop()  # found to be so again: the last time is what counts
            peer.evidence.append(fresh)
        if value.mtu == old.mtu:
            return []
        peer.changed = now
        return [Change("mtu-changed", peer.facts.id, {"old": old.mtu, "new": value.mtu, "why": value.why})]

    def _value(self, peer: Peer) -> Value:
        facts, learned = peer.facts, peer.learned
        limit = self._device_mtus.get(facts.device)
        asked, by = (peer.pin, "clampctl") if peer.pin is not None else (facts.mtu, "the configuration")
        if asked is not None:
            if limit is not None and asked > limit:
                why = f"pinned to {asked} by {by}, but {facts.device} takes only {limit}"
                return Value(limit, "pinned", "device", why)
            return Value(asked, "pinned", "pin", f"pinned by {by}")
        if limit is None:
            return Value(None, "unprobed", "device", f"{facts.device} is not there")
        if learned is None:
            state: State = "searching" if peer.searching else "unprobed"
            more = f"; {peer.unprobed_why}" if peer.unprobed_why else ""
            value = Value(limit, state, "device", f"the MTU of {facts.device}{more}")
        elif learned.mtu > limit:
            why = f"the MTU of {facts.device}; {learned.why}"
            value = Value(limit, self._state(peer, learned), "device", why)
        else:
            value = Value(learned.mtu, self._state(peer, learned), learned.source, learned.why)
        return self._inside(facts, value)

    def _depth(self, peer: Peer) -> int:
        """In how many other peers' tunnels its own lies."""
        depth, around = 0, self.within.get(peer.facts.id)
        while around is not None and depth < len(self.within):  # else they go round in circles
            depth, around = depth + 1, self.within.get(around)
        return depth

    def _inside(self, facts: PeerFacts, value: Value) -> Value:
        """Never above the peer through whose tunnel this one's goes."""
        around = self.peers.get(self.within.get(facts.id, ""))
        if around is None or around.value.mtu is None or value.mtu is None or facts.overhead is None:
            return value
        room = around.value.mtu - facts.overhead
        if facts.kind == "wireguard":
            room = room // WIREGUARD_PADDING * WIREGUARD_PADDING
        if room >= value.mtu or room < MIN_MTU:
            return value
        why = f"inside {around.facts.name}: its {around.value.mtu} less {facts.overhead}"
        source = around.value.source if around.value.has_evidence else "device"
        return Value(room, value.state, source, why)

    def _state(self, peer: Peer, learned: Learned) -> State:
        if learned.source == "icmp":
            return "hinted"
        if peer.searching or not learned.trusted or not learned.exact:
            return "searching"
        least = self.min_outer - (peer.facts.overhead or 0)
        return "confirmed" if learned.ceiling is None or learned.ceiling > least else "blackhole"


def _observation(value: Value, now: float) -> Observation:
    return Observation(now, value.source, value.mtu, "in force", value.why)
