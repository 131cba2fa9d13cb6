"""Devices of this network namespace, and word of their changes."""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

from pyroute2 import IPRoute

from mssclamp.wire.route import parse

ARPHRD_ETHER = 1
ARPHRD_LOOPBACK = 772

# linux/if_arp.h: devices whose packets begin with the IP header at the tc hooks.
_WITHOUT_LINK_HEADER = {
    512: "ppp",
    519: "rawip",
    768: "ipip",
    769: "ip6tnl",
    776: "sit",
    778: "gre",
    823: "ip6gre",
    65534: "none",  # wireguard, tun
}

_WIREGUARD_SOCKETS = (Path("/run/wireguard"), Path("/var/run/wireguard"))

_IFF_UP = 0x1
_RTMGRP_LINK = 0x1
_RTMGRP_TC = 0x8

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_DROP_MEMBERSHIP = 2
_ROUTE_GROUPS = (7, 11)
"""RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE."""

_ROUTE_CHANGES = (24, 25)
"""RTM_NEWROUTE, RTM_DELROUTE."""

_MESSAGE = struct.Struct("=IH")  # struct nlmsghdr begins with its length and type
_MESSAGE_HEADER = 16


@dataclass(frozen=True)
class Link:
    """One device. `kind` is the driver's word (veth, vxlan, wireguard, tun, ...), "" for a physical one."""

    index: int
    name: str
    mtu: int
    hardware_type: int
    kind: str
    is_up: bool = True
    """Set so by an administrator (IFF_UP)."""
    received: int = field(default=0, compare=False)
    """Packets so far."""
    sent: int = field(default=0, compare=False)

    @property
    def has_link_header(self) -> bool:
        """Whether packets at the tc hooks begin with an Ethernet header (else with the IP header)."""
        return self.hardware_type in (ARPHRD_ETHER, ARPHRD_LOOPBACK)

    @property
    def is_supported(self) -> bool:
        """Whether we know where its packets' IP header begins."""
        return self.has_link_header or self.hardware_type in _WITHOUT_LINK_HEADER

    @property
    def is_wireguard(self) -> bool:
        """The kernel's driver, or a TUN device whose user-space implementation has its API socket open.

        The sockets' folder is shared by all namespaces: the TUN device of that name is in ours, so it counts.
        """
        if self.kind == "wireguard":
            return True
        return self.kind == "tun" and wireguard_socket(self.name) is not None


def wireguard_socket(device: str) -> Path | None:
    """The API socket of a user-space WireGuard device's program, if there is one of that name."""
    paths = (place / f"{device}.sock" for place in _WIREGUARD_SOCKETS)
    return next((path for path in paths if path.exists()), None)


def list_links(netlink: IPRoute) -> list[Link]:
    """The devices of the namespace that `netlink` was opened in."""
    links = []
    for message in netlink.get_links():
        info = message.get_attr("IFLA_LINKINFO")
        counts = message.get_attr("IFLA_STATS64") or {}
        links.append(
            Link(
                index=message["index"],
                name=message.get_attr("IFLA_IFNAME"),
                mtu=message.get_attr("IFLA_MTU") or 0,
                hardware_type=message["ifi_type"],
                kind=(info.get_attr("IFLA_INFO_KIND") if info is not None else None) or "",
                is_up=bool(message["flags"] & _IFF_UP),
                received=counts.get("rx_packets", 0),
                sent=counts.get("tx_packets", 0),
            )
        )
    return links


class ChangeMonitor:
    """A socket that becomes readable when a device, a qdisc, a filter or, if asked for, a route changes.

    What changed is hardly looked at: whoever is told looks at everything again, so a lost message costs nothing.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_TC))
        self._routed: frozenset[int] = frozenset()

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def follow_routes(self, ifindexes: frozenset[int]) -> None:
        """Hears of routes out of these devices too. Without any of no route: big gateways' tables never rest."""
        if bool(ifindexes) != bool(self._routed):
            what = _NETLINK_ADD_MEMBERSHIP if ifindexes else _NETLINK_DROP_MEMBERSHIP
            for group in _ROUTE_GROUPS:
                self._socket.setsockopt(_SOL_NETLINK, what, group)
        self._routed = ifindexes

    def drain(self) -> bool:
        """Reads what has piled up; whether it is worth a look. An overflow (ENOBUFS) is."""
        news = False
        while True:
            try:
                news = self._concerns(self._socket.recv(65536)) or news
            except BlockingIOError:
                return news
            except OSError:
                with contextlib.suppress(OSError):
                    self._socket.recv(65536)
                return True

    def _concerns(self, message: bytes) -> bool:
        """Everything does but routes out of devices that nobody asked about (the kernel tells one at a time)."""
        _, kind = _MESSAGE.unpack_from(message)
        if kind not in _ROUTE_CHANGES:
            return True
        try:
            ifindex = parse(message[_MESSAGE_HEADER:]).ifindex
        except ValueError:
            return True
        return ifindex is None or ifindex in self._routed

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
