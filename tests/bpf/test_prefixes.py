"""The longest-prefix-match tries against a search through all prefixes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from random import Random

import pytest

from bpf.packets import TEST_RUN_IFINDEX, ipv4, ipv6, mss, tcp_segment
from mssclamp.datapath import abi, loader
from mssclamp.datapath.instance import Instance
from mssclamp.wire.mtu import MIN_MSS
from support import require_bpf

pytestmark = pytest.mark.bpf

PREFIXES = 1000

SOURCE = {32: bytes((8, 0, 250, 7)), 128: bytes.fromhex("20010db886dd00fa0000000000000007")}
"""Only with such a source BPF_PROG_TEST_RUN takes a bare packet for IP; destinations are free."""


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    """Programs with peers whose limits name them: the peer at index n has an MSS of MIN_MSS + n."""
    require_bpf()
    instance = loader.load(2 * PREFIXES)
    for index in range(2 * PREFIXES):
        limit = MIN_MSS + index
        instance.put_peer(index, abi.Peer(abi.FOREVER, limit + 60, limit, limit, abi.PEER_CLAMP))
    yield instance
    instance.close()


def _networks(random: Random, width: int) -> list[tuple[int, int]]:
    """Distinct (address, length) of prefixes, many of them inside one another; all hosts and everything too."""
    stem = random.getrandbits(width)
    networks = {(0, 0)}
    while len(networks) < PREFIXES:
        length = random.randint(1, width)
        address = stem ^ random.getrandbits(random.randint(1, width))
        networks.add((address >> (width - length) << (width - length), length))
    return sorted(networks, key=lambda _: random.random())


@pytest.mark.parametrize("width", [32, 128], ids=["IPv4", "IPv6"])
def test_the_longest_prefix_decides(instance: Instance, width: int) -> None:
    random = Random(width)
    kind = IPv4Network if width == 32 else IPv6Network
    networks = _networks(random, width)
    for index, network in enumerate(networks):
        instance.put_prefix(TEST_RUN_IFINDEX, kind(network), index)
        instance.put_prefix(TEST_RUN_IFINDEX + 1, kind(network), PREFIXES + index)
    for removed in networks[::10]:
        instance.delete_prefix(TEST_RUN_IFINDEX, kind(removed))
    left = [(network, index) for index, network in enumerate(networks) if index % 10]
    program = instance.programs["clampd_l3_eg"]

    def leads_to(address: int) -> int | None:
        destination = address.to_bytes(width // 8, "big")
        segment = tcp_segment(SOURCE[width], destination, mss(0xFFFF))
        packet = (ipv4 if width == 32 else ipv6)(SOURCE[width], destination, segment)
        _, data, _ = program.test_run(packet)
        (value,) = struct.unpack("!H", data[-2:])
        return None if value == 0xFFFF else value - MIN_MSS

    met = set()
    for address, length in networks * 2:
        address |= random.getrandbits(width - length)  # anything within, or near by
        if random.random() < 0.2:
            address ^= 1 << random.randrange(width)
        holders = [
            (length, index)
            for (start, length), index in left
            if address >> (width - length) == start >> (width - length)
        ]
        expected = max(holders)[1] if holders else None
        assert leads_to(address) == expected
        met.add(expected)
    assert len(met) > PREFIXES / 2
