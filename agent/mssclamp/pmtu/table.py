"""The MTU table: every peer with the value in force and the evidence for it.

PURE: time comes in as Unix seconds, what changed goes out as `Change`s. Today values come from the operator (pins) and
from the device; a peer about which nothing is known has its device's limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from mssclamp.errors import RequestError

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

EVIDENCE_KEPT = 64

MIN_MTU = 576
"""Smallest pin: what every IPv4 host takes (RFC 791, section 3.2)."""

MAX_MTU = 65535


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


@dataclass(frozen=True)
class Value:
    """An MTU in force (bytes; None while the device is away and nobody pinned one) and where it comes from."""

    mtu: int | None
    state: Literal["unprobed", "pinned"]
    source: Literal["device", "pin"]
    why: str


@dataclass(frozen=True)
class Observation:
    """One fact that led to a value. `at`: Unix seconds; `size`: bytes."""

    at: float
    source: str
    size: int | None
    verdict: str
    text: str


@dataclass(frozen=True)
class Change:
    """Something to tell: `event` and `details` as on the wire."""

    event: Literal["peer-added", "peer-removed", "mtu-changed"]
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
    evidence: deque[Observation] = field(default_factory=lambda: deque(maxlen=EVIDENCE_KEPT))


class Table:
    """All peers, by id."""

    def __init__(self, pins: Mapping[str, int] | None = None) -> None:
        self.peers: dict[str, Peer] = {}
        self._pins = dict(pins or {})  # also of peers that are not there now
        self._device_mtus: dict[str, int] = {}

    def update(self, facts: Iterable[PeerFacts], device_mtus: Mapping[str, int], now: float) -> list[Change]:
        """Takes the peers that there are and the MTUs of the devices that there are; returns what changed."""
        # Some devices take more (loopback 65536, dummies anything), but no IP packet is larger.
        self._device_mtus = {device: min(mtu, MAX_MTU) for device, mtu in device_mtus.items()}
        wanted = {each.id: each for each in facts}
        changes = [Change("peer-removed", gone) for gone in self.peers if gone not in wanted]
        for change in changes:
            del self.peers[change.peer]
        for peer_id, each in wanted.items():
            peer = self.peers.get(peer_id)
            if peer is None:
                value = self._value(each, self._pins.get(peer_id))
                peer = Peer(each, value, now, self._pins.get(peer_id))
                peer.evidence.append(_observation(value, now))
                self.peers[peer_id] = peer
                changes.append(Change("peer-added", peer_id, {"mtu": value.mtu, "why": value.why}))
            else:
                peer.facts = each
                changes += self._revalue(peer, now)
        return changes

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

    def _revalue(self, peer: Peer, now: float) -> list[Change]:
        value = self._value(peer.facts, peer.pin)
        old, peer.value = peer.value, value
        if value != old:
            peer.evidence.append(_observation(value, now))
        if value.mtu == old.mtu:
            return []
        peer.changed = now
        return [Change("mtu-changed", peer.facts.id, {"old": old.mtu, "new": value.mtu, "why": value.why})]

    def _value(self, facts: PeerFacts, pin: int | None) -> Value:
        limit = self._device_mtus.get(facts.device)
        asked, by = (pin, "clampctl") if pin is not None else (facts.mtu, "the configuration")
        if asked is None:
            why = f"the MTU of {facts.device}" if limit is not None else f"{facts.device} is not there"
            return Value(limit, "unprobed", "device", why)
        if limit is not None and asked > limit:
            return Value(limit, "pinned", "device", f"pinned to {asked} by {by}, but {facts.device} takes only {limit}")
        return Value(asked, "pinned", "pin", f"pinned by {by}")


def _observation(value: Value, now: float) -> Observation:
    return Observation(now, value.source, value.mtu, "in force", value.why)
