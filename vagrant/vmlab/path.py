"""What can happen to the path between the gateways: it shrinks, and its routers keep quiet about it."""

from __future__ import annotations

from .machine import Machine

DEVICES = ("eth1", "eth2")
WHOLE = 1500

FRAGMENTS = """
table netdev fragments {{
    chain leaving_{device} {{
        type filter hook egress device {device} priority 0; policy accept;
        ip frag-off & 0x3fff != 0 counter drop
        ip6 nexthdr ipv6-frag counter drop
    }}
}}
"""

TOO_BIG = """
table inet too_big {
    chain forwarded { type filter hook forward priority 0; policy accept; jump drops; }
    chain own       { type filter hook output priority 0; policy accept; jump drops; }
    chain drops {
        icmp type destination-unreachable icmp code frag-needed counter drop
        icmpv6 type packet-too-big counter drop
    }
}
"""

SWALLOW = """
table inet swallow {{
    chain forwarded {{ type filter hook forward priority 0; policy accept; meta length > {size} counter drop; }}
}}
"""


class Path:
    """The router's side of it. Each fault stays until `clear`."""

    def __init__(self, router: Machine) -> None:
        self.router = router

    def shrink(self, mtu: int) -> None:
        """Its links carry no more than `mtu` bytes: the router fragments what may be fragmented, and says "too big" of
        the rest. (That the gateways' ends of the links do not know is what hides it from them.)"""
        self.router.ip(*(f"link set {device} mtu {mtu}" for device in DEVICES))

    def drop_fragments(self) -> None:
        """Fragments do not leave the router. (In its own postrouting hook they do not exist yet.)"""
        for device in DEVICES:
            self.router.nft(FRAGMENTS.format(device=device))

    def drop_too_big(self) -> None:
        """No ICMP that says "too big" leaves the router, its own or another's."""
        self.router.nft(TOO_BIG)

    def swallow(self, size: int) -> None:
        """IP packets over `size` bytes vanish in the router, and it says nothing."""
        self.router.nft(SWALLOW.format(size=size))

    def black_hole(self, mtu: int) -> None:
        """The path shrinks, both ways, and neither fragments nor messages about it pass."""
        self.drop_fragments()
        self.drop_too_big()
        self.shrink(mtu)

    def clear(self) -> None:
        """As it was in the beginning."""
        self.router.nft("flush ruleset")
        self.router.ip(*(f"link set {device} mtu {WHOLE}" for device in DEVICES))
        for version in ("-4", "-6"):
            self.router.run("ip", version, "route", "flush", "cache")
