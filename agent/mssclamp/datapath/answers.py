"""Answers of the daemon's own making: orders for the builder at the end of the private pair (bpf/too_big.h)."""

from __future__ import annotations

import socket

from mssclamp.datapath import abi, pair

QUOTE = 256
"""Bytes of the packet that the builder wants; what we do not have of them is zeros."""

_ETHERTYPES = {4: 0x0800, 6: 0x86DD}


def order_answer(ifindex: int, family: int, size: int, link: int, head: bytes, mtu: int) -> None:
    """Has the sender of a packet told "too big, `mtu`", by an answer that comes in on the device `ifindex`.

    `head`: the packet's first bytes, after `link` bytes of link header; `size`: its IP size in bytes. Raises OSError
    where the pair is not there.
    """
    order = abi.Order(
        ifindex=ifindex,
        mtu=mtu,
        size=size,
        link=link,
        magic=abi.ORDER_MAGIC,
        ethertype=socket.htons(_ETHERTYPES[family]),
    )
    frame = bytes(order) + head.ljust(link + QUOTE, b"\0")[: link + QUOTE]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.sendto(frame, (pair.ORDERS, 0))
