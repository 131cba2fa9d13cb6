"""The line again (lab.topology), with a gateway as people run it.

                                       gateway
                     ┌──────────────────────────────────────────┐
    client ───────── port ── lan (bridge)              DEVICE ═════ site, and the service behind it
    10.1.0.2         │       10.1.0.1                  10.2.0.1 │   10.2.0.2      203.0.113.1
                     └──────────────────────────────────────────┘

It masquerades on the device and on the uplink under it, lets in and through only what conntrack knows or the LAN
begins, drops what is invalid, clamps with a rule of its own, and checks reverse paths strictly. What the LAN sends is
marked; the mark is kept with the connection, and the service is found by it alone: nobody else has a route to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .command import LabError, Unsupported
from .lab import Lab
from .namespace import Namespace
from .topology import CLIENT, GATEWAY_LAN, KINDS, SITE, Line

SERVICE = {4: "203.0.113.1", 6: "2001:db8::1"}
PREFIXES = [f"{SITE[4]}/32", f"{SITE[6]}/128", f"{SERVICE[4]}/32", f"{SERVICE[6]}/128"]
MARK, TABLE = 1, 101

RULES = """
table inet gate {{
    chain marks {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "lan" meta mark set {mark}
        iifname "lan" ct mark set meta mark
        iifname != "lan" meta mark set ct mark
    }}
    chain reverse_paths {{
        type filter hook prerouting priority mangle + 10; policy accept;
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state {known} accept
        ct state invalid drop
        iifname "lo" accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        udp dport {{ 4789, 51820 }} accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        tcp flags syn tcp option maxseg size set rt mtu
        ct state {known} accept
        ct state invalid drop
        iifname "lan" accept
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname {{ "{device}", "outer" }} masquerade
    }}
}}
"""

FLOWTABLE = """
table inet gate {{
    flowtable fast {{ hook ingress priority 0; devices = {{ port, "{device}" }}; }}
}}
insert rule inet gate forward meta l4proto {{ tcp, udp }} ct state established flow add @fast
"""


@dataclass(frozen=True)
class Production(Line):
    """`port` is the bridge's, towards the client."""

    port: str

    def lan_offloads(self, on: bool) -> None:
        """Switch the offloads of the LAN's cable alone, but for GRO, which its network cards always do."""
        self.client.offloads("lan", on, gro=True)
        self.gateway.offloads(self.port, on, gro=True)

    def restrict(self, known: str) -> None:
        """Load the rules again, with other states that are let in and through."""
        self.gateway.nft("delete table inet gate")
        self.gateway.nft(_rules(self.device, known))

    def accelerate(self) -> None:
        """Put established flows on an nftables flowtable; Unsupported where the kernel has none."""
        try:
            self.gateway.nft(FLOWTABLE.format(device=self.device))
        except LabError as error:
            if "No such file or directory" in str(error) or "not supported" in str(error):
                raise Unsupported("this kernel has no flowtables (CONFIG_NF_FLOW_TABLE)") from error
            raise


def production(lab: Lab, kind: str = "veth", *, device: str = "wan") -> Production:
    """Build it over one of topology's KINDS; raises Unsupported if this kernel has no such device."""
    client, gateway, site = lab.namespaces("client", "gw", "site")
    gateway.forwards()
    lab.veth(client, "lan", gateway, "port")
    gateway.ip("link add lan type bridge", "link set port master lan", "link set port up")
    client.address("lan", f"{CLIENT[4]}/24", f"{CLIENT[6]}/64")
    gateway.address("lan", f"{GATEWAY_LAN[4]}/24", f"{GATEWAY_LAN[6]}/64")
    client.route(f"default via {GATEWAY_LAN[4]}", f"::/0 via {GATEWAY_LAN[6]}")
    near, far = KINDS[kind](lab, gateway, site, device)
    site.ip(f"address add {SERVICE[4]}/32 dev lo", f"address add {SERVICE[6]}/128 dev lo")
    _route_by_mark(gateway, near)
    for key, value in (("rp_filter", 1), ("src_valid_mark", 1)):
        gateway.sysctl(f"net.ipv4.conf.all.{key}", value)
    gateway.nft(_rules(near))
    return Production(client, gateway, site, near, far, "port")


def _rules(device: str, known: str = "established,related") -> str:
    return RULES.format(device=device, known=known, mark=MARK)


def _route_by_mark(gateway: Namespace, device: str) -> None:
    """What main knows better than by a default route goes as main says; the rest by its mark, or not at all."""
    for version, via in (("-4", SITE[4]), ("-6", SITE[6])):
        rule = ["ip", version, "rule", "add"]
        gateway.run(*rule, "priority", "100", "table", "main", "suppress_prefixlength", "0")
        gateway.run(*rule, "priority", "101", "fwmark", str(MARK), "table", str(TABLE))
        gateway.run("ip", version, "route", "add", "default", "via", via, "dev", device, "table", str(TABLE))
