"""Tunnels of other kinds between the gateways, one at a time, always called `branch`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from .addresses import OTHER_A, OTHER_B, OUTER_A, OUTER_B
from .site import Site

DEVICE = "branch"


@dataclass(frozen=True)
class Kind:
    """`options` as after `ip link add NAME type`; the overhead is the one that arithmetic gives."""

    name: str
    options: str
    overhead: int
    outer: int = 4
    inner: tuple[int, ...] = (4, 6)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("gre", "gre local {near} remote {far} ttl 64", 20 + 4),
        Kind("gretap", "gretap local {near} remote {far} ttl 64", 20 + 4 + 14),
        Kind("ipip", "ipip local {near} remote {far} ttl 64", 20, inner=(4,)),
        Kind("sit", "sit local {near} remote {far} ttl 64", 20, inner=(6,)),
        Kind("vxlan", "vxlan id 7 dstport 4789 local {near} remote {far}", 20 + 8 + 8 + 14),
        Kind("vxlan6", "vxlan id 7 dstport 4789 local {near} remote {far}", 40 + 8 + 8 + 14, outer=6),
        Kind("geneve", "geneve id 7 remote {far}", 20 + 8 + 8 + 14),
        Kind("ip6gre", "ip6gre local {near} remote {far}", 40 + 8 + 4, outer=6),
        Kind("ip6tnl", "ip6tnl mode any local {near} remote {far}", 40 + 8, outer=6),
    )
}


@contextlib.contextmanager
def tunnel(site: Site, kind: Kind) -> Iterator[None]:
    """Between the gateways, with routes for the hosts' other addresses."""
    sides = (
        (site.gw_a, OUTER_A, OUTER_B, 1, 2, OTHER_B),
        (site.gw_b, OUTER_B, OUTER_A, 2, 1, OTHER_A),
    )
    with contextlib.ExitStack() as undo:
        for gateway, near, far, own, others, destination in sides:
            options = kind.options.format(near=near[kind.outer], far=far[kind.outer])
            gateway.ip(f"link add {DEVICE} type {options}")
            undo.enter_context(gateway.undo("ip", "link", "delete", DEVICE))
            gateway.ip(f"link set {DEVICE} up")
            if 4 in kind.inner:
                gateway.ip(
                    f"address add 10.98.0.{own}/24 dev {DEVICE}",
                    f"route add {destination[4]} via 10.98.0.{others} dev {DEVICE}",
                )
            if 6 in kind.inner:
                gateway.ip(
                    f"address add fd98::{own}/64 dev {DEVICE} nodad",
                    f"route add {destination[6]} via fd98::{others} dev {DEVICE}",
                )
        yield


def peer_table(mtu: int | None, *, prefixes: list[str] | None = None, device: str = DEVICE) -> str:
    """The other gateway as a peer, in clampd's configuration; without an MTU it is to be found."""
    shown = prefixes or [f"{OTHER_B[4]}/32", f"{OTHER_B[6]}/128"]
    listed = ", ".join(f'"{prefix}"' for prefix in shown)
    known = f"mtu = {mtu}\n" if mtu else ""
    return f'mode = "enforce"\n[[peer]]\nname = "branch"\ndevice = "{device}"\nprefixes = [{listed}]\n{known}'
