"""The line that most tests stand on, over every kind of link.

                  10.1.0.0/24              10.2.0.0/24
                  fd00:1::/64              fd00:2::/64
         client ───────────── gateway ═══════════════ site
               lan         lan       DEVICE   far device

What the double line is depends on the kind: a cable, a cable with VLAN tags, or a tunnel over an underlay
(192.0.2.0/24) whose packets the routers in between carry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .bpf import POP_VLAN, TcProgram, push_vlan
from .capture import Capture
from .lab import Lab
from .namespace import Namespace
from .packet import Segment
from .traffic import Connection, transfer

CLIENT = {4: "10.1.0.2", 6: "fd00:1::2"}
GATEWAY_LAN = {4: "10.1.0.1", 6: "fd00:1::1"}
GATEWAY = {4: "10.2.0.1", 6: "fd00:2::1"}
SITE = {4: "10.2.0.2", 6: "fd00:2::2"}
SITE_PREFIXES = ["10.2.0.2/32", "fd00:2::2/128"]
"""The site alone: the gateway's own address on the line is nobody's."""

EVERYTHING = ["0.0.0.0/0", "::/0"]

GATEWAY_OUTER, SITE_OUTER = "192.0.2.1", "198.51.100.1"
ROUTER_NEAR, ROUTER_FAR = "192.0.2.254", "198.51.100.254"

VLAN = 5
BEFORE_CLAMPD, AFTER_CLAMPD = 10, 60
"""Priorities of tc filters around clampd's own, 49."""


@dataclass(frozen=True)
class Line:
    """A client and a site with a gateway between them; `device` is the one that clampd is to manage."""

    client: Namespace
    gateway: Namespace
    site: Namespace
    device: str
    far_device: str

    def offloads(self, on: bool) -> None:
        """Switch the offloads of every device; off: each packet is on the wire as a real one would be."""
        for namespace, device in (
            (self.client, "lan"),
            (self.gateway, "lan"),
            (self.gateway, self.device),
            (self.site, self.far_device),
        ):
            namespace.offloads(device, on)


class Ends:
    """Captures at both ends of a line, and what a new connection looks like there."""

    def __init__(self, lab: Lab, line: Line) -> None:
        self._line = line
        self.at_client = lab.capture(line.client, "lan")
        self.at_site = lab.capture(line.site, line.far_device)

    def mss(self, family: int = 4, *, size: int = 1000) -> tuple[int | None, int | None]:
        """Open a connection from client to site that carries `size` bytes each way.

        Returns the MSS in the SYN as the site got it, and in the SYN-ACK as the client got it.
        """
        connection = transfer(self._line.client, self._line.site, SITE[family], size=size)
        return self.syn(self.at_site, connection).mss, self.syn(self.at_client, connection).mss

    @staticmethod
    def syn(capture: Capture, connection: Connection) -> Segment:
        """The SYN or SYN-ACK of a connection that arrived at this end."""
        ports = {connection.client_port, connection.server_port}
        found = capture.wait_for_segments(
            lambda segment: segment.is_syn and {segment.source_port, segment.destination_port} == ports,
            f"a SYN between the ports {ports}",
        )
        return found[0]


def line(lab: Lab, kind: str = "veth", *, device: str = "wan") -> Line:
    """Build the line over one of KINDS; raises Unsupported if this kernel has no such device."""
    client, gateway, site = lab.namespaces("client", "gw", "site")
    gateway.forwards()
    lab.veth(client, "lan", gateway, "lan")
    client.address("lan", f"{CLIENT[4]}/24", f"{CLIENT[6]}/64")
    gateway.address("lan", f"{GATEWAY_LAN[4]}/24", f"{GATEWAY_LAN[6]}/64")
    client.route(f"default via {GATEWAY_LAN[4]}", f"::/0 via {GATEWAY_LAN[6]}")
    near, far = KINDS[kind](lab, gateway, site, device)
    routes_to_client(site, far)
    return Line(client, gateway, site, near, far)


def routes_to_client(site: Namespace, device: str) -> None:
    """The site's way back, which goes with its device."""
    site.route(f"10.1.0.0/24 via {GATEWAY[4]} dev {device}", f"fd00:1::/64 via {GATEWAY[6]} dev {device}")


def cable(lab: Lab, gateway: Namespace, site: Namespace, device: str) -> tuple[str, str]:
    """Join gateway and site by a veth pair; also how a test brings back a cable that it has cut."""
    lab.veth(gateway, device, site, device)
    _address(gateway, device, site, device)
    return device, device


def _tagged(lab: Lab, gateway: Namespace, site: Namespace, device: str) -> tuple[str, str]:
    """A cable whose packets all bear a VLAN tag at the moment that clampd's programs see them."""
    names = cable(lab, gateway, site, device)
    for namespace in (gateway, site):
        lab.enter(TcProgram(namespace, device, "egress", push_vlan(VLAN), priority=BEFORE_CLAMPD))
        lab.enter(TcProgram(namespace, device, "ingress", POP_VLAN, priority=AFTER_CLAMPD))
    return names


def _vlan(lab: Lab, gateway: Namespace, site: Namespace, device: str) -> tuple[str, str]:
    """802.1Q devices of the kernel on a trunk."""
    lab.veth(gateway, "trunk", site, "trunk")
    for namespace in (gateway, site):
        namespace.ip("link set trunk up")
        lab.vlan(namespace, device, trunk="trunk", number=VLAN)
    _address(gateway, device, site, device)
    return device, device


def _vxlan(lab: Lab, gateway: Namespace, site: Namespace, device: str) -> tuple[str, str]:
    _underlay(lab, gateway, site)
    for namespace, local, remote in (
        (gateway, GATEWAY_OUTER, SITE_OUTER),
        (site, SITE_OUTER, GATEWAY_OUTER),
    ):
        lab.vxlan(namespace, device, number=7, local=local, remote=remote, mtu=1450)
    _address(gateway, device, site, device)
    return device, device


def _gre(lab: Lab, gateway: Namespace, site: Namespace, device: str) -> tuple[str, str]:
    _underlay(lab, gateway, site)
    for namespace, local, remote in (
        (gateway, GATEWAY_OUTER, SITE_OUTER),
        (site, SITE_OUTER, GATEWAY_OUTER),
    ):
        lab.gre(namespace, device, local=local, remote=remote, mtu=1476)
    _address(gateway, device, site, device)
    return device, device


def _wireguard(lab: Lab, gateway: Namespace, site: Namespace, _: str) -> tuple[str, str]:
    """A tunnel over a path that swallows every outer packet above 1400 bytes without a word."""
    router = _underlay(lab, gateway, site)
    router.swallows_above(1400)
    near = lab.wireguard(gateway, addresses=[f"{GATEWAY[4]}/24", f"{GATEWAY[6]}/64"])
    far = lab.wireguard(site, addresses=[f"{SITE[4]}/24", f"{SITE[6]}/64"])
    near.knows(far, allowed=EVERYTHING, endpoint=SITE_OUTER)
    far.knows(near, allowed=EVERYTHING, endpoint=GATEWAY_OUTER)
    return near.name, far.name


def _address(gateway: Namespace, near: str, site: Namespace, far: str) -> None:
    gateway.address(near, f"{GATEWAY[4]}/24", f"{GATEWAY[6]}/64")
    site.address(far, f"{SITE[4]}/24", f"{SITE[6]}/64")


def _underlay(lab: Lab, gateway: Namespace, site: Namespace) -> Namespace:
    """gateway ── router ── site, for a tunnel's outer packets; the router."""
    (router,) = lab.namespaces("rt")
    router.forwards()
    lab.veth(gateway, "outer", router, "near")
    lab.veth(router, "far", site, "outer")
    gateway.address("outer", f"{GATEWAY_OUTER}/24")
    router.address("near", f"{ROUTER_NEAR}/24")
    router.address("far", f"{ROUTER_FAR}/24")
    site.address("outer", f"{SITE_OUTER}/24")
    gateway.route(f"198.51.100.0/24 via {ROUTER_NEAR}")
    site.route(f"192.0.2.0/24 via {ROUTER_FAR}")
    return router


KINDS: dict[str, Callable[[Lab, Namespace, Namespace, str], tuple[str, str]]] = {
    "veth": cable,
    "tagged": _tagged,
    "vlan": _vlan,
    "vxlan": _vxlan,
    "gre": _gre,
    "wireguard": _wireguard,
}
"""What can stand between gateway and site."""


def mss_for(mtu: int, family: int) -> int:
    """The MSS for an MTU: less the fixed headers of IP and TCP (RFC 6691)."""
    return mtu - {4: 40, 6: 60}[family]
