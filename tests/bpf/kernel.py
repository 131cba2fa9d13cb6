"""The programs in the kernel, loaded once, with the tests' peers in their maps."""

from __future__ import annotations

import struct
from collections import Counter
from ipaddress import ip_network

from bpf.packets import PEERS, STRANGERS, TEST_RUN_IFINDEX, Packet
from mssclamp.datapath import abi, loader
from mssclamp.datapath.instance import Instance
from mssclamp.wire.clamp import Direction, Limits, Reason

UNSPEC = -1
"""TC_ACT_UNSPEC: other filters go on as if we were not there."""

_PROGRAMS = {
    (True, Direction.INGRESS): "clampd_l2_in",
    (True, Direction.EGRESS): "clampd_l2_eg",
    (False, Direction.INGRESS): "clampd_l3_in",
    (False, Direction.EGRESS): "clampd_l3_eg",
}


def peer_record(limits: Limits, *, enforce_until: int | None = None) -> abi.Peer:
    """The kernel's form of what is in force for a peer."""
    if enforce_until is None:
        enforce_until = abi.FOREVER if limits.enforce else 0
    flags = abi.PEER_CLAMP if limits.clamp else 0
    return abi.Peer(enforce_until, limits.mss4 + 40, limits.mss4, limits.mss6, flags)


class Kernel:
    """The programs, to be run on packets, and what they have counted."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._programs = {hook: instance.programs[name] for hook, name in _PROGRAMS.items()}
        self._reasons = instance.maps["clampd_reason"]

    @classmethod
    def load(cls, ifindex: int = TEST_RUN_IFINDEX) -> Kernel:
        """Compiles and loads the programs and fills their maps with PEERS, on one device."""
        instance = loader.load(64)
        other = ifindex + 1
        for index, peer in enumerate(PEERS):
            instance.put_peer(index, peer_record(peer.limits))
            for prefix in peer.prefixes:
                instance.put_prefix(ifindex, ip_network(prefix), index)
                # The same prefixes on another device lead to other peers, whose limits show if devices are mixed up.
                instance.put_prefix(other, ip_network(prefix), (index + 1) % len(PEERS))
        for prefix in STRANGERS:
            instance.put_prefix(other, ip_network(prefix), 0)
        return cls(instance)

    def close(self) -> None:
        """Lets the programs go."""
        self.instance.close()

    def run(self, packet: Packet) -> tuple[int, bytes]:
        """The program's verdict on a packet, and the packet as it left."""
        verdict, data, _ = self._programs[packet.link_header, packet.direction].test_run(packet.data)
        return verdict, data

    def count(self, reason: Reason) -> int:
        """How many packets have been counted under a reason."""
        raw = self._reasons.get(struct.pack("=I", reason)) or b""
        return sum(struct.unpack(f"={len(raw) // 8}Q", raw))

    def counts(self) -> Counter[Reason]:
        """That for all reasons; those at zero are left out."""
        return +Counter({reason: self.count(reason) for reason in Reason})

    def peer_counts(self) -> list[tuple[int, int]]:
        """(clamped, would_clamp) of each of PEERS."""
        counters = [self.instance.counters(index) for index in range(len(PEERS))]
        return [(each.clamped, each.would_clamp) for each in counters]
