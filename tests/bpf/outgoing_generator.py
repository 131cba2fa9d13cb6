"""Random packets towards peers, most of a size near what fits: in every form that decides about an answer.

The same seed gives the same packets. As in generator.py, what is wanted more often stands more often in its tuple.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random

from bpf.outgoing import GROUPS, LARGEST_TEST_RUN, MTUS, PEERS, Outgoing, address_of, peer_of
from bpf.packets import (
    AH,
    ARP,
    DESTINATION,
    DONT_FRAGMENT,
    ESP,
    ETHERNET,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    MORE_FRAGMENTS,
    NEAR,
    NOP,
    NOTHING,
    ROUTING,
    TCP,
    UDP,
    VLAN,
    Extension,
    ethernet,
    extension,
    fragment_header,
    ipv4,
    ipv6,
    smallest_test_run,
)

ICMP, ICMPV6, SCTP, GRE = 1, 58, 132, 47

JUMBO = Extension(HOP_BY_HOP, b"\0\xc2\4\0\1\0\0")
"""What Linux puts into super-packets over 64 KiB."""

_FILLING = Random(0).randbytes(2 * LARGEST_TEST_RUN)

_PEERS = (
    *(name for mtu in MTUS for name in 6 * (f"enforced {mtu}",) + (f"observed {mtu}", f"unproven {mtu}")),
    *4 * (GROUPS,),
    *6 * ("stranger",),
)

_DELTAS = (*6 * (1,), *4 * (0,), *2 * (-1, 2), -100, 3, 16, 100, 500, 2000)

_PROTOCOLS = {
    4: (*8 * (TCP,), *5 * (UDP,), *4 * (ICMP,), ICMPV6, SCTP, ESP, GRE, 4, 41),
    6: (*8 * (TCP,), *5 * (UDP,), *4 * (ICMPV6,), ICMP, SCTP, ESP, AH, NOTHING, 4, 41),
}
_ICMP_TYPES = {
    ICMP: (*6 * (8,), *2 * (0,), 3, 4, 5, 11, 12, 13, 40, 128, 137),
    ICMPV6: (*6 * (128,), *2 * (129,), 1, 2, 3, 4, 100, 127, 130, 135, 136, 137, 138, 255),
}

_FRAGMENTS = (
    *12 * (DONT_FRAGMENT,),
    *2 * (0,),
    0x8000,
    MORE_FRAGMENTS,
    DONT_FRAGMENT | MORE_FRAGMENTS,
    DONT_FRAGMENT | 0x8000,
    DONT_FRAGMENT | 1,
    DONT_FRAGMENT | MORE_FRAGMENTS | 185,
    0x1FFF,
)

_EXTENSIONS = (
    *3 * (extension(HOP_BY_HOP), extension(DESTINATION)),
    extension(HOP_BY_HOP, 24),
    extension(DESTINATION, 64),
    extension(DESTINATION, 128),
    extension(DESTINATION, 200),
    extension(DESTINATION, 208),
    extension(DESTINATION, 216),
    extension(HOP_BY_HOP, 512),
    extension(ROUTING, 24),
    *3 * (fragment_header(more=True),),
    fragment_header(),
    fragment_header(1),
    fragment_header(185, more=True),
    extension(DESTINATION, units=255),
    Extension(DESTINATION, b"\0\2"),
)
_CHAINS = (*6 * (1,), *3 * (2,), 3, 5, 8, 9, 10)

# Destinations and sources to which, and for which, nobody may be told.
_GROUPS = {4: (b"\xe0\0\0\1", b"\xef\1\2\3", b"\xff\xff\xff\xff", b"\xf0\0\0\1"), 6: (b"\xff\2" + bytes(13) + b"\1",)}
_NOBODIES = {
    4: (bytes(4), b"\0\1\2\3", b"\x7f\0\0\1", b"\x7f\xff\xff\xff", b"\xe0\0\0\1", b"\xf0\0\0\1", b"\xff\xff\xff\xff"),
    6: (bytes(16), bytes(15) + b"\1", b"\xff\2\0\0\x86\xdd" + bytes(9) + b"\1"),
}
_SOMEBODIES = {
    4: (b"\1\0\0\1", b"\x7e\xff\xff\xff", b"\x80\0\0\1", b"\xdf\xff\xff\xff"),
    6: (bytes(15) + b"\2", bytes(14) + b"\1\0", b"\1" + bytes(14) + b"\1", b"\xfe\x80" + bytes(13) + b"\1"),
}
"""The neighbours of those."""

_ETHERTYPES = (ARP, VLAN, IPV4, IPV6)
_GROUP_FRAMES = (b"\xff\xff\xff\xff\xff\xff", b"\1\0\x5e\0\0\1", b"\x33\x33\0\0\0\1", b"\3\0\0\0\0\1")

_TENTH, _TWENTIETH, _FIFTIETH = 0.1, 0.05, 0.02


def generate(seed: int, count: int) -> Iterator[Outgoing]:
    """`count` packets that BPF_PROG_TEST_RUN takes."""
    random = Random(seed)
    for number in range(count):
        yield _packet(random, link_header=number % 2 == 0)


def _one_of(random: Random, choices: tuple) -> object:
    # Several times as fast as random.choice.
    return choices[int(random.random() * len(choices))]


def _packet(random: Random, *, link_header: bool) -> Outgoing:
    chance = random.random
    version, ethertype = (4, IPV4) if chance() < 0.5 else (6, IPV6)
    source, destination = _ends(random, version, link_header=link_header)
    index = peer_of(destination)
    mtu = 1400 if index is None else PEERS[index].towards.mtu
    size = (max(mtu, 1280) if version == 6 else mtu) + _one_of(random, _DELTAS)

    protocol = _one_of(random, _PROTOCOLS[version])
    header = _transport(random, protocol)
    options, chain, jumbo = b"", (), False
    if version == 4:
        options = NOP * (4 * _ip_option_words(random, link_header=link_header))
    elif chance() < 0.25:
        chain = tuple(_one_of(random, _EXTENSIONS) for _ in range(_one_of(random, _CHAINS)))
    super_packet = chance() < 0.25
    if super_packet and version == 6 and chance() < 0.15:
        chain, jumbo = (JUMBO, *chain), True
    fixed = (20 if version == 4 else 40) + len(options) + sum(len(body) + 1 for _, body in chain)
    gso_size = 0
    if super_packet:
        # Around the size that just fits when it is cut; the jumbo header is gone by then.
        gso_size = max(1, size - fixed - len(header) + (8 if jumbo else 0))
        if chance() < _TENTH:
            gso_size = 1 + int(chance() * 0xFFFF)
        size = fixed + len(header) + int(gso_size * (1 + 2 * chance()))
    room = LARGEST_TEST_RUN - (ETHERNET if link_header else 0)
    payload = max(0, min(size, room) - fixed - len(header))
    at = int(chance() * LARGEST_TEST_RUN)
    body = header + _FILLING[at : at + payload]

    if version == 4:
        data = ipv4(source, destination, body, options=options, protocol=protocol, **_fields4(random))
    else:
        length = 0 if jumbo else None
        data = ipv6(source, destination, body, extensions=chain, protocol=protocol, length=length)
    if link_header:
        if chance() < _FIFTIETH:
            ethertype = _one_of(random, _ETHERTYPES)
        data = ethernet(data, ethertype)
        if chance() < _FIFTIETH:
            data = _one_of(random, _GROUP_FRAMES) + data[6:]
    data = _damaged(random, data)
    segments = -(-len(data) // gso_size) if gso_size else 0
    return Outgoing(data, link_header, gso_size, segments, mark=int(chance() * 3))


def _ends(random: Random, version: int, *, link_header: bool) -> tuple[bytes, bytes]:
    chance = random.random
    name = _one_of(random, _PEERS)
    if name == "stranger":
        destination = b"\x08\0\xf0\1" if version == 4 else b"\x20\1\x0d\xb8\x86\xdd\0\xf0" + bytes(8)
    elif name == GROUPS:
        destination = _one_of(random, _GROUPS[version])
    else:
        destination = address_of(name, version, int(chance() * 256))
    source = NEAR[version][:-1] + bytes((int(chance() * 256),))
    if link_header and chance() < _TENTH:
        source = _one_of(random, (_NOBODIES if chance() < 0.5 else _SOMEBODIES)[version])
    elif not link_header and version == 6 and chance() < _FIFTIETH:
        source = _NOBODIES[6][-1]
    return source, destination


def _ip_option_words(random: Random, *, link_header: bool) -> int:
    chance = random.random
    if link_header:
        return int(chance() * 11) if chance() < 0.2 else 0
    # An odd number, with the five words of the header an even one, or the test run takes it for a multicast frame.
    return int(chance() * 11) if chance() < _TENTH else 1 + 2 * int(chance() * 5)


def _fields4(random: Random) -> dict[str, int]:
    chance = random.random
    fields = {"fragment": _one_of(random, _FRAGMENTS)}
    if chance() < _FIFTIETH:
        fields["total"] = int(chance() * 0x10000)
    return fields


def _transport(random: Random, protocol: int) -> bytes:
    chance = random.random
    ports = struct.pack("!HH", 1024 + int(chance() * 60000), 443)
    if protocol == TCP:
        words = 5 + (int(chance() * 11) if chance() < 0.5 else 0)
        flags = int(chance() * 256)
        doff = int(chance() * 16) if chance() < _TWENTIETH else words
        fixed = struct.pack("!IIBBHHH", 0x01020304, 0x05060708, doff << 4, flags, 64240, 0xABCD, 0)
        return ports + fixed + _FILLING[: words * 4 - 20]
    if protocol == UDP:
        return ports + b"\4\0\xab\xcd"
    if protocol in _ICMP_TYPES:
        return bytes((_one_of(random, _ICMP_TYPES[protocol]), int(chance() * 3))) + b"\xab\xcd\0\1\0\2"
    return ports


def _damaged(random: Random, data: bytes) -> bytes:
    chance = random.random
    if chance() < _TWENTIETH:
        flipped = bytearray(data)
        for _ in range(1 + int(chance() * 3)):
            # Headers are near the front: there it matters.
            flipped[int(chance() * chance() * min(len(flipped), 200))] ^= 1 << int(chance() * 8)
        data = bytes(flipped)
    least = smallest_test_run(data)
    if chance() < _FIFTIETH:
        data = data[: least + int(chance() * max(0, len(data) - least))]
    return data if len(data) >= least else data + bytes(least - len(data))
