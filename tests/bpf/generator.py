"""Random packets: well-formed ones, and every way in which we know one to be wrong, alone and together.

The same seed gives the same packets. Speed matters here (a hundred thousand in a test run): choices are drawn from
tuples in which what is wanted more often stands more often.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from bpf.packets import (
    ACK,
    ADDRESSES,
    AH,
    AO,
    ARP,
    CWR,
    DESTINATION,
    DONT_FRAGMENT,
    ECE,
    END,
    ESP,
    FAST_OPEN,
    FIN,
    HOOKS,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    MD5,
    MORE_FRAGMENTS,
    NEAR,
    NOP,
    NOTHING,
    PSH,
    ROUTING,
    RST,
    SACK_OK,
    SYN,
    TCP,
    TIMESTAMPS,
    UDP,
    URG,
    VLAN,
    WINDOW_SCALE,
    Extension,
    Packet,
    ethernet,
    extension,
    fragment_header,
    ipv4,
    ipv6,
    mss,
    smallest_test_run,
    tcp_segment,
)
from mssclamp.wire.clamp import Direction

_PEERS = (
    *6 * ("enforced",),
    *2 * ("narrow",),
    *2 * ("host",),
    *3 * ("observed",),
    "exempt",
    "jumbo",
    *2 * ("carrying",),
    "stranger",
)
_FAR = {version: tuple(ADDRESSES[peer, version] for peer in _PEERS) for version in (4, 6)}

_FLAGS = (
    *12 * (SYN,),
    *8 * (SYN | ACK,),
    *2 * (SYN | ECE | CWR,),
    SYN | ACK | ECE,
    SYN | FIN | PSH | URG,
    SYN | RST,
    ACK,
    ACK | PSH | FIN,
)

_SIZES = (0, 1, 400, 535, 536, 537, 1220, 1240, 1259, 1260, 1280, 1299, 1300, 1301, 1363, 1380, 1383, 1384)
_MSS = (*map(mss, _SIZES), *8 * (mss(1460),), *4 * (mss(1440),), mss(8960), mss(8961), mss(0xFFFF), mss(0xFF00))
_UNKNOWN = tuple(bytes((kind, length)) + mss(1460) * (length // 4) for kind in (5, 6, 253) for length in (2, 6, 10, 18))
_OPTIONS = (
    *4 * (NOP,),
    *2 * (SACK_OK, TIMESTAMPS, WINDOW_SCALE),
    2 * NOP,
    3 * NOP,
    MD5,
    FAST_OPEN,
    *_UNKNOWN[::3],
)
_MALFORMED = (
    b"\xfd\0",
    b"\xfd\1",
    b"\xfd\xff",
    b"\x1d\x29",
    b"\2\0\5\xb4",
    b"\2\2",
    b"\2\3\5",
    b"\2\5\5\xb4\0",
    b"\2\x06\5\xb4\5\xb4",
    b"\2\4\5",
    b"\3",
)
_FILLERS = (*4 * (NOP,), *4 * (END,), b"\2", b"\xfd", b"\x04")

_PAYLOADS = (*12 * (b"",), b"\xa5", mss(1460), b"\xff" * 17, bytes(range(64)), b"\x5a" * 333)
_TAILS = (bytes(6), mss(1460), b"\xff", bytes(range(46)))

_NOT_TCP = (0, 1, 2, 4, 41, 47, UDP, ESP, AH, NOTHING, 135, 255)
_FRAGMENT_WORDS = (MORE_FRAGMENTS, 0x8000, MORE_FRAGMENTS | 1, 0x1FFF, 185, DONT_FRAGMENT | 2)

_EXTENSIONS = (
    *3 * (extension(HOP_BY_HOP), extension(DESTINATION)),
    extension(HOP_BY_HOP, 24),
    extension(DESTINATION, 16),
    extension(ROUTING),
    extension(ROUTING, 24),
    extension(DESTINATION, 64),
    *3 * (fragment_header(),),
    fragment_header(more=True),
)
_ODD_EXTENSIONS = (
    *2 * (fragment_header(1), fragment_header(0x1FFF), fragment_header(185, more=True)),
    extension(ROUTING, units=255),
    extension(DESTINATION, units=4),
    Extension(DESTINATION, b"\0\2"),
)
_CHAINS = (*6 * (1,), *3 * (2,), 3, 4, 5, 7, 8, 8, 9, 9, 9, 10, 12)

_ETHERTYPES = (ARP, VLAN, 0x8847, 60, IPV4, IPV6)

_TENTH, _TWENTIETH, _FIFTIETH = 0.1, 0.05, 0.02


def generate(seed: int, count: int) -> Iterator[Packet]:
    """`count` packets that BPF_PROG_TEST_RUN takes."""
    random = Random(seed)
    for number in range(count):
        link_header, direction = HOOKS[number % len(HOOKS)]
        yield _packet(random, link_header, direction)


def _one_of(random: Random, choices: tuple) -> object:
    # Several times as fast as random.choice.
    return choices[int(random.random() * len(choices))]


def _packet(random: Random, link_header: bool, direction: Direction) -> Packet:
    chance = random.random
    version, ethertype = (4, IPV4) if chance() < 0.5 else (6, IPV6)
    far, near = _one_of(random, _FAR[version]), NEAR[version]
    if chance() < _FIFTIETH:
        near = _one_of(random, _FAR[version])  # peers on both sides: only one of them counts
    source, destination = (near, far) if direction is Direction.EGRESS else (far, near)
    data = (_ipv4 if version == 4 else _ipv6)(random, source, destination, _segment(random, source, destination))
    if chance() < _TENTH:
        data += _one_of(random, _TAILS)
    if link_header:
        if chance() < _FIFTIETH:
            ethertype = _one_of(random, _ETHERTYPES)
        data = ethernet(data, ethertype)
    elif chance() < _FIFTIETH:
        # Without a link header it is the source's address that says which family the kernel takes this for.
        data = data[:12] + _one_of(random, _ETHERTYPES).to_bytes(2, "big") + data[14:]
    if chance() < _TWENTIETH:
        flipped = bytearray(data)
        for _ in range(1 + int(chance() * 3)):
            flipped[int(chance() * len(flipped))] ^= 1 << int(chance() * 8)
        data = bytes(flipped)
    least = smallest_test_run(data)
    if chance() < _TENTH:
        data = data[: least + int(chance() * (len(data) - least))]
    if len(data) < least:
        data += bytes(least - len(data))
    return Packet(data, link_header, direction)


def _segment(random: Random, source: bytes, destination: bytes) -> bytes:
    chance = random.random
    options = _options(random)
    words = 5 + len(options) // 4
    if chance() < _FIFTIETH:
        words = int(chance() * 16)
    error = 1 + int(chance() * 0xFFFE) if chance() < _TENTH else 0
    return tcp_segment(
        source,
        destination,
        options,
        flags=_one_of(random, _FLAGS),
        payload=_one_of(random, _PAYLOADS),
        words=words,
        checksum_error=error,
    )


def _options(random: Random) -> bytes:
    """A list of up to 40 bytes, filled up to whole words."""
    chance = random.random
    pieces = []
    for _ in range(int(chance() * 5)):
        pieces.append(_one_of(random, _OPTIONS))
    for _ in range(_one_of(random, (*12 * (1,), 2, 2, 3, 0))):
        pieces.insert(int(chance() * (len(pieces) + 1)), _one_of(random, _MSS))
    if chance() < _TENTH:
        piece = _one_of(random, ((AO,), (AO,), (END,), _MALFORMED)[int(chance() * 4)])
        pieces.insert(int(chance() * (len(pieces) + 1)), piece)
    data = b"".join(pieces)
    if len(data) > 40:
        return data[:40]
    missing = -len(data) % 4
    return data + _one_of(random, _FILLERS) * missing if missing else data


def _ipv4(random: Random, source: bytes, destination: bytes, segment: bytes) -> bytes:
    chance = random.random
    fields = {}
    if chance() < _TENTH:
        fields["options"] = NOP * (4 + 4 * int(chance() * 10))
    if chance() < 0.2:
        field = int(chance() * 5)
        if field == 0:
            fields["protocol"] = _one_of(random, _NOT_TCP)
        elif field == 1:
            fields["fragment"] = _one_of(random, _FRAGMENT_WORDS)
        elif field == 2:
            fields["version"] = int(chance() * 16)
        elif field == 3:
            fields["words"] = int(chance() * 16)
        else:
            fields["total"] = int(chance() * (len(segment) + 64))
    return ipv4(source, destination, segment, **fields)


def _ipv6(random: Random, source: bytes, destination: bytes, segment: bytes) -> bytes:
    chance = random.random
    fields = {}
    if chance() < 0.3:
        chain = [_one_of(random, _EXTENSIONS) for _ in range(_one_of(random, _CHAINS))]
        if chance() < 0.2:
            chain[int(chance() * len(chain))] = _one_of(random, _ODD_EXTENSIONS)
        fields["extensions"] = tuple(chain)
    if chance() < 0.12:
        field = int(chance() * 3)
        if field == 0:
            fields["protocol"] = _one_of(random, (*_NOT_TCP, HOP_BY_HOP, TCP))
        elif field == 1:
            fields["version"] = int(chance() * 16)
        else:
            fields["length"] = int(chance() * (len(segment) + 64))
    return ipv6(source, destination, segment, **fields)
