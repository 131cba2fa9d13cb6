"""Outer packets on their way out: what is noted of them, and which leave with DF."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from bpf.packets import (
    DESTINATION,
    DONT_FRAGMENT,
    HOP_BY_HOP,
    IPV4,
    MORE_FRAGMENTS,
    NOP,
    TCP,
    ethernet,
    extension,
    fragment_header,
    ipv4,
)
from bpf.underlay import GRE, KEYS, OUR_PORT, OURS, PEER, PORT, REMOTE, SIDES, Side, Underlay, data_message
from bpf.underlay import UDP as PROTOCOL_UDP
from mssclamp.datapath import abi, loader
from support import require_bpf

pytestmark = pytest.mark.bpf

BY_LENGTH = abi.ENDPOINT_PROBING | abi.ENDPOINT_BY_LENGTH | abi.ENDPOINT_SET_DF
SIDES4 = [side for side in SIDES if side.version == 4]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Underlay]:
    require_bpf()
    instance = loader.load(16)
    yield Underlay(instance)
    instance.close()


@pytest.fixture
def underlay(loaded: Underlay) -> Underlay:
    loaded.reset()
    return loaded


def kept(underlay: Underlay, side: Side) -> tuple[int, int]:
    endpoint = underlay.endpoint(side.version)
    return endpoint.receiver, endpoint.counter


@pytest.fixture(params=SIDES, ids=str)
def side(request: pytest.FixtureRequest) -> Side:
    side: Side = request.param
    return side


# What is noted.


def test_receiver_and_counter_are_kept(underlay: Underlay, side: Side) -> None:
    packet = side.datagram(data_message(0x11223344, 0x0102030405060708))
    assert underlay.send(side, packet) == packet
    assert kept(underlay, side) == (0x11223344, 0x0102030405060708)
    endpoint = underlay.endpoint(side.version)
    assert (endpoint.peer, endpoint.fragments) == (PEER, 0)


def test_the_highest_counter_of_a_receiver_is_kept(underlay: Underlay, side: Side) -> None:
    for receiver, counter, expected in ((1, 5, 5), (1, 6, 6), (1, 3, 6), (2, 0, 0), (2, 2**64 - 1, 2**64 - 1)):
        underlay.send(side, side.datagram(data_message(receiver, counter)))
        assert kept(underlay, side) == (receiver, expected)


def test_a_super_packet_counts_for_all_its_segments(underlay: Underlay, side: Side) -> None:
    packet = side.datagram(data_message(1, 100, size=3000))
    assert underlay.send(side, packet, gso_size=1000, gso_segs=3) == packet
    assert kept(underlay, side) == (1, 102)


@pytest.mark.parametrize(
    "message",
    [data_message(1, 2, kind=kind) for kind in (1, 2, 3, 5, 0x01000004)] + [data_message(1, 2)[:15]],
    ids=["initiation", "response", "cookie", "unknown", "reserved bytes", "cut off"],
)
def test_only_data_messages_count(underlay: Underlay, side: Side, message: bytes) -> None:
    packet = side.datagram(message)
    assert underlay.send(side, packet) == packet
    assert kept(underlay, side) == (0, 0)


def test_headers_in_front(underlay: Underlay, side: Side) -> None:
    more = (
        {"options": NOP * 8} if side.version == 4 else {"extensions": (extension(DESTINATION), extension(HOP_BY_HOP))}
    )
    underlay.send(side, side.datagram(data_message(1, 2), **more))
    assert kept(underlay, side) == (1, 2)


def test_what_goes_elsewhere_is_not_noted(underlay: Underlay, side: Side) -> None:
    message = data_message(1, 2)
    other = (REMOTE[side.version] + 1).packed
    for packet in (
        side.datagram(message, port=PORT + 1),
        side.datagram(message, remote=other),
        side.packet(struct.pack("!HHHH", OUR_PORT, PORT, 0, 0) + message, protocol=TCP),
        side.packet(struct.pack("!HHHH", OUR_PORT, PORT, 0, 0) + message, protocol=GRE),
    ):
        assert underlay.send(side, packet) == packet
        assert kept(underlay, side) == (0, 0)


def test_packets_that_are_no_ip(underlay: Underlay) -> None:
    for side in SIDES:
        good = side.datagram(data_message(1, 2))
        at = side.link
        for first in (0x35, 0x44, 0x50, 0x75):
            packet = good[:at] + bytes((first,)) + good[at + 1 :]
            assert underlay.send(side, packet) == packet
            assert kept(underlay, side) == (0, 0)
    arp = ethernet(bytes(60), 0x0806)
    assert underlay.send(SIDES[0], arp) == arp


def test_near_bits_of_any_address(underlay: Underlay) -> None:
    """The agent's index is the programs' index; without the bit the endpoint is not even looked for."""
    rng = random.Random(4)
    side = SIDES[0]
    for _ in range(100):
        version = rng.choice((4, 6))
        address = IPv4Address(rng.getrandbits(32)) if version == 4 else IPv6Address(rng.getrandbits(128))
        side = Side(version, True)
        key = abi.endpoint_key(address, PORT, PROTOCOL_UDP)
        underlay.instance.put_endpoint(key, abi.Endpoint(1))
        packet = side.datagram(data_message(1, 2), remote=address.packed)
        index = abi.near_index(address)
        for near, noted in (({index}, 1), (set(range(abi.NEAR)) - {index}, 0)):
            underlay.instance.set_near(near)
            underlay.instance.delete_endpoint(key)
            underlay.instance.put_endpoint(key, abi.Endpoint(1))
            underlay.send(side, packet)
            assert underlay.instance.endpoints()[key].receiver == noted


def test_an_endpoint_of_any_port(underlay: Underlay, side: Side) -> None:
    """Found where none has the very port."""
    anyone = abi.endpoint_key(REMOTE[side.version], 0, PROTOCOL_UDP)
    underlay.instance.put_endpoint(anyone, abi.Endpoint(9))
    underlay.send(side, side.datagram(data_message(5, 6), port=4242))
    underlay.send(side, side.datagram(data_message(7, 8)))
    endpoints = underlay.instance.endpoints()
    assert (endpoints[anyone].receiver, endpoints[KEYS[side.version]].receiver) == (5, 7)


def test_first_fragments_are_counted(underlay: Underlay, side: Side) -> None:
    """Later ones do not tell where they belong; each packet has one first fragment."""
    payload = data_message(1, 2)
    if side.version == 4:
        first = side.datagram(payload, fragment=MORE_FRAGMENTS)
        later = side.datagram(payload, fragment=MORE_FRAGMENTS | 50)
        whole = side.datagram(payload)
    else:
        first = side.datagram(payload, extensions=(fragment_header(more=True),))
        later = side.datagram(payload, extensions=(fragment_header(50, more=True),))
        whole = side.datagram(payload, extensions=(fragment_header(),))
    for packet, count in ((whole, 0), (first, 1), (later, 1), (first, 2)):
        assert underlay.send(side, packet) == packet
        assert underlay.instance.fragments(KEYS[side.version]) == count
    assert kept(underlay, side) == (1, 2)


def test_fragments_of_a_protocol_without_ports(underlay: Underlay, side: Side) -> None:
    key = abi.endpoint_key(REMOTE[side.version], 0, GRE)
    underlay.instance.put_endpoint(key, abi.Endpoint(9))
    more = {"fragment": MORE_FRAGMENTS} if side.version == 4 else {"extensions": (fragment_header(more=True),)}
    for count in (1, 2):
        underlay.send(side, side.packet(bytes(300), protocol=GRE, **more))
        assert underlay.instance.fragments(key) == count


# Lengths under probe.


def probe(side: Side, length: int, **fields: object) -> bytes:
    """An outer packet of this length (without link header)."""
    return side.datagram(data_message(1, 2, size=length - side.headers), **fields)


def with_df(side: Side, packet: bytes) -> bytes:
    """The packet as it ought to be with DF: built anew."""
    ip = packet[side.link :]
    words = ip[0] & 0x0F
    return side.framed(
        ipv4(ip[12:16], ip[16:20], ip[words * 4 :], options=ip[20 : words * 4], protocol=ip[9], fragment=DONT_FRAGMENT)
    )


def left_whole(underlay: Underlay, side: Side, length: int) -> int:
    return underlay.instance.left_whole(KEYS[side.version], length)


@pytest.mark.parametrize("side", SIDES4, ids=str)
@pytest.mark.parametrize("options", [b"", NOP * 8], ids=["plain", "with options"])
def test_a_probe_leaves_with_df(underlay: Underlay, side: Side, options: bytes) -> None:
    underlay.reset(BY_LENGTH)
    length = 1400 + len(options)
    underlay.instance.open_length(KEYS[4], length)
    packet = probe(side, 1400, options=options)
    sent = underlay.send(side, packet)
    assert sent == with_df(side, packet) != packet
    assert left_whole(underlay, side, length) == 1
    assert underlay.send(side, sent) == sent  # it has DF already
    assert left_whole(underlay, side, length) == 2


@pytest.mark.parametrize("side", [side for side in SIDES if side.version == 6], ids=str)
def test_ipv6_needs_no_df(underlay: Underlay, side: Side) -> None:
    underlay.reset(BY_LENGTH)
    underlay.instance.open_length(KEYS[6], 1400)
    for count in (1, 2):
        packet = probe(side, 1400)
        assert underlay.send(side, packet) == packet
        assert left_whole(underlay, side, 1400) == count


def test_other_lengths_are_left_as_they_are(underlay: Underlay, side: Side) -> None:
    underlay.reset(BY_LENGTH)
    underlay.instance.open_length(KEYS[side.version], 1400)
    for length in (1399, 1401, 600):
        packet = probe(side, length)
        assert underlay.send(side, packet) == packet
    assert left_whole(underlay, side, 1400) == 0


@pytest.mark.parametrize("flags", [0, abi.ENDPOINT_PROBING, abi.ENDPOINT_BY_LENGTH, abi.ENDPOINT_TAKE_ICMP])
def test_user_packets_of_a_length_under_probe(underlay: Underlay, side: Side, flags: int) -> None:
    """Where probes are known by their hash, and where none are under way, nothing else is touched or counted."""
    underlay.reset(flags)
    underlay.instance.open_length(KEYS[side.version], 1400)
    packet = probe(side, 1400)
    assert underlay.send(side, packet) == packet
    assert left_whole(underlay, side, 1400) == 0


@pytest.mark.parametrize("df", [True, False])
def test_by_length_without_setting_df(underlay: Underlay, side: Side, df: bool) -> None:
    """Observe mode: what has DF anyway is seen to leave whole, and nothing is changed."""
    underlay.reset(abi.ENDPOINT_PROBING | abi.ENDPOINT_BY_LENGTH)
    underlay.instance.open_length(KEYS[side.version], 1400)
    packet = probe(side, 1400, fragment=DONT_FRAGMENT if df else 0)
    assert underlay.send(side, packet) == packet
    assert left_whole(underlay, side, 1400) == (1 if df or side.version == 6 else 0)


def test_nothing_is_under_probe_once_the_agent_is_gone(underlay: Underlay, side: Side) -> None:
    underlay.reset(BY_LENGTH, attended_until=time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 10**9)
    underlay.instance.open_length(KEYS[side.version], 1400)
    packet = probe(side, 1400)
    assert underlay.send(side, packet) == packet
    assert left_whole(underlay, side, 1400) == 0


def test_the_length_is_an_endpoints_own(underlay: Underlay, side: Side) -> None:
    underlay.reset(BY_LENGTH)
    other = abi.endpoint_key(REMOTE[side.version], PORT + 1, PROTOCOL_UDP)
    underlay.instance.put_endpoint(other, abi.Endpoint(9, BY_LENGTH))
    underlay.instance.open_length(other, 1400)
    packet = probe(side, 1400)
    assert underlay.send(side, packet) == packet
    assert underlay.instance.left_whole(other, 1400) == 0


def test_fragments_are_not_whole(underlay: Underlay, side: Side) -> None:
    underlay.reset(BY_LENGTH)
    if side.version == 4:
        packet = probe(side, 1400, fragment=MORE_FRAGMENTS)
    else:
        packet = side.datagram(data_message(1, 2, size=1400 - 56), extensions=(fragment_header(more=True),))
    underlay.instance.open_length(KEYS[side.version], 1400)
    assert underlay.send(side, packet) == packet
    assert left_whole(underlay, side, 1400) == 0
    assert underlay.instance.fragments(KEYS[side.version]) == 1


def test_a_length_is_closed_and_opened_again(underlay: Underlay, side: Side) -> None:
    underlay.reset(BY_LENGTH)
    key = KEYS[side.version]
    underlay.instance.open_length(key, 1400)
    underlay.send(side, probe(side, 1400))
    underlay.instance.close_length(key, 1400)
    underlay.instance.close_length(key, 1400)
    packet = probe(side, 1400)
    assert underlay.send(side, packet) == packet
    assert left_whole(underlay, side, 1400) == 0
    underlay.instance.open_length(key, 1400)
    assert left_whole(underlay, side, 1400) == 0


def test_probes_in_a_super_packet(underlay: Underlay, side: Side) -> None:
    """wireguard-go sends what it has at once: segments of one length, and a last one that may be shorter."""
    underlay.reset(BY_LENGTH)
    key = KEYS[side.version]
    payload = 1400 - side.headers
    packet = side.datagram(data_message(1, 2, size=2 * payload + 500))
    rest = side.headers + 500
    for opened, df, wholes in (
        ((), False, (0, 0)),
        ((1400,), True, (2, 0)),
        ((rest,), False, (0, 1 if side.version == 6 else 0)),  # DF would be on all segments
        ((1400, rest), True, (2, 1)),
    ):
        for length in opened:
            underlay.instance.open_length(key, length)
        sent = underlay.send(side, packet, gso_size=payload, gso_segs=3)
        assert sent == (with_df(side, packet) if df and side.version == 4 else packet)
        assert (left_whole(underlay, side, 1400), left_whole(underlay, side, rest)) == wholes
        for length in opened:
            underlay.instance.close_length(key, length)


def test_checksums_of_all_kinds_of_headers(underlay: Underlay) -> None:
    """Header checksums at their ends too: 0x0000 and 0xffff are both zero in this arithmetic."""
    underlay.reset(BY_LENGTH)
    underlay.instance.open_length(KEYS[4], 1400)
    side = SIDES4[0]
    payload = struct.pack("!HHHH", OUR_PORT, PORT, 1380, 0) + data_message(1, 2, size=1372)
    seen = set()
    for number in range(0, 0x10000, 7):
        source = OURS[4].packed[:2] + number.to_bytes(2, "big")
        packet = ethernet(ipv4(source, REMOTE[4].packed, payload, protocol=PROTOCOL_UDP, fragment=0), IPV4)
        sent = underlay.send(side, packet)
        total = sum(struct.unpack("!10H", sent[14:34]))
        assert total % 0xFFFF == 0
        assert sent[:20] + sent[22:24] + sent[26:] == packet[:20] + packet[22:24] + packet[26:]
        seen.add(sent[24])
    assert len(seen) == 256


def test_what_is_forwarded_is_not_ours(underlay: Underlay, side: Side) -> None:
    """A host behind this one can send to the endpoint too, and make it look like anything."""
    underlay.reset(BY_LENGTH)
    packet = side.datagram(data_message(1, 2**63))
    length = len(packet) - side.link
    underlay.instance.open_length(KEYS[side.version], length)
    assert underlay.send(side, packet, came_in_on=1) == packet
    assert kept(underlay, side) == (0, 0)
    assert underlay.instance.left_whole(KEYS[side.version], length) == 0
    if side.version == 4:
        underlay.send(side, side.datagram(data_message(1, 2), fragment=MORE_FRAGMENTS), came_in_on=1)
        assert underlay.endpoint(4).fragments == 0
