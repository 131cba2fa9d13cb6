"""Mirrors of bpf/abi.h, the contract with the programs in the kernel.

tests/bpf/test_abi.py compiles the header and compares every size and offset with these.
"""

from __future__ import annotations

import ctypes
import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from mssclamp.wire.clamp import Reason as Reason  # enum clampd_reason; the model knows the same

ABI = 3

FOREVER = 2**64 - 1
"""`Peer.enforce_until` of a peer that is enforced until somebody says otherwise."""

PEER_CLAMP = 1
"""`Peer.flags`: rewrite the MSS of this peer's SYNs."""

PEER_ANSWER = 2
"""`Peer.flags`: answer packets over its MTU."""

ORDER_MAGIC = 0xC1A3

PROBE_PRIORITY = 0xC1A30000
"""SO_PRIORITY of the prober's sockets; takes CAP_NET_ADMIN."""

PROBE_HASH = 0xC1A3C1A3
"""skb->hash of the prober's packets, once they have passed our program on the peer's device."""

LARGE_AT_MOST = 1200
"""Bytes; see `large_limit`."""

ENDPOINT_TAKE_ICMP = 1
"""`Endpoint.flags`: ICMP "too big" about its packets is taken out of the stack."""

ENDPOINT_PROBING = 2
"""`Endpoint.flags`: lengths of packets to it are under probe."""

ENDPOINT_BY_LENGTH = 4
"""`Endpoint.flags`: a user-space tunnel, whose probes are known by their length alone."""

ENDPOINT_SET_DF = 8
"""`Endpoint.flags`: what is known by its length gets DF. (The prober's own packets get it anyway.)"""

EVENT_SEEN = 1
"""`Event.flags` of an UNDERLAY_ICMP: the quote shows a WireGuard data message that we have sent lately."""

NEAR = 65536
"""`near_index` is below this."""

Address = IPv4Address | IPv6Address


def large_limit(mtu: int) -> int:
    """Bytes: larger packets to a peer with this MTU are watched."""
    return min(LARGE_AT_MOST, mtu - mtu // 8)


def near_index(address: Address) -> int:
    """The bit of clampd_near that an endpoint's address sets (clampd_near_index)."""
    value = 0
    for (word,) in struct.iter_unpack("=I", address.packed):
        value = (value ^ word) * 0x9E3779B1 & 0xFFFFFFFF
    return value >> 16


class Prefix4(ctypes.Structure):
    """Key of the IPv4 trie; `prefixlen` counts the 32 bits of `ifindex` too."""

    _fields_ = (
        ("prefixlen", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("address", ctypes.c_uint8 * 4),
    )


class Prefix6(ctypes.Structure):
    """Key of the IPv6 trie; `prefixlen` counts the 32 bits of `ifindex` too."""

    _fields_ = (
        ("prefixlen", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("address", ctypes.c_uint8 * 16),
    )


class Peer(ctypes.Structure):
    """What is in force for one peer. `enforce_until`: CLOCK_BOOTTIME ns; 0 observes, FOREVER enforces."""

    _fields_ = (
        ("enforce_until", ctypes.c_uint64),
        ("mtu", ctypes.c_uint16),
        ("mss4", ctypes.c_uint16),
        ("mss6", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
    )


class Counters(ctypes.Structure):
    """Counted per CPU and peer."""

    _fields_ = (
        ("clamped", ctypes.c_uint64),
        ("would_clamp", ctypes.c_uint64),
        ("oversize", ctypes.c_uint64),
        ("oversize_df_clear", ctypes.c_uint64),
        ("too_big_sent", ctypes.c_uint64),
        ("would_answer", ctypes.c_uint64),
        ("suppressed", ctypes.c_uint64),
        ("unanswerable", ctypes.c_uint64),
        ("large", ctypes.c_uint64),
        ("resent", ctypes.c_uint64),
        ("largest", ctypes.c_uint64),
    )


class Config(ctypes.Structure):
    """What holds for all peers. `flow_gap`, `large_gap`: ns; `builder`: an ifindex, 0 for none.

    `small_packet`: bytes, at most the smallest `large_limit` of all peers. `suspects`: peers whose value is in doubt;
    while it is not 0, acknowledgements are looked at (`Acked`). `attended_until`: CLOCK_BOOTTIME ns; after that the
    programs take the agent for gone, and take no ICMP, set no DF, look at no acknowledgements.
    """

    _fields_ = (
        ("builder", ctypes.c_uint32),
        ("per_sender", ctypes.c_uint32),
        ("per_peer", ctypes.c_uint32),
        ("small_packet", ctypes.c_uint32),
        ("flow_gap", ctypes.c_uint64),
        ("large_gap", ctypes.c_uint64),
        ("suspects", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("attended_until", ctypes.c_uint64),
    )


class Acked(ctypes.Structure):
    """Of a peer in doubt: the largest TCP segment (bytes on the wire) that was sent after `since`, and acknowledged.

    Times are CLOCK_BOOTTIME ns; `at`: of the acknowledgement. The agent writes `since`; 0: the peer is not in doubt.
    """

    _fields_ = (
        ("since", ctypes.c_uint64),
        ("at", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class Event(ctypes.Structure):
    """One record of the ring buffer.

    `size`: of the packet on the wire, and `mtu` the one in force; for UNDERLAY_ICMP what the message names, and the
    length of the quoted outer packet. `head`: the packet's first `head_length` bytes, `link` of which are link header.
    """

    _fields_ = (
        ("peer", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("mtu", ctypes.c_uint16),
        ("kind", ctypes.c_uint8),
        ("family", ctypes.c_uint8),
        ("link", ctypes.c_uint16),
        ("head_length", ctypes.c_uint16),
        ("flags", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8 * 3),
        ("head", ctypes.c_uint8 * 96),
    )


class EventKind(IntEnum):
    """What an event tells (enum clampd_event_kind)."""

    OVERSIZE = 0
    OVERSIZE_DF_CLEAR = 1
    SUPPRESSED = 2
    LARGE = 3
    RESENT = 4
    UNDERLAY_ICMP = 5


class EndpointKey(ctypes.Structure):
    """The remote end of a tunnel, as outer packets name it: `endpoint_key` makes it. Comparable, usable as a key."""

    _fields_ = (
        ("address", ctypes.c_uint8 * 16),
        ("port", ctypes.c_uint8 * 2),  # network order
        ("protocol", ctypes.c_uint8),
        ("family", ctypes.c_uint8),
    )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EndpointKey) and bytes(self) == bytes(other)

    def __hash__(self) -> int:
        return hash(bytes(self))

    def __repr__(self) -> str:
        port = int.from_bytes(bytes(self.port), "big")
        return f"EndpointKey({self.ip}, port {port}, protocol {self.protocol})"

    @property
    def ip(self) -> Address:
        """The address."""
        raw = bytes(self.address)
        return IPv4Address(raw[:4]) if self.family == 4 else IPv6Address(raw)


def endpoint_key(address: Address, port: int, protocol: int) -> EndpointKey:
    """`port`: the remote one; 0 for a protocol without ports, or for any port. `protocol`: of the outer IP packet."""
    return EndpointKey(
        tuple(address.packed.ljust(16, b"\0")), tuple(port.to_bytes(2, "big")), protocol, address.version
    )


class Endpoint(ctypes.Structure):
    """What is known of one. `source`: our port of the tunnel in network order; 0 if unknown, then a quote may show any.

    From `receiver` on the programs write: receiver index and highest counter of the last WireGuard data message,
    packets that left this machine in fragments, and when an event was due last (CLOCK_BOOTTIME ns).
    """

    _fields_ = (
        ("peer", ctypes.c_uint32),
        ("flags", ctypes.c_uint16),
        ("source", ctypes.c_uint8 * 2),
        ("receiver", ctypes.c_uint32),
        ("fragments", ctypes.c_uint32),
        ("counter", ctypes.c_uint64),
        ("told", ctypes.c_uint64),
    )


class LengthKey(ctypes.Structure):
    """A length of outer IP packets (bytes) that is under probe."""

    _fields_ = (
        ("endpoint", EndpointKey),
        ("length", ctypes.c_uint16),
        ("reserved", ctypes.c_uint16),
    )


class Length(ctypes.Structure):
    """`whole`: probes of that length that left this machine in one piece."""

    _fields_ = (
        ("whole", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class Order(ctypes.Structure):
    """What a program on a device tells the builder, in the place of an Ethernet header."""

    _pack_ = 1
    _fields_ = (
        ("ifindex", ctypes.c_uint32),
        ("mtu", ctypes.c_uint16),
        ("size", ctypes.c_uint16),
        ("link", ctypes.c_uint16),
        ("magic", ctypes.c_uint16),
        ("ethertype", ctypes.c_uint16),
    )


class Device(ctypes.Structure):
    """What whoever comes next must know of a device that carries our filters."""

    _fields_ = (
        ("qdisc_is_ours", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class Meta(ctypes.Structure):
    """Which programs these are."""

    _fields_ = (
        ("abi", ctypes.c_uint32),
        ("max_peers", ctypes.c_uint32),
        ("build", ctypes.c_uint8 * 32),
    )


MAPS = (
    "clampd_meta",
    "clampd_device",
    "clampd_pfx4",
    "clampd_pfx6",
    "clampd_peer",
    "clampd_count",
    "clampd_reason",
    "clampd_config",
    "clampd_flow",
    "clampd_sender",
    "clampd_rate",
    "clampd_burst",
    "clampd_events",
    "clampd_seen",
    "clampd_clock",
    "clampd_told",
    "clampd_stall",
    "clampd_acked",
    "clampd_prober",
    "clampd_near",
    "clampd_endpoint",
    "clampd_length",
)

PROGRAMS = (
    "clampd_l2_in",
    "clampd_l2_eg",
    "clampd_l3_in",
    "clampd_l3_eg",
    "clampd_u2_in",
    "clampd_u2_eg",
    "clampd_u3_in",
    "clampd_u3_eg",
    "clampd_answer",
)
"""Named by kind of device (with a link header, without) and hook: l for devices with peers, u for the underlay's; the
last builds answers on the private pair."""
