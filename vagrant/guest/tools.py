"""What the tests have done in a machine: commands, captures, traffic. Namespaces: "main" and, in gateways, "host"."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import socket
import struct
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from lab.capture import Capture as LabCapture
from lab.command import LabError
from lab.counters import checksum_errors
from lab.namespace import Namespace
from lab.traffic import SynSender

IP_MTU_DISCOVER, IP_RECVERR, IP_MTU = 10, 11, 14
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR = 23, 24, 25
DISCOVERY = {"dont": 0, "do": 2, "probe": 3}
MSG_ERRQUEUE = 0x2000
ORIGIN_ICMP, ORIGIN_ICMP6 = 2, 3
SO_MAX_PACING_RATE = 47
CONTENT = bytes(range(251)) * 1024
TICK_SECONDS = 0.2

CLAMPD = "/run/clampd/clampd.sock"

__all__ = ["Api", "Capture", "LabError", "Receiver", "Sender", "Shell", "Sink", "Syns", "Upload"]


class Shell:
    """Commands, and the machine's clock."""

    def run(
        self, argv: list[str], *, namespace: str = "main", stdin: str | None = None, timeout: float = 60
    ) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        if namespace != "main":
            argv = ["ip", "netns", "exec", namespace, *argv]
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{' '.join(argv)}: still running after {timeout:g} s") from None
        except FileNotFoundError:
            raise LabError(f"{argv[0]} is not installed") from None
        return done.returncode, done.stdout, done.stderr

    def checksum_errors(self) -> dict[str, int]:
        """Packets that arrived with a wrong checksum, in either namespace."""
        return checksum_errors(*(Namespace(name) for name in ("main", "host")))

    def close(self) -> None:
        """Nothing to do."""


class Api:
    """clampd's own (docs/api.md), for what is done again and again: clampctl takes an emulated machine two seconds."""

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The document that it answers; LabError with its words where it refuses, or nobody answers."""
        connection = http.client.HTTPConnection("clampd", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        try:
            connection.sock.connect(CLAMPD)
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            document = json.loads(answer.read())
        except OSError as error:
            raise LabError(f"{CLAMPD}: {error}") from None
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise LabError(f"{method} {path}: {document}")
        return document

    def close(self) -> None:
        """Nothing to do."""


class Capture:
    """Every packet of a device, from now on."""

    def __init__(self, *, namespace: str = "main", device: str) -> None:
        self._capture = LabCapture(Namespace(namespace), device)
        self._capture.__enter__()

    def syns(self, *, incoming: bool = True) -> list[dict[str, Any]]:
        """The SYNs and SYN-ACKs that arrived (or left, with `incoming` false), oldest first."""
        found = self._capture.segments(lambda segment: segment.is_syn, incoming=incoming)
        return [vars(segment) | {"is_syn_ack": segment.is_syn_ack} for segment in found]

    def packets(self, *, incoming: bool = True) -> list[dict[str, Any]]:
        """IP packets: version, length, protocol, DF and whether it is a fragment, oldest first."""
        return [
            _described(frame.packet)
            for frame in self._capture.frames()
            if frame.outgoing != incoming and len(frame.packet) >= 20 and frame.packet[0] >> 4 in (4, 6)
        ]

    def tags(self) -> list[int | None]:
        """The 802.1Q tag of every packet."""
        return [frame.vlan for frame in self._capture.frames()]

    def count(self) -> int:
        """How many packets so far, both ways."""
        return self._capture.count

    def close(self) -> None:
        """End it."""
        self._capture.__exit__(None, None, None)


class Sink:
    """Takes TCP connections, and compares all that they bring with what an Upload sends."""

    def __init__(self, *, namespace: str = "main", address: str) -> None:
        self._listener = Namespace(namespace).socket(_family(address), socket.SOCK_STREAM)
        self._listener.bind((address, 0))
        self._listener.listen(16)
        self._taken: list[socket.socket] = []
        self._received = 0
        self._problem: str | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def received(self) -> int:
        """Bytes so far, of all connections; LabError if they were wrong."""
        if self._problem:
            raise LabError(self._problem)
        return self._received

    def close(self) -> None:
        """End all."""
        for each in (self._listener, *self._taken):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._taken.append(connection)
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        total = 0
        while True:
            start = total % len(CONTENT)
            try:
                arrived = connection.recv(min(1 << 16, len(CONTENT) - start))
            except OSError:
                return
            if not arrived:
                return
            if arrived != CONTENT[start : start + len(arrived)]:
                self._problem = "other bytes arrived than were sent"
            total += len(arrived)
            self._received += len(arrived)


class Upload:
    """A TCP connection that sends until it is closed, at a modest pace."""

    def __init__(
        self,
        *,
        namespace: str = "main",
        address: str,
        port: int,
        source: str | None = None,
        rate: int = 500_000,
        timeout: float = 10,
    ) -> None:
        self._socket = Namespace(namespace).socket(_family(address), socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        if source:
            self._socket.bind((source, 0))
        try:
            self._socket.connect((address, port))
        except OSError as error:
            self._socket.close()
            raise LabError(f"to {address}: {error}") from None
        self._socket.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)
        # Deep buffers would hide a stall for seconds.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        self._socket.settimeout(TICK_SECONDS)
        self._closing = False
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def state(self) -> dict[str, Any]:
        """The port it calls from, the path MTU as the kernel believes, its segment size, whether it waits for a
        retransmission timer, and what went wrong."""
        # struct tcp_info begins: u8 state, ca_state, retransmits, ...
        retransmits = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2]
        return {
            "port": self._socket.getsockname()[1],
            "path_mtu": _path_mtu(self._socket),
            "segment": self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG),
            "stalled": retransmits > 0,
            "problem": self._problem,
        }

    def close(self) -> None:
        """End it, at once and with all that is not sent yet."""
        self._closing = True
        self._thread.join()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _send(self) -> None:
        sent = 0
        while not self._closing:
            start = sent % len(CONTENT)
            try:
                sent += self._socket.send(CONTENT[start : start + (1 << 14)])
            except TimeoutError:
                continue
            except OSError as error:
                self._problem = str(error)
                return


class Receiver:
    """A UDP socket that notes the size of what arrives."""

    def __init__(self, *, namespace: str = "main", address: str) -> None:
        self._version = 6 if ":" in address else 4
        self._socket = Namespace(namespace).socket(_family(address), socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self._socket.setblocking(False)

    def port(self) -> int:
        """Where it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    def sizes(self) -> list[int]:
        """Sizes, as IP packets, of what has arrived since the last call."""
        sizes = []
        while True:
            try:
                sizes.append(len(self._socket.recv(65535)) + _headers(self._version))
            except BlockingIOError:
                return sizes

    def close(self) -> None:
        """End it."""
        self._socket.close()


class Sender:
    """A UDP socket that does its own path MTU discovery: "do" DF, EMSGSIZE over the path's MTU; "probe" DF, and the
    kernel's cache is not asked; "dont" DF clear."""

    def __init__(
        self, *, namespace: str = "main", address: str, port: int, discovery: str = "do", source: str | None = None
    ) -> None:
        self._version = 6 if ":" in address else 4
        self._socket = Namespace(namespace).socket(_family(address), socket.SOCK_DGRAM)
        if self._version == 4:
            level, discover, errors = socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_RECVERR
        else:
            level, discover, errors = socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_RECVERR
        self._socket.setsockopt(level, discover, DISCOVERY[discovery])
        self._socket.setsockopt(level, errors, 1)
        if source:
            self._socket.bind((source, 0))
        self._socket.setblocking(False)
        self._socket.connect((address, port))

    def send(self, size: int) -> bool:
        """Send an IP packet of `size` bytes; False if the kernel says EMSGSIZE."""
        payload = os.urandom(size - _headers(self._version))
        for _ in range(5):
            try:
                self._socket.send(payload)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                continue  # either it means this packet, or it is an ICMP message's, which the next call tells once
            return True
        return False

    def told(self) -> int | None:
        """The MTU in the next ICMP message that the kernel matched to this socket; None if there is none."""
        while True:
            try:
                _, ancillary, _, _ = self._socket.recvmsg(65535, 512, MSG_ERRQUEUE)
            except BlockingIOError:
                return None
            for _, _, content in ancillary:
                # struct sock_extended_err: u32 errno; u8 origin, type, code, pad; u32 info, data
                _, origin, _, _, _, info, _ = struct.unpack_from("=IBBBBII", content)
                if origin in (ORIGIN_ICMP, ORIGIN_ICMP6):
                    return int(info)

    def close(self) -> None:
        """End it."""
        self._socket.close()


class Syns:
    """Numbered SYNs at a steady rate, from the first address of each pair to the second."""

    def __init__(self, *, namespace: str = "host", pairs: list[tuple[str, str]], rate: int, mss: int) -> None:
        directory = Path(tempfile.mkdtemp(prefix="syns-"))
        self._sender = SynSender(Namespace(namespace), directory, pairs, rate=rate, mss=mss)
        self._sender.__enter__()

    def stop(self) -> int:
        """End the sending; how many were sent."""
        return self._sender.stop()

    def close(self) -> None:
        """End it."""
        self._sender.__exit__(None, None, None)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _headers(version: int) -> int:
    return 28 if version == 4 else 48


def _path_mtu(connected: socket.socket) -> int:
    if connected.family == socket.AF_INET:
        return connected.getsockopt(socket.IPPROTO_IP, IP_MTU)
    return connected.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


def _described(packet: bytes) -> dict[str, Any]:
    if packet[0] >> 4 == 4:
        (length,), (fragment,) = struct.unpack_from("!H", packet, 2), struct.unpack_from("!H", packet, 6)
        # reserved, DF, MF: 3 bits; offset: 13 bits
        return {
            "version": 4,
            "length": length,
            "protocol": packet[9],
            "df": bool(fragment & 0x4000),
            "fragment": bool(fragment & 0x3FFF),
            "destination": socket.inet_ntop(socket.AF_INET, packet[16:20]),
        }
    (payload,) = struct.unpack_from("!H", packet, 4)
    return {
        "version": 6,
        "length": 40 + payload,
        "protocol": packet[6],
        "df": True,
        "fragment": packet[6] == 44,
        "destination": socket.inet_ntop(socket.AF_INET6, packet[24:40]),
    }
