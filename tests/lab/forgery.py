"""ICMP messages as somebody sends them who never saw a packet of the flow that they are about."""

from __future__ import annotations

import contextlib
import socket

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6

from .namespace import Namespace

QUOTED_PAYLOAD = b"\4\0\0\0" + bytes(28)
"""As a data message of WireGuard begins; receiver and counter are guesses."""


def forge_too_big(
    sender: Namespace, source: str, near: tuple[str, int], far: tuple[str, int], mtu: int, *, count: int = 1
) -> None:
    """Send "too big, MTU `mtu`" from `source` to `near`, about a UDP packet of 1480 bytes from there to `far`.

    Addresses with ports: everybody may know them, and they are all that has to be right.
    """
    udp = UDP(sport=near[1], dport=far[1], len=1460, chksum=0xABCD) / QUOTED_PAYLOAD
    if ":" in near[0]:
        quote = IPv6(src=near[0], dst=far[0], plen=1460) / udp
        packet = IPv6(src=source, dst=near[0]) / ICMPv6PacketTooBig(mtu=mtu) / quote
        family = socket.AF_INET6
    else:
        quote = IP(src=near[0], dst=far[0], flags="DF", len=1480) / udp
        packet = IP(src=source, dst=near[0]) / ICMP(type=3, code=4, nexthopmtu=mtu) / quote
        family = socket.AF_INET
    # The protocol "raw" means that the IP header is in the bytes.
    with contextlib.closing(sender.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)) as out:
        content = bytes(packet)
        for _ in range(count):
            out.sendto(content, (near[0], 0))
