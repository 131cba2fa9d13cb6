"""Mirrors of bpf/abi.h, the contract with the programs in the kernel.

tests/bpf/test_abi.py compiles the header and compares every size and offset with these.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

from mssclamp.wire.clamp import Reason as Reason  # enum clampd_reason; the model knows the same

ABI = 2

FOREVER = 2**64 - 1
"""`Peer.enforce_until` of a peer that is enforced until somebody says otherwise."""

PEER_CLAMP = 1
"""`Peer.flags`: rewrite the MSS of this peer's SYNs."""

PEER_ANSWER = 2
"""`Peer.flags`: answer packets over its MTU."""

ORDER_MAGIC = 0xC1A3


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
        ("largest", ctypes.c_uint64),
    )


class Config(ctypes.Structure):
    """What holds for all peers. `flow_gap`: ns; `builder`: an ifindex, 0 for none."""

    _fields_ = (
        ("builder", ctypes.c_uint32),
        ("per_sender", ctypes.c_uint32),
        ("per_peer", ctypes.c_uint32),
        ("small_packet", ctypes.c_uint32),
        ("flow_gap", ctypes.c_uint64),
    )


class Event(ctypes.Structure):
    """One record of the ring buffer."""

    _fields_ = (
        ("peer", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("mtu", ctypes.c_uint16),
        ("kind", ctypes.c_uint8),
        ("family", ctypes.c_uint8),
    )


class EventKind(IntEnum):
    """What an event tells (enum clampd_event_kind)."""

    OVERSIZE = 0
    OVERSIZE_DF_CLEAR = 1
    SUPPRESSED = 2


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
)

PROGRAMS = ("clampd_l2_in", "clampd_l2_eg", "clampd_l3_in", "clampd_l3_eg", "clampd_answer")
"""Named by kind of device (with a link header, without) and hook; the last builds answers on the private pair."""
