"""WireGuard devices by wireguard-go, the user-space implementation that every distribution carries."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from .command import run, unique, wait_for
from .namespace import Namespace
from .process import Process

# Shared by all namespaces: a device's name must be unique on the machine.
SOCKETS = Path("/var/run/wireguard")


class WireGuard:
    """One wireguard-go device in a namespace, up, with its addresses; peers are added by `knows`."""

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        *,
        addresses: list[str],
        mtu: int = 1420,
        port: int = 51820,
    ) -> None:
        self.namespace = namespace
        self.name = unique("wg")
        self.port = port
        self.addresses = addresses
        self._mtu = mtu
        self._peers: list[list[str]] = []
        self._key = directory / f"{self.name}.key"
        # Its daemon mode loses the device on some machines, so it stays in the foreground of its own session.
        self._process = Process(
            namespace.argv("wireguard-go", "-f", self.name),
            directory / f"{self.name}.log",
            env={"LOG_LEVEL": "error"},
        )
        private = run(["wg", "genkey"]).stdout
        self._key.touch(mode=0o600)
        self._key.write_text(private)
        self.public_key = run(["wg", "pubkey"], stdin=private).stdout.strip()

    def __enter__(self) -> WireGuard:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def knows(self, peer: WireGuard, *, allowed: list[str], endpoint: str | None = None) -> None:
        """Add a peer; `endpoint` is its outer address, `allowed` what may come from and go to it."""
        where = ["endpoint", f"{_bracketed(endpoint)}:{peer.port}"] if endpoint else []
        settings = ["peer", peer.public_key, *where, "allowed-ips", ",".join(allowed)]
        self._peers.append(settings)
        self._set(*settings)

    def forgets(self, peer: WireGuard) -> None:
        """Take a peer away."""
        self._peers = [settings for settings in self._peers if settings[1] != peer.public_key]
        self._set("peer", peer.public_key, "remove")

    def restart(self) -> None:
        """End the program, with which the device goes, and start it again with the same keys and peers."""
        self._stop()
        self._start()
        for settings in self._peers:
            self._set(*settings)

    def _start(self) -> None:
        self._process.__enter__()
        socket = SOCKETS / f"{self.name}.sock"
        wait_for(socket.exists, f"wireguard-go's {socket}: {self._process.output()}")
        self._set("private-key", str(self._key), "listen-port", str(self.port))
        self.namespace.ip(f"link set {self.name} mtu {self._mtu}")
        self.namespace.address(self.name, *self.addresses)

    def _stop(self) -> None:
        self._process.stop()
        (SOCKETS / f"{self.name}.sock").unlink(missing_ok=True)

    def _set(self, *settings: str) -> None:
        self.namespace.run("wg", "set", self.name, *settings)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
