"""Program and model side by side on the same packets."""

from __future__ import annotations

from collections import Counter

from bpf.kernel import UNSPEC, Kernel
from bpf.packets import IPV4, Packet, limits_of, peer_of
from bpf.witness import describe
from mssclamp.wire.clamp import Direction, Reason, clamp


class Comparison:
    """Runs packets through both, compares what comes out and what is counted, and keeps the books."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._counts = kernel.counts()
        self._peer_counts = kernel.peer_counts()
        self.hits: Counter[Reason | None] = Counter()

    def check(self, packet: Packet) -> tuple[bytes, Reason | None]:
        """What both make of the packet. Fails, and shows the packet, if they differ."""
        expected, reason = clamp(packet.data, packet.ethertype, packet.link_header, packet.direction, limits_of)
        verdict, data = self._kernel.run(packet)
        assert verdict == UNSPEC, f"verdict {verdict}: {describe(packet)}"
        assert data == expected, f"{_name(reason)}, but {_difference(data, expected)}: {describe(packet)}"
        if reason is None:
            counts = self._kernel.counts()
            assert counts == self._counts, f"counted {counts - self._counts}: {describe(packet)}"
        else:
            self._counts[reason] += 1
            count = self._kernel.count(reason)
            assert count == self._counts[reason], f"not counted as {_name(reason)}: {describe(packet)}"
        if reason in (Reason.CLAMPED, Reason.WOULD_CLAMP):
            self._count_peer(packet, reason)
        self.hits[reason] += 1
        return data, reason

    def check_counts(self) -> None:
        """Fails if anything was counted beyond what each packet had to be."""
        assert self._kernel.counts() == self._counts
        assert self._kernel.peer_counts() == self._peer_counts

    def _count_peer(self, packet: Packet, reason: Reason) -> None:
        at, size = (12, 4) if packet.ethertype == IPV4 else (8, 16)
        if packet.direction is Direction.EGRESS:
            at += size
        index = peer_of(packet.datagram[at : at + size])
        assert index is not None
        clamped, would_clamp = self._peer_counts[index]
        if reason is Reason.CLAMPED:
            self._peer_counts[index] = clamped + 1, would_clamp
        else:
            self._peer_counts[index] = clamped, would_clamp + 1


def _difference(data: bytes, expected: bytes) -> str:
    if len(data) != len(expected):
        return f"{len(data)} bytes came out, not {len(expected)}"
    bytewise = enumerate(zip(data, expected, strict=True))
    return ", ".join(f"byte {i} is {found:#04x}, not {right:#04x}" for i, (found, right) in bytewise if found != right)


def _name(reason: Reason | None) -> str:
    return "nothing" if reason is None else reason.name.lower()
