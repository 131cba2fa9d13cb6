"""struct __sk_buff, as BPF_PROG_TEST_RUN takes it in and hands it back."""

from __future__ import annotations

import ctypes
from typing import Self

_U32 = ctypes.c_uint32


class SkBuff(ctypes.Structure):
    """<linux/bpf.h>. On the way in Linux (seen in 6.18) takes mark, priority, ingress_ifindex, ifindex, cb, tstamp,
    wire_len, gso_segs, gso_size and hwtstamp; anything else that is not zero gets EINVAL. pkt_type and protocol it
    makes up itself, from what it holds to be the packet's Ethernet header. Back come mark, priority, ifindexes, cb,
    tstamp, wire_len, gso_segs (not gso_size) and hwtstamp.
    """

    _fields_ = (
        *((name, _U32) for name in ("len", "pkt_type", "mark", "queue_mapping", "protocol")),
        *(
            (name, _U32)
            for name in ("vlan_present", "vlan_tci", "vlan_proto", "priority", "ingress_ifindex", "ifindex")
        ),
        ("tc_index", _U32),
        ("cb", _U32 * 5),
        *((name, _U32) for name in ("hash", "tc_classid", "data", "data_end", "napi_id", "family")),
        ("remote_ip4", _U32),
        ("local_ip4", _U32),
        ("remote_ip6", _U32 * 4),
        ("local_ip6", _U32 * 4),
        *((name, _U32) for name in ("remote_port", "local_port", "data_meta")),
        ("flow_keys", ctypes.c_uint64),
        ("tstamp", ctypes.c_uint64),
        ("wire_len", _U32),
        ("gso_segs", _U32),
        ("sk", ctypes.c_uint64),
        ("gso_size", _U32),
        ("tstamp_type", _U32),
        ("hwtstamp", ctypes.c_uint64),
    )

    @classmethod
    def of(cls, ctx: bytearray) -> Self:
        """What a program made of it."""
        return cls.from_buffer_copy(ctx)
