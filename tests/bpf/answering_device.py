"""Answers on real devices, through the private pair: for packets that BPF_PROG_TEST_RUN refuses or cannot make.

                                                        ┌─ fits ──────────────────────────────▶ read(in)
    packet socket ──▶ egress of `in`: clampd ──▶ order ─┤
                                                        └─ pair: clampd_answer ──▶ ingress of `in` ──▶ read(out)

As in bpf.tun, behind clampd on the ingress of `in` a program of the test sends everything on to `out`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from bpf.answering import AnsweringKernel
from bpf.outgoing import Outgoing
from bpf.packets import ETHERNET
from bpf.tun import NEEDS_CHECKSUM, VNET, Tun, redirect
from lab.bpf import TcProgram
from lab.namespace import Namespace
from mssclamp.datapath import pair
from mssclamp.datapath.attach import Tc

SOL_PACKET, PACKET_VNET_HDR = 263, 15

GSO_TCP4, GSO_TCP6, GSO_UDP = 1, 4, 5
"""gso_type of struct virtio_net_hdr; the last since Linux 6.2."""


class AnsweringDevice:
    """A device of one kind: what is sent through it, and what comes of that."""

    def __init__(
        self,
        kernel: AnsweringKernel,
        index: int,
        inner: Tun,
        outer: Tun,
        packets: socket.socket,
        orders: socket.socket,
        *,
        link_header: bool,
    ) -> None:
        self.kernel = kernel
        self.index = index
        self.link_header = link_header
        self._inner = inner
        self._outer = outer
        self._packets = packets
        self._orders = orders

    def order(self, frame: bytes) -> None:
        """Puts an order into the pair, as the agent does: through a packet socket."""
        self._orders.sendto(frame, (pair.ORDERS, 0))

    def send(
        self, packet: Outgoing, ethertype: int, *, gso_type: int = 0, checksum: tuple[int, int] | None = None
    ) -> None:
        """Sends a packet as this machine would.

        `checksum` makes it CHECKSUM_PARTIAL: where the upper layer starts, and where in that the field is.
        """
        start, field = checksum or (0, 0)
        flags = 0 if checksum is None else NEEDS_CHECKSUM
        header = VNET.pack(flags, gso_type, start + field + 2, packet.gso_size if gso_type else 0, start, field)
        self._packets.sendto(header + packet.data, (self._inner.name, ethertype))

    def left(self) -> bytes | None:
        """The next packet that went out of the device."""
        return self._inner.read()

    def answer(self) -> bytes | None:
        """The next answer that came in through the device, as a frame: bare IP gets an Ethernet header of zeros."""
        data = self._outer.read()
        if data is None or self.link_header:
            return data
        ethertype = b"\x08\0" if data[0] >> 4 == 4 else b"\x86\xdd"
        return bytes(ETHERNET - 2) + ethertype + data


@contextlib.contextmanager
def answering_device(*, link_header: bool) -> Iterator[AnsweringDevice]:
    """A device of either kind in a namespace of its own, with the pair and freshly loaded programs."""
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(Namespace(f"ctans{os.getpid()}"))
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        packets = stack.enter_context(namespace.socket(socket.AF_PACKET, socket.SOCK_RAW))
        packets.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        own_orders = stack.enter_context(namespace.socket(socket.AF_PACKET, socket.SOCK_RAW))
        with namespace.entered():
            inner, outer = (Tun(name, link_header=link_header) for name in ("in", "out"))
            stack.callback(inner.close)
            stack.callback(outer.close)
            tc = stack.enter_context(Tc())
            orders, builder = tc.ensure_pair()
        namespace.ip("link set in up mtu 9000", "link set out up mtu 9000")
        links = {link.name: link for link in tc.links()}
        kernel = AnsweringKernel.load(links["in"].index)
        stack.callback(kernel.close)
        kernel.configure(builder=orders.index)
        tc.attach(builder, kernel.instance)
        tc.attach(links["in"], kernel.instance)
        stack.enter_context(TcProgram(namespace, "in", "ingress", redirect(links["out"].index), priority=60))
        index = links["in"].index
        yield AnsweringDevice(kernel, index, inner, outer, packets, own_orders, link_header=link_header)
