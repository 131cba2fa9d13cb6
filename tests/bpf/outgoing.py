"""What the answers are tested with: peers of every MTU, and packets towards them.

BPF_PROG_TEST_RUN takes up to 3,712 bytes (a page less the kernel's own room; seen in 6.18), and holds the first 14 for
an Ethernet header whatever the program. For programs on devices without one that means

- skb->protocol comes from bytes 12 and 13, the start of an IPv4 source or the third word of an IPv6 source: so all
  sources there are of 8.0.0.0/16 and 2001:db8:86dd::/48, and forbidden ones can be had with a link header only
  (but for IPv6 multicast);
- skb->pkt_type comes from byte 0: an IPv4 header of an odd number of words (0x45, ...) passes for a multicast frame.

test_too_big_hooks.py has these on real devices.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from bpf.packets import ETHERNET
from mssclamp.wire.too_big import Towards

LARGEST_TEST_RUN = 3712
"""Bytes."""

MTUS = (576, 577, 900, 1279, 1280, 1281, 1340, 1420, 1499, 1500)
KINDS = ("enforced", "observed", "unproven")

GROUPS = "groups"
"""The name of the peer that multicast and broadcast destinations lead to."""


@dataclass(frozen=True)
class Peer:
    """One peer of the tests. Its place in PEERS is its index in the kernel's maps."""

    name: str
    prefixes: tuple[str, ...]
    towards: Towards


PEERS = (
    *(
        Peer(
            f"{kind} {mtu}",
            (f"8.0.{place}.0/24", f"2001:db8:86dd:{place:x}::/64"),
            Towards(mtu, answer=kind != "unproven", enforce=kind != "observed"),
        )
        for place, (kind, mtu) in enumerate(((kind, mtu) for kind in KINDS for mtu in MTUS), 1)
    ),
    Peer(GROUPS, ("224.0.0.0/3", "ff00::/8"), Towards(1400)),
)

INDEX = {peer.name: index for index, peer in enumerate(PEERS)}


def address_of(name: str, version: int, host: int = 7) -> bytes:
    """An address of a peer."""
    prefix = ip_network(PEERS[INDEX[name]].prefixes[version == 6])
    return (prefix.network_address + host).packed


_NETWORKS = tuple(tuple(map(ip_network, peer.prefixes)) for peer in PEERS)


@functools.cache
def peer_of(address: bytes) -> int | None:
    """The index of the peer that holds the address: no two prefixes overlap."""
    at = ip_address(address)
    return next((index for index, networks in enumerate(_NETWORKS) if at in networks[at.version == 6]), None)


def towards(address: bytes) -> Towards | None:
    """What is in force for that peer: the model's view of the kernel's maps."""
    index = peer_of(address)
    return None if index is None else PEERS[index].towards


class Outgoing(NamedTuple):
    """One packet on a device's egress. With `gso_size` (bytes) it is a super-packet."""

    data: bytes
    link_header: bool
    gso_size: int = 0
    gso_segs: int = 0
    mark: int = 0

    @property
    def ethertype(self) -> int:
        """skb->protocol, as BPF_PROG_TEST_RUN makes it up."""
        return int.from_bytes(self.data[12:14], "big")

    @property
    def group_frame(self) -> bool:
        """Whether skb->pkt_type is broadcast or multicast, as BPF_PROG_TEST_RUN makes it up."""
        return bool(self.data[0] & 1)

    @property
    def datagram(self) -> bytes:
        """The packet without its link header."""
        return self.data[ETHERNET:] if self.link_header else self.data

    def __str__(self) -> str:
        kind = f"super-packet of {self.gso_size} a segment, " if self.gso_size else ""
        layer = "Ether" if self.link_header else "IPv6" if self.data[0] >> 4 == 6 else "IP"
        return f"{kind}{len(self.datagram)} bytes\n{layer}(bytes.fromhex({self.data.hex()!r})).show()"
