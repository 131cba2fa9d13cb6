"""TCP flows that sent a segment again after a silence: whom to tell first once a verdict has lowered their peer's MTU.

They wait for their next retransmission, seconds away perhaps; an answer that quotes the segment moves them at once.

PURE: what the programs in the kernel reported comes in, with the time in seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mssclamp.pmtu.table import Address

LIFE = 120.0
"""Seconds for which a flow is remembered: TCP's timer doubles up to that (RFC 6298, section 2.5). To be told what is
true does no harm to one that has moved on."""

MOST = 256
"""Flows of one peer."""


@dataclass(frozen=True)
class Segment:
    """The head of a packet : `link` bytes of link header, then an IP header of `family`. `size`: bytes on the wire."""

    ifindex: int
    family: int
    size: int
    link: int
    head: bytes

    @property
    def destination(self) -> Address | None:
        """Where it goes; None where the head is too short to tell."""
        start, length = (16, 4) if self.family == 4 else (24, 16)
        raw = self.head[self.link + start : self.link + start + length]
        if len(raw) != length:
            return None
        return IPv4Address(raw) if self.family == 4 else IPv6Address(raw)

    @property
    def source(self) -> Address | None:
        """Where it comes from."""
        start, length = (12, 4) if self.family == 4 else (8, 16)
        raw = self.head[self.link + start : self.link + start + length]
        if len(raw) != length:
            return None
        return IPv4Address(raw) if self.family == 4 else IPv6Address(raw)

    @property
    def sequence(self) -> bytes:
        """TCP's sequence number, where it stands in its usual place: the same in a segment that is sent again."""
        first = self.head[self.link : self.link + 1]
        start = (int.from_bytes(first, "big") & 0x0F) * 4 if self.family == 4 else 40
        return self.head[self.link + start + 4 : self.link + start + 8]

    @property
    def flow(self) -> bytes:
        """What is the same in all packets of a flow: addresses, and ports where they stand in their usual place."""
        start, end = (12, 24) if self.family == 4 else (8, 44)
        return self.head[self.link + start : self.link + end]


class StalledFlows:
    """By peer."""

    def __init__(self) -> None:
        self._flows: dict[str, OrderedDict[bytes, tuple[float, Segment]]] = {}

    def add(self, peer: str, segment: Segment, now: float) -> bool:
        """One more, or once more. Returns whether it is the very segment that this flow sent again the last time."""
        flows = self._flows.setdefault(peer, OrderedDict())
        before = flows.pop(segment.flow, None)
        _drop_old(flows, now)
        flows[segment.flow] = now, segment
        while len(flows) > MOST:
            flows.popitem(last=False)
        if before is None or now - before[0] > LIFE or len(segment.sequence) < 4:
            return False
        return before[1].sequence == segment.sequence

    def count(self, peer: str, mtu: int, now: float) -> int:
        """How many segments of a peer do not fit `mtu` bytes."""
        return len(self._waiting(peer, mtu, now))

    def take(self, peer: str, mtu: int, now: float) -> list[Segment]:
        """These segments, each once."""
        waiting = self._waiting(peer, mtu, now)
        self.forget(peer)
        return waiting

    def _waiting(self, peer: str, mtu: int, now: float) -> list[Segment]:
        flows = self._flows.get(peer, OrderedDict[bytes, tuple[float, Segment]]())
        return [segment for at, segment in flows.values() if now - at <= LIFE and segment.size > mtu]

    def forget(self, peer: str) -> None:
        """Drops a peer's."""
        self._flows.pop(peer, None)

    def expire(self, now: float) -> None:
        """Drops what is too old to be told anything."""
        for peer, flows in list(self._flows.items()):
            _drop_old(flows, now)
            if not flows:
                del self._flows[peer]


def _drop_old(flows: OrderedDict[bytes, tuple[float, Segment]], now: float) -> None:
    """They stand in the order of their times."""
    while flows and now - next(iter(flows.values()))[0] > LIFE:
        flows.popitem(last=False)
