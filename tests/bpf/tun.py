"""Real devices under the programs: for packets that BPF_PROG_TEST_RUN refuses or cannot make.

                     ingress                                   egress
    write(in) ──▶ clampd ──▶ redirect ──▶ read(out)      packet socket ──▶ clampd ──▶ read(in)

`in` carries clampd's filters; behind them on ingress a program of the test sends everything on to `out`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator

from bpf.kernel import UNSPEC, Kernel
from bpf.packets import Packet
from lab.bpf import TcProgram
from lab.namespace import Namespace
from mssclamp.datapath.attach import Tc
from mssclamp.datapath.instance import Instance
from mssclamp.wire.clamp import Direction

TUNSETIFF, TUNSETSNDBUF = 0x400454CA, 0x400454D4
IFF_TUN, IFF_TAP, IFF_VNET_HDR = 0x0001, 0x0002, 0x4000

NEEDS_CHECKSUM = 1

# struct tun_pi: u16 flags, be16 protocol
# struct virtio_net_hdr: u8 flags, u8 gso_type, u16 hdr_len, u16 gso_size, u16 csum_start, u16 csum_offset
PI = struct.Struct("!HH")
VNET = struct.Struct("=BBHHHH")

SECONDS = 2.0
"""How long a packet may take through the kernel; it takes microseconds."""


class Tun:
    """One TUN (bare IP packets) or TAP (frames) device: what is written arrives on it, what it sends is read."""

    def __init__(self, name: str, *, link_header: bool) -> None:
        self.name = name
        self.fd = os.open("/dev/net/tun", os.O_RDWR)
        flags = (IFF_TAP if link_header else IFF_TUN) | IFF_VNET_HDR
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        # With the default, no limit, a TAP device copies every small packet into one piece.
        fcntl.ioctl(self.fd, TUNSETSNDBUF, struct.pack("=i", 1 << 20))

    def close(self) -> None:
        """Takes the device away."""
        os.close(self.fd)

    def write(self, data: bytes, protocol: int, *, linear: int = 0, checksum_from: int | None = None) -> None:
        """Lets a packet arrive.

        Of one that is larger than a page only `linear` bytes (0: all) stand in the skb's head, the rest in pages.

        `checksum_from` makes it CHECKSUM_PARTIAL: the TCP segment starts there, its field holds the pseudo
        header's sum, and whoever sends it on to where checksums count must finish it.
        """
        flags, start = (0, 0) if checksum_from is None else (NEEDS_CHECKSUM, checksum_from)
        os.write(self.fd, PI.pack(0, protocol) + VNET.pack(flags, 0, linear, 0, start, 16) + data)

    def read(self) -> bytes | None:
        """The next packet that the device sends, or None if none comes."""
        if not select.select([self.fd], [], [], SECONDS)[0]:
            return None
        return os.read(self.fd, 65536)[PI.size + VNET.size :]


class DeviceKernel(Kernel):
    """The programs on the hooks of a real device; runs packets through it."""

    def __init__(
        self, instance: Instance, inner: Tun, outer: Tun, packets: socket.socket, *, link_header: bool
    ) -> None:
        super().__init__(instance)
        self.link_header = link_header
        self.inner = inner
        self.outer = outer
        self._packets = packets
        self.linear = 0
        """For `Tun.write` on ingress."""

    def run(self, packet: Packet) -> tuple[int, bytes]:
        """The packet as it comes out behind the hook. It came out, so the programs let other filters decide."""
        if packet.direction is Direction.INGRESS:
            self.inner.write(packet.data, packet.ethertype, linear=self.linear)
            data = self.outer.read()
        else:
            self._packets.sendto(packet.data, (self.inner.name, packet.ethertype))
            data = self.inner.read()
        assert data is not None, f"{packet} did not come out"
        return UNSPEC, data


@contextlib.contextmanager
def device_kernel(*, link_header: bool) -> Iterator[DeviceKernel]:
    """A device of either kind in a namespace of its own, under freshly loaded programs."""
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(Namespace(f"ctbpf{os.getpid()}"))
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6", 1)  # or its own packets would come out too
        packets = stack.enter_context(namespace.socket(socket.AF_PACKET, socket.SOCK_RAW))
        with namespace.entered():
            inner, outer = (Tun(name, link_header=link_header) for name in ("in", "out"))
            stack.callback(inner.close)
            stack.callback(outer.close)
            tc = stack.enter_context(Tc())
        namespace.ip("link set in up mtu 9000", "link set out up mtu 9000")
        links = {link.name: link for link in tc.links()}
        kernel = Kernel.load(links["in"].index)
        stack.callback(kernel.close)
        tc.attach(links["in"], kernel.instance)
        stack.enter_context(TcProgram(namespace, "in", "ingress", redirect(links["out"].index), priority=60))
        yield DeviceKernel(kernel.instance, inner, outer, packets, link_header=link_header)


def redirect(ifindex: int) -> bytes:
    """A program that sends every packet out of the device: `return bpfredirect(ifindex, 0)`."""
    # struct bpf_insn: u8 code; u8 registers; s16 offset; s32 immediate
    instructions = ((0xB7, 1, ifindex), (0xB7, 2, 0), (0x85, 0, 23), (0x95, 0, 0))
    return b"".join(struct.pack("=BBhi", code, register, 0, value) for code, register, value in instructions)
