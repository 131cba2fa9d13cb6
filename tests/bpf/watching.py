"""Flows towards peers, and the programs' memory of them.

Time is made to pass by writing what the programs remember of a flow back with an older time.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

from bpf.answering import AnsweringKernel
from bpf.kernel import UNSPEC
from bpf.outgoing import INDEX, Outgoing, address_of
from bpf.packets import ACK, DONT_FRAGMENT, IPV4, IPV6, NEAR, NOP, TCP, Extension, ethernet, ipv4, ipv6

PEER = "unproven 1420"
OTHER = "unproven 1500"
MILLISECOND = 10**6
NOT_YET, SILENCE = 50, 160
"""Milliseconds, well below 150 and just above it: the programs' clock ticks every few of these, and the machine may be
slow."""
HELD = 3010

STALL = struct.Struct("=IIQII")
"""struct clampd_stall: tag, end, last, peer, size."""

AGES = 2**62
"""ns; longer than any machine runs."""


@dataclass(frozen=True)
class Flow:
    """One TCP connection towards a peer, this side's part of it."""

    version: int = 4
    link_header: bool = True
    peer: str = PEER
    port: int = 40000
    source: bytes | None = None

    def segment(
        self,
        start: int,
        payload: int = 1300,
        *,
        gso_size: int = 0,
        options: bytes = b"",
        protocol: int = TCP,
        fragment: int = DONT_FRAGMENT,
        extensions: tuple[Extension, ...] = (),
        back: bool = False,
        acknowledged: int = 7,
    ) -> Outgoing:
        """`payload` bytes from sequence number `start` on; `back`: of the connection's other direction."""
        ports = (443, self.port) if back else (self.port, 443)
        words = 5 + len(options) // 4
        body = struct.pack("!HHII", *ports, start % 2**32, acknowledged % 2**32)
        body += struct.pack("!BBHHH", words << 4, ACK, 64240, 0xABCD, 0)
        body += options + bytes(payload)
        near, far = self.source or NEAR[self.version], address_of(self.peer, self.version)
        source, destination = (far, near) if back else (near, far)
        if self.version == 4:
            ip_options = b"" if self.link_header else NOP * 4  # see bpf.outgoing
            data = ipv4(source, destination, body, options=ip_options, protocol=protocol, fragment=fragment)
        else:
            data = ipv6(source, destination, body, extensions=extensions, protocol=protocol)
        if self.link_header:
            data = ethernet(data, IPV4 if self.version == 4 else IPV6)
        return Outgoing(data, self.link_header, gso_size, -(-payload // gso_size) if gso_size else 0)


FLOWS = [Flow(version, link_header) for version in (4, 6) for link_header in (True, False)]


class Watch:
    """The programs, what they count, and their memory of flows."""

    def __init__(self, kernel: AnsweringKernel) -> None:
        self.kernel = kernel
        self.instance = kernel.instance
        self._stalls = self.instance.maps["clampd_stall"]

    def sends(self, packet: Outgoing, peer: str = PEER) -> tuple[int, int]:
        """Lets a packet go out, which must go on as it is; by how much (large, resent) of the peer rise."""
        before = self.counts(peer)
        verdict, data, _ = self.kernel.run(packet)
        assert (verdict, data) == (UNSPEC, packet.data)
        after = self.counts(peer)
        return after[0] - before[0], after[1] - before[1]

    def receives(self, packet: Outgoing) -> None:
        """Lets a packet come in from the peer, which must go on as it is."""
        program = self.instance.programs["clampd_l2_in" if packet.link_header else "clampd_l3_in"]
        assert program.test_run(packet.data)[:2] == (UNSPEC, packet.data)

    def counts(self, peer: str) -> tuple[int, int]:
        """(large, resent)."""
        counters = self.instance.counters(INDEX[peer])
        return counters.large, counters.resent

    def forget(self) -> None:
        """Empties the memory."""
        for place in list(self._flows()):
            self._stalls.put(struct.pack("=I", place), bytes(STALL.size))

    def wait(self, milliseconds: int) -> None:
        """For the flows so much time has passed since their last segment."""
        for place, (tag, end, _, *rest) in self._flows().items():
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self.put(place, tag, end, now - milliseconds * MILLISECOND, *rest)

    def the_flow(self) -> tuple[int, int, int]:
        """Place, tag and end of the only flow that is remembered."""
        ((place, (tag, end, *_)),) = self._flows().items()
        return place, tag, end

    def put(self, place: int, tag: int, end: int, last: int, peer: int = 0, size: int = 0) -> None:
        """Writes one place."""
        self._stalls.put(struct.pack("=I", place), STALL.pack(tag, end, last, peer, size))

    def _flows(self) -> dict[int, tuple[int, ...]]:
        found = {}
        for key in list(self._stalls):
            stall = STALL.unpack(self._stalls.get(key) or b"")
            if stall[0]:
                found[struct.unpack("=I", key)[0]] = stall
        return found
