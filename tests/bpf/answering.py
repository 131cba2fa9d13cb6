"""The programs that answer oversize packets, with the tests' peers in their maps, and side by side with the model."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

from bpf.kernel import UNSPEC
from bpf.outgoing import PEERS, Outgoing, peer_of, towards
from bpf.packets import IPV4, TEST_RUN_IFINDEX
from bpf.skb import SkBuff
from mssclamp.datapath import abi, loader
from mssclamp.datapath.instance import Instance
from mssclamp.wire import too_big
from mssclamp.wire.too_big import OVERSIZE, Judgement, Outcome

SHOT, REDIRECT = 2, 7
"""TC_ACT_SHOT, TC_ACT_REDIRECT: the latter is what BPF_PROG_TEST_RUN returns for a redirect, which it does not do."""

BUILDER = 77
"""Stands for the ifindex of the private pair's first end."""

NO_LIMIT = 2**32 - 1

COUNTERS = ("oversize", "oversize_df_clear", "too_big_sent", "would_answer", "suppressed", "unanswerable", "largest")

_COUNTER = {
    Outcome.DF_CLEAR: "oversize_df_clear",
    Outcome.FORBIDDEN: "unanswerable",
    Outcome.WOULD_ANSWER: "would_answer",
    Outcome.ANSWERED: "too_big_sent",
}


class AnsweringKernel:
    """The programs, to be run on packets and on orders, and what they have counted."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    @classmethod
    def load(cls, ifindex: int = TEST_RUN_IFINDEX) -> AnsweringKernel:
        """Compiles and loads the programs and fills their maps with PEERS, on one device. No rate limits."""
        instance = loader.load(64)
        for index, peer in enumerate(PEERS):
            instance.put_peer(index, peer_record(peer.towards))
            for prefix in peer.prefixes:
                instance.put_prefix(ifindex, ip_network(prefix), index)
        kernel = cls(instance)
        kernel.configure()
        return kernel

    def close(self) -> None:
        """Lets the programs go."""
        self.instance.close()

    def configure(
        self,
        *,
        builder: int = BUILDER,
        per_sender: int = NO_LIMIT,
        per_peer: int = NO_LIMIT,
        flow_gap: int = 0,
        large_gap: int = 0,
    ) -> None:
        """Sets what holds for all peers (gaps: ns) and forgets who was answered, and what was told, when."""
        smallest = min(abi.large_limit(peer.towards.mtu) for peer in PEERS)
        self.instance.put_config(abi.Config(builder, per_sender, per_peer, smallest, flow_gap, large_gap))
        for name in ("clampd_flow", "clampd_sender", "clampd_rate", "clampd_burst", "clampd_told"):
            held = self.instance.maps[name]
            for key in list(held):
                held.put(key, bytes(held.value_size))

    def run(self, packet: Outgoing) -> tuple[int, bytes, SkBuff]:
        """The verdict of the program on egress, what left, and its metadata."""
        program = self.instance.programs["clampd_l2_eg" if packet.link_header else "clampd_l3_eg"]
        ctx = bytearray(bytes(SkBuff(mark=packet.mark, gso_size=packet.gso_size, gso_segs=packet.gso_segs)))
        verdict, data, _ = program.test_run(packet.data, ctx=ctx)
        return verdict, data, SkBuff.of(ctx)

    def build(self, frame: bytes) -> tuple[int, bytes]:
        """The verdict of the program at the pair's other end, and the answer."""
        verdict, data, _ = self.instance.programs["clampd_answer"].test_run(frame)
        return verdict, data

    def counters(self, index: int) -> Counter[str]:
        """Of the peer at `index`, those that are about sizes."""
        counters = self.instance.counters(index)
        return Counter({name: getattr(counters, name) for name in COUNTERS})


def peer_record(peer: too_big.Towards, *, enforce_until: int | None = None, clamp: bool = False) -> abi.Peer:
    """The kernel's form of what is in force for a peer."""
    if enforce_until is None:
        enforce_until = abi.FOREVER if peer.enforce else 0
    flags = (abi.PEER_ANSWER if peer.answer else 0) | (abi.PEER_CLAMP if clamp else 0)
    return abi.Peer(enforce_until, peer.mtu, max(536, peer.mtu - 40), max(536, peer.mtu - 60), flags)


class Comparison:
    """Runs packets through programs and model, compares what comes out and what is counted, and keeps the books."""

    def __init__(self, kernel: AnsweringKernel) -> None:
        self._kernel = kernel
        self._counters = [kernel.counters(index) for index in range(len(PEERS))]
        self.hits: Counter[Outcome] = Counter()

    def check(self, packet: Outgoing) -> tuple[Judgement, bytes | None]:
        """What both make of the packet, and the answer as a frame. Fails, and shows the packet, if they differ."""
        judgement = too_big.judge(
            packet.data,
            packet.ethertype,
            packet.link_header,
            towards,
            gso_size=packet.gso_size,
            group_frame=packet.group_frame,
        )
        verdict, data, skb = self._kernel.run(packet)
        self._check_counters(packet, judgement)
        self.hits[judgement.outcome] += 1
        what = f"{judgement}, but"
        if judgement.outcome is not Outcome.ANSWERED:
            assert verdict == UNSPEC, f"{what} verdict {verdict}: {packet}"
            assert data == packet.data, f"{what} it changed to {data.hex()}: {packet}"
            assert (skb.mark, skb.gso_segs) == (packet.mark, packet.gso_segs), f"{what} its metadata changed: {packet}"
            return judgement, None
        assert verdict == REDIRECT, f"{what} verdict {verdict}: {packet}"
        order = too_big.order(packet.data, packet.ethertype, packet.link_header, TEST_RUN_IFINDEX, judgement)
        assert data == order, f"{what} the order is {data.hex()}, not {order.hex()}: {packet}"
        assert (skb.mark, skb.gso_segs) == (0, 0), f"{what} it has mark {skb.mark}, {skb.gso_segs} segments: {packet}"
        verdict, data = self._kernel.build(order)
        assert verdict == REDIRECT, f"{what} the builder's verdict is {verdict}: {packet}"
        answer = too_big.answer(order)
        assert answer is not None
        assert data == answer, f"{what} the answer is {data.hex()}, not {answer.hex()}: {packet}"
        return judgement, data

    def check_counts(self) -> None:
        """Fails if anything was counted beyond what each packet had to be."""
        assert [self._kernel.counters(index) for index in range(len(PEERS))] == self._counters

    def _check_counters(self, packet: Outgoing, judgement: Judgement) -> None:
        if judgement.outcome in (Outcome.UNREADABLE, Outcome.NO_PEER):
            return  # at the latest check_counts() sees what should not be
        at, size = (16, 4) if packet.ethertype == IPV4 else (24, 16)
        index = peer_of(packet.datagram[at : at + size])
        assert index is not None
        expected = self._counters[index]
        if judgement.outcome in OVERSIZE:
            expected["oversize"] += 1
            expected["largest"] = max(expected["largest"], judgement.size)
        if judgement.outcome in _COUNTER:
            expected[_COUNTER[judgement.outcome]] += 1
        counters = self._kernel.counters(index)
        assert counters == expected, f"{judgement}, but counted {+counters}, not {+expected}: {packet}"
