"""Traffic: whole TCP connections with their content compared, and SYNs at a steady rate."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .command import LabError, wait_for
from .namespace import Namespace
from .process import Process

TESTS = Path(__file__).resolve().parent.parent
CONNECTION_SECONDS = 10.0
SO_MARK = 36


@dataclass(frozen=True)
class Connection:
    """A TCP connection that opened and carried its content both ways, unharmed.

    `client_mss` and `server_mss` are the payload bytes each side's kernel puts into one segment: the MSS that
    the other side offered, less the timestamp option.
    """

    client_port: int
    server_port: int
    client_mss: int
    server_mss: int


def transfer(
    client: Namespace,
    server: Namespace,
    address: str,
    *,
    size: int = 200_000,
    mark: int | None = None,
    timeout: float = CONNECTION_SECONDS,
) -> Connection:
    """Open a connection to the server's `address` and send `size` random bytes each way; LabError if either
    way fails, stalls for `timeout` seconds, or delivers other bytes than were sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        server.socket(family, socket.SOCK_STREAM) as listener,
        client.socket(family, socket.SOCK_STREAM) as calling,
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        listener.settimeout(timeout)
        listener.bind((address, 0))
        listener.listen(1)
        served = pool.submit(_serve, listener, size, timeout)
        calling.settimeout(timeout)
        if mark is not None:
            calling.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        try:
            calling.connect(listener.getsockname()[:2])
            wanted = _receive(calling, size)
            content = os.urandom(size)
            calling.sendall(content)
            server_mss, sent, received = served.result()
        except OSError as error:
            raise LabError(f"{client} to {address}: {error}") from error
        if (wanted, hashlib.sha256(content).hexdigest()) != (sent, received):
            raise LabError(f"{client} to {address}: other bytes arrived than were sent")
        return Connection(
            client_port=calling.getsockname()[1],
            server_port=listener.getsockname()[1],
            client_mss=_segment_size(calling),
            server_mss=server_mss,
        )


class SynSender:
    """A program in a namespace that sends numbered SYNs at a steady rate, one address pair after the other.

    The TCP sequence number counts up from 0 over all pairs together; `stop` says how many were sent.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        pairs: list[tuple[str, str]],
        *,
        rate: int,
        mss: int,
        acknowledge: bool = False,
    ) -> None:
        self._report = directory / f"syns-{namespace.name}.json"
        order = {
            "pairs": pairs,
            "rate": rate,
            "mss": mss,
            "acknowledge": acknowledge,
            "report": str(self._report),
        }
        self._process = Process(
            namespace.argv(sys.executable, "-m", "lab.syn_sender", json.dumps(order)),
            directory / f"syns-{namespace.name}.log",
            env={"PYTHONPATH": str(TESTS)},
        )

    def __enter__(self) -> SynSender:
        self._process.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def stop(self) -> int:
        """End the sending; the number of SYNs that were sent."""
        self._process.stop()
        wait_for(self._report.exists, f"the sender's report: {self._process.output()}")
        sent: int = json.loads(self._report.read_text())["sent"]
        return sent


def _serve(listener: socket.socket, size: int, timeout: float) -> tuple[int, str, str]:
    """Accept one connection, send `size` bytes, then take as many; segment size and both hashes."""
    taken, _ = listener.accept()
    with taken:
        taken.settimeout(timeout)
        content = os.urandom(size)
        taken.sendall(content)
        received = _receive(taken, size)
        return _segment_size(taken), hashlib.sha256(content).hexdigest(), received


def _receive(connection: socket.socket, size: int) -> str:
    digest = hashlib.sha256()
    while size > 0:
        chunk = connection.recv(min(size, 1 << 16))
        if not chunk:
            raise LabError("the connection ended early")
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _segment_size(connection: socket.socket) -> int:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
