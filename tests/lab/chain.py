"""The classic chain, whose middle link can shrink without a word.

    host ───── gateway ───── router ═══════════ router ───── gateway ───── host
               end 1 │                 middle                │ end 2
                     └─────────── WireGuard, MTU 1420 ───────┘

Each end n has its LAN (10.1.n.0/24, fd00:1:n::/64) behind its gateway (inside the tunnel 10.99.0.n, fd00:99::n). The
underlay has addresses of both families; one of them carries the tunnel. Its packets are on every cable as they would be
on a real one: no super-packets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from .forgery import forge_too_big
from .lab import ETHERNET_MTU, Lab
from .namespace import Namespace
from .wireguard import WireGuard

DEVICE_MTU = 1420
OVERHEAD = {4: 60, 6: 80}
"""Of WireGuard over each family, before padding."""
PADDING = 16
SESSION_SECONDS = 10.0

LOSSY = """
table netdev lossy
delete table netdev lossy
table netdev lossy {{
    chain arriving {{
        type filter hook ingress device "middle" priority -1;
        {chance} counter drop
    }}
}}
"""

COUNTING = """
table inet counting {
    counter outer { }
    chain passing { type filter hook forward priority 0; meta l4proto udp counter name outer; }
}
"""

NARROW = """
table netdev narrow
delete table netdev narrow
table netdev narrow {{
    counter large {{ }}
    counter fragments {{ }}
    counter too_big {{ }}
    chain arriving {{
        type filter hook ingress device "middle" priority 0;
        icmp type destination-unreachable icmp code frag-needed counter name too_big drop
        icmpv6 type packet-too-big counter name too_big drop
        ip frag-off & 0x3fff != 0 counter name fragments drop
        exthdr frag exists counter name fragments drop
        meta length > {size} counter name large drop
    }}
}}
"""


@dataclass(frozen=True)
class End:
    """One end: `number` is in its addresses, `family` carries the tunnel."""

    number: int
    family: int
    host: Namespace
    gateway: Namespace
    router: Namespace
    tunnel: WireGuard

    @property
    def host_address(self) -> dict[int, str]:
        """Inner addresses of the host, by family."""
        return {4: f"10.1.{self.number}.2", 6: f"fd00:1:{self.number}::2"}

    @property
    def prefixes(self) -> list[str]:
        """What the other end lets in: this gateway in the tunnel, and the LAN behind it."""
        return [*_inside(self.number), f"10.1.{self.number}.0/24", f"fd00:1:{self.number}::/64"]

    @property
    def endpoint(self) -> str:
        """The gateway's outer address."""
        return outer(self.number)[self.family]


@dataclass(frozen=True)
class Chain:
    """Two ends and the link between their routers."""

    family: int
    ends: tuple[End, End]

    def shrink(self, size: int = ETHERNET_MTU) -> None:
        """From now on the middle link loses what is over `size` bytes, all fragments, and all that says "too big".

        Its routers' devices keep their MTU, so nobody else says so either. Also how it gets larger again.
        """
        for end in self.ends:
            end.router.nft(NARROW.format(size=size))

    def restore(self) -> None:
        """Lose nothing any more."""
        for end in self.ends:
            end.router.nft("table netdev narrow\ndelete table netdev narrow")

    def loses(self, percent: int) -> None:
        """Let the middle link lose so many of all packets, whatever their size, each way."""
        chance = f"numgen random mod 100 < {percent}" if percent < 100 else ""
        for end in self.ends:
            end.router.nft(LOSSY.format(chance=chance))

    def dropped(self) -> dict[str, int]:
        """How many packets were lost in the middle since it last changed: `large`, `fragments` and `too_big`."""
        one, other = (_counters(end.router, "netdev narrow") for end in self.ends)
        return {name: one[name] + other[name] for name in one}

    def outer_packets(self) -> int:
        """How many packets of tunnels end 1's router has forwarded, both ways."""
        return _counters(self.ends[0].router, "inet counting")["outer"]

    def honest(self, mtu: int) -> None:
        """Make the middle link one of this MTU, whose routers fragment or say "too big", as they should."""
        for end in self.ends:
            end.router.ip(f"link set middle mtu {mtu}")

    def wakes(self) -> None:
        """Until there is a session: each gateway answers the other's ping."""
        for end, other in (self.ends, self.ends[::-1]):
            end.gateway.reaches(_inside(other.number)[0].partition("/")[0], timeout=SESSION_SECONDS)

    def forget_paths(self) -> None:
        """Let everybody try large packets again."""
        for end in self.ends:
            for namespace in (end.host, end.gateway):
                namespace.forget_paths()

    def forges_too_big(self, mtu: int, *, count: int = 1) -> None:
        """Somebody who never saw a packet of the tunnel talks to end 1's gateway about it, with the right addresses
        and ports."""
        near, far = ((end.endpoint, end.tunnel.port) for end in self.ends)
        forge_too_big(self.ends[0].router, outer(9)[self.family], near, far, mtu, count=count)


def chain(lab: Lab, family: int) -> Chain:
    """Build it with its tunnel over this family, with a live session."""
    routers = lab.namespaces("r1", "r2")
    lab.veth(routers[0], "middle", routers[1], "middle")
    ends = _end(lab, 1, family, routers[0]), _end(lab, 2, family, routers[1])
    for end, other in (ends, ends[::-1]):
        end.router.address("middle", f"203.0.113.{end.number}/24", f"2001:db8:f::{end.number}/64")
        end.router.offloads("middle", False)
        end.router.route(f"default via 203.0.113.{other.number}", f"::/0 via 2001:db8:f::{other.number}")
        end.tunnel.knows(other.tunnel, allowed=other.prefixes, endpoint=other.endpoint)
        end.gateway.route(*(f"{prefix} dev {end.tunnel.name}" for prefix in other.prefixes))
    ends[0].router.nft(COUNTING)
    built = Chain(family, ends)
    built.wakes()
    return built


def inner_limit(path: int, family: int) -> int:
    """The largest inner packet that wireguard-go gets over a path: below the device's MTU it pads to 16 bytes."""
    room = path - OVERHEAD[family]
    return DEVICE_MTU if room >= DEVICE_MTU else room // PADDING * PADDING


def outer(number: int) -> dict[int, str]:
    """A gateway's outer addresses, by family."""
    return {4: f"198.18.{number}.1", 6: f"2001:db8:{number}::1"}


def _end(lab: Lab, number: int, family: int, router: Namespace) -> End:
    host, gateway = lab.namespaces(f"h{number}", f"gw{number}")
    lab.veth(host, "lan", gateway, "lan")
    lab.veth(gateway, "outer", router, "near")
    host.address("lan", f"10.1.{number}.2/24", f"fd00:1:{number}::2/64")
    gateway.address("lan", f"10.1.{number}.1/24", f"fd00:1:{number}::1/64")
    gateway.address(
        "outer", *(f"{address}/{length}" for address, length in zip(outer(number).values(), (24, 64), strict=True))
    )
    router.address("near", f"198.18.{number}.254/24", f"2001:db8:{number}::fe/64")
    for namespace, device in ((gateway, "outer"), (router, "near")):
        namespace.offloads(device, False)
    host.route(f"default via 10.1.{number}.1", f"::/0 via fd00:1:{number}::1")
    gateway.route(f"default via 198.18.{number}.254", f"::/0 via 2001:db8:{number}::fe")
    gateway.forwards()
    router.forwards()
    tunnel = lab.wireguard(gateway, addresses=_inside(number), mtu=DEVICE_MTU)
    return End(number, family, host, gateway, router, tunnel)


def _counters(namespace: Namespace, table: str) -> dict[str, int]:
    listed = json.loads(namespace.run("nft", "-j", "list", "counters", "table", *table.split()).stdout)["nftables"]
    return {entry["counter"]["name"]: entry["counter"]["packets"] for entry in listed if "counter" in entry}


def _inside(number: int) -> list[str]:
    return [f"10.99.0.{number}/32", f"fd00:99::{number}/128"]
