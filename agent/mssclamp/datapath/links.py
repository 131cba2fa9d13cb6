"""Devices of this network namespace, and word of their changes."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from pathlib import Path

from pyroute2 import IPRoute

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

_RTMGRP_LINK = 0x1
_RTMGRP_TC = 0x8


@dataclass(frozen=True)
class Link:
    """One device. `kind` is the driver's word (veth, vxlan, wireguard, tun, ...), "" for a physical one."""

    index: int
    name: str
    mtu: int
    hardware_type: int
    kind: str
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
                received=counts.get("rx_packets", 0),
                sent=counts.get("tx_packets", 0),
            )
        )
    return links


class ChangeMonitor:
    """A socket that becomes readable when a device, a qdisc or a filter changes.

    What changed is not looked at: whoever is told looks at everything again, so a lost message costs nothing.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_TC))

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Reads what has piled up. An overflow (ENOBUFS) is a message like any other: look again."""
        while True:
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                with contextlib.suppress(OSError):
                    self._socket.recv(65536)
                return

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
