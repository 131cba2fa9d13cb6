"""UDP as a program sends it that does its own path MTU discovery: with DF, and listening for what ICMP says."""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from .command import wait_for
from .namespace import Namespace

IP_MTU_DISCOVER, IP_RECVERR, IP_MTU = 10, 11, 14
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR = 23, 24, 25
MSG_ERRQUEUE = 0x2000
ORIGIN_ICMP, ORIGIN_ICMP6 = 2, 3
UDP_AND_IP = {4: 28, 6: 48}
ATTEMPTS = 5

# struct sock_extended_err: u32 errno; u8 origin, type, code, pad; u32 info, data
EXTENDED_ERROR = struct.Struct("=IBBBBII")

# "dont": DF clear; "do": DF, and EMSGSIZE over the path's MTU; "probe": DF, and the kernel's cache is not asked.
Discovery = Literal["dont", "do", "probe"]
DISCOVERY: dict[Discovery, int] = {"dont": 0, "do": 2, "probe": 3}


@dataclass(frozen=True)
class TooBig:
    """What a host learned from an ICMP message that its kernel matched to a socket: the MTU in it, who said so, and
    where the quoted packet was going as the socket knows it."""

    mtu: int
    said_by: str
    destination: str
    port: int


class Datagrams:
    """A connected UDP socket, and one at the other end that receives."""

    def __init__(
        self,
        sender: Namespace,
        receiver: Namespace,
        address: str,
        *,
        discovery: Discovery = "do",
        mark: int | None = None,
        source: str | None = None,
    ) -> None:
        self._sender = sender
        self._receiver = receiver
        self._address = address
        self._discovery = DISCOVERY[discovery]
        self._mark = mark
        self._source = source
        self._version = 6 if ":" in address else 4

    def __enter__(self) -> Datagrams:
        family = socket.AF_INET6 if self._version == 6 else socket.AF_INET
        self._there = self._receiver.socket(family, socket.SOCK_DGRAM)
        self._there.bind((self._address, 0))
        self._there.setblocking(False)
        self._here = self._sender.socket(family, socket.SOCK_DGRAM)
        if self._version == 4:
            level, discover, errors = socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_RECVERR
        else:
            level, discover, errors = socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_RECVERR
        self._here.setsockopt(level, discover, self._discovery)
        self._here.setsockopt(level, errors, 1)
        if self._mark is not None:
            self._here.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
        if self._source is not None:
            self._here.bind((self._source, 0))
        self._here.setblocking(False)
        self._here.connect(self.destination)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._here.close()
        self._there.close()

    @property
    def destination(self) -> tuple[str, int]:
        """Address and port of the receiver."""
        address, port = self._there.getsockname()[:2]
        return address, port

    @property
    def path_mtu(self) -> int:
        """What the sender's kernel believes of the path, bytes."""
        if self._version == 4:
            return self._here.getsockopt(socket.IPPROTO_IP, IP_MTU)
        return self._here.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)

    def send(self, size: int) -> bool:
        """Send an IP packet of `size` bytes; False if the kernel says EMSGSIZE."""
        payload = os.urandom(size - UDP_AND_IP[self._version])
        for _ in range(ATTEMPTS):
            try:
                self._here.send(payload)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                # Either it means this packet, or it is an ICMP message's, which the next call tells once.
                continue
            return True
        return False

    def arrives(self, size: int) -> bool:
        """Whether an IP packet of `size` bytes reaches the other end; False if the kernel refuses to send it."""
        self.received()
        if not self.send(size):
            return False
        wait_for(lambda: size in self.received(), f"{size} bytes from {self._sender} to {self._address}", timeout=5)
        return True

    def received(self) -> list[int]:
        """Sizes (as IP packets) of what has arrived since the last call."""
        sizes = []
        while True:
            try:
                sizes.append(len(self._there.recv(65535)) + UDP_AND_IP[self._version])
            except BlockingIOError:
                return sizes

    def learns(self, size: int, *, timeout: float = 5.0) -> TooBig:
        """Send packets of `size` bytes until an ICMP message has told the socket that they are too big; LabError if
        none has after `timeout` seconds."""

        def told() -> TooBig | None:
            self.send(size)
            return self.told()

        return wait_for(
            told, f"{self._sender} to hear that {size} bytes to {self._address} are too big", timeout=timeout
        )

    def told(self) -> TooBig | None:
        """The next ICMP message in the socket's error queue; None if there is none."""
        while True:
            try:
                _, ancillary, _, destination = self._here.recvmsg(65535, 512, MSG_ERRQUEUE)
            except BlockingIOError:
                return None
            for _, _, content in ancillary:
                _, origin, _, _, _, info, _ = EXTENDED_ERROR.unpack_from(content)
                if origin in (ORIGIN_ICMP, ORIGIN_ICMP6):
                    return TooBig(info, _offender(content), destination[0], destination[1])


def _offender(content: bytes) -> str:
    # struct sockaddr_in: u16 family, port; 4 bytes address. struct sockaddr_in6: u16 family, port; u32 flow; 16 bytes
    at = EXTENDED_ERROR.size
    (family,) = struct.unpack_from("=H", content, at)
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, content[at + 4 : at + 8])
    return socket.inet_ntop(socket.AF_INET6, content[at + 8 : at + 24])
