"""Nanoseconds per packet, by BPF_PROG_TEST_RUN, over a program that does nothing.

The rewrite is measured on a build whose comparison is `>=` instead of `>`: a packet that has just been rewritten is
then rewritten again, with the same work, as often as one likes.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from mssclamp.datapath import abi, loader, sources
from mssclamp.datapath.bpf import Program
from mssclamp.datapath.instance import Instance, Network

LOOPBACK = 1  # what a packet of a test run arrives on
ROUNDS = 7
REPEAT = 200_000
MSS = 1240
SINGLE_RUNS = 5000
PREFIXES = (1, 1_000, 50_000)
REDIRECT = 7  # TC_ACT_REDIRECT
SUPPRESS_ALL = abi.Config(builder=0, per_sender=0, per_peer=0, small_packet=1200, flow_gap=10**8, large_gap=30 * 10**9)
UDP = 17
ENDPOINTS = 1000

EMPTY = "int empty(struct __sk_buff *skb) { return -1; }"

TIMESTAMPS = bytes([1, 1, 8, 10]) + bytes(8)
LINUX_OPTIONS = struct.pack("!BBH", 2, 4, 1460) + bytes([4, 2, 8, 10]) + bytes(8) + bytes([1, 3, 3, 7])
"""What Linux sends in a SYN: MSS, SACK permitted, timestamps, NOP, window scale."""


@dataclass(frozen=True)
class Cost:
    """Median over rounds, in ns over the empty program."""

    what: str
    family: int
    prefixes: int
    nanoseconds: float


def measure() -> list[Cost]:
    """All kinds of packets, both families, PREFIXES prefixes."""
    costs = []
    empty = _empty_program()
    with _rewriting_always(), _loaded() as instance:
        for count in PREFIXES:
            targets = _fill(instance, count)
            for family, network in targets.items():
                for what, packet in _packets(family, network).items():
                    pairs = [
                        _run(instance.programs["clampd_l2_eg"], packet) - _run(empty, packet) for _ in range(ROUNDS)
                    ]
                    costs.append(Cost(what, family, count, round(statistics.median(pairs), 1)))
                costs.append(_cost_of_an_answer(instance, empty, family, network, count))
        costs += _costs_on_the_underlay(instance, empty)
    return costs


def _costs_on_the_underlay(instance: Instance, empty: Program) -> list[Cost]:
    """Foreign packets, and a tunnel's own, beside ENDPOINTS endpoints of each family."""
    endpoints: dict[int, list[IPv4Address | IPv6Address]] = {
        4: [IPv4Address(0xC6330000 + number) for number in range(ENDPOINTS)],
        6: [IPv6Address((0x20010DB8 << 96) + (number << 64) + 1) for number in range(ENDPOINTS)],
    }
    instance.set_near({abi.near_index(address) for addresses in endpoints.values() for address in addresses})
    for addresses in endpoints.values():
        for peer, address in enumerate(addresses):
            instance.put_endpoint(abi.endpoint_key(address, 51820, UDP), abi.Endpoint(peer, abi.ENDPOINT_TAKE_ICMP))
    near = {abi.near_index(address) for addresses in endpoints.values() for address in addresses}
    costs = []
    for family, addresses in endpoints.items():
        foreign = addresses[0]
        while abi.near_index(foreign) in near:
            foreign += 2**16
        data = struct.pack("<IIQ", 4, 7, 9) + bytes(1360)
        for what, program, packet in (
            ("underlay, out: foreign TCP", "clampd_u2_eg", _packet(family, foreign.packed, 0x10, TIMESTAMPS, 1400)),
            ("underlay, out: foreign UDP", "clampd_u2_eg", _datagram(family, foreign.packed, data)),
            ("underlay, out: a tunnel's", "clampd_u2_eg", _datagram(family, addresses[7].packed, data)),
            ("underlay, in: TCP", "clampd_u2_in", _packet(family, foreign.packed, 0x10, TIMESTAMPS, 1400)),
            ("underlay, in: UDP", "clampd_u2_in", _datagram(family, foreign.packed, data)),
        ):
            pairs = [_run(instance.programs[program], packet) - _run(empty, packet) for _ in range(ROUNDS)]
            costs.append(Cost(what, family, ENDPOINTS, round(statistics.median(pairs), 1)))
    return costs


def _cost_of_an_answer(instance: Instance, empty: Program, family: int, network: Network, count: int) -> Cost:
    """Both steps of an answer. A packet can be answered once, so every run is of its own, and the clock's own cost,
    which the empty program's runs have too, goes off."""
    instance.put_config(abi.Config(LOOPBACK, 2**32 - 1, 2**32 - 1, 1200, 0, 30 * 10**9))
    packet = _packet(family, network.network_address.packed, 0x10, TIMESTAMPS, 1600)
    first, second, nothing = [], [], []
    for _ in range(SINGLE_RUNS):
        verdict, order, duration = instance.programs["clampd_l2_eg"].test_run(packet)
        assert verdict == REDIRECT
        first.append(duration)
        verdict, _, duration = instance.programs["clampd_answer"].test_run(order)
        assert verdict == REDIRECT
        second.append(duration)
        nothing.append(empty.test_run(packet)[2])
    cost = statistics.median(first) + statistics.median(second) - 2 * statistics.median(nothing)
    instance.put_config(SUPPRESS_ALL)
    return Cost("data, 1600 bytes: oversize, answered (both steps)", family, count, round(cost, 1))


def _run(program: Program, packet: bytes) -> int:
    verdict, _, duration = program.test_run(packet, repeat=REPEAT)
    assert verdict == -1
    return duration


def _empty_program() -> Program:
    os.environ["BCC_KERNEL_SOURCE"] = str(sources.directory() / "shim")
    from bcc import BPF

    compiled = BPF(text=EMPTY)
    return Program(os.dup(compiled.load_func("empty", BPF.SCHED_CLS).fd))


@contextmanager
def _rewriting_always() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "bpf"
        shutil.copytree(sources.directory(), copy)
        header = copy / "tcp_mss.h"
        text = header.read_text()
        assert text.count("if (mss > limit)") == 1
        header.write_text(text.replace("if (mss > limit)", "if (mss >= limit)"))
        os.environ["CLAMPD_BPF_DIR"] = str(copy)
        sources.directory.cache_clear()
        try:
            yield
        finally:
            del os.environ["CLAMPD_BPF_DIR"]
            sources.directory.cache_clear()


@contextmanager
def _loaded() -> Iterator[Instance]:
    instance = loader.load(65536)
    try:
        yield instance
    finally:
        instance.close()


def _fill(instance: Instance, count: int) -> dict[int, Network]:
    """`count` prefixes of mixed lengths in each family, each a peer of its own; one of each to aim at."""
    rng = random.Random(count)
    instance.put_config(SUPPRESS_ALL)
    for (ifindex, network), _ in instance.prefixes().items():
        instance.delete_prefix(ifindex, network)
    targets: dict[int, Network] = {}
    for number in range(count):
        # An MTU that lets all but the last of the data packets pass: what is measured is the look-up.
        instance.put_peer(number, abi.Peer(abi.FOREVER, 1500, MSS, MSS, abi.PEER_CLAMP | abi.PEER_ANSWER))
        four = IPv4Network((0x0A000000 + rng.getrandbits(24), rng.choice((24, 28, 32))), strict=False)
        six = IPv6Network(((0x20010DB8 << 96) + (rng.getrandbits(64) << 32), rng.choice((48, 64, 128))), strict=False)
        instance.put_prefix(LOOPBACK, four, number)
        instance.put_prefix(LOOPBACK, six, number)
        targets = {4: four, 6: six}
    return targets


def _packets(family: int, network: Network) -> dict[str, bytes]:
    address = network.network_address.packed
    return {
        "data, 1000 bytes": _packet(family, address, 0x10, TIMESTAMPS, 1000),
        "data, 1400 bytes: looked up and watched": _packet(family, address, 0x10, TIMESTAMPS, 1400),
        "data, 1600 bytes: oversize, over the rate limit": _packet(family, address, 0x10, TIMESTAMPS, 1600),
        "SYN, rewritten": _packet(family, address, 0x02, LINUX_OPTIONS, 0),
    }


def _packet(family: int, destination: bytes, flags: int, options: bytes, size: int) -> bytes:
    """An Ethernet frame around a TCP segment; `size` is the IP packet's, if the headers are not larger."""
    tcp = struct.pack("!HHIIBBHHH", 40000, 443, 1, 1, (20 + len(options)) // 4 << 4, flags, 65535, 0, 0) + options
    header = 20 if family == 4 else 40
    tcp += bytes(max(0, size - header - len(tcp)))
    return _frame(family, destination, 6, tcp)


def _datagram(family: int, destination: bytes, payload: bytes) -> bytes:
    """An Ethernet frame around a UDP datagram to a tunnel's port."""
    return _frame(family, destination, UDP, struct.pack("!HHHH", 51820, 51820, 8 + len(payload), 0) + payload)


def _frame(family: int, destination: bytes, protocol: int, payload: bytes) -> bytes:
    if family == 4:
        source = bytes([192, 0, 2, 1])
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0) + source + destination
    else:
        source = bytes.fromhex("20010db8ffff00000000000000000001")
        ip = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source + destination
    return bytes(12) + struct.pack("!H", 0x0800 if family == 4 else 0x86DD) + ip + payload
