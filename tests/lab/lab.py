"""The Lab: whatever a topology is made of, acquired in order and released in reverse."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from .capture import Capture
from .clampd import Clampd
from .command import LabError, Unsupported, run, unique
from .namespace import Namespace
from .wireguard import WireGuard

T = TypeVar("T")

ETHERNET_MTU = 1500


class Lab:
    """Namespaces and what joins them; gone with all their processes when the `with` block ends."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._directories = 0
        self._indexes = itertools.count(100)
        self._namespaces: list[Namespace] = []

    def __enter__(self) -> Lab:
        self._root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ct")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def enter(self, part: contextlib.AbstractContextManager[T]) -> T:
        """Make a part of the lab live as long as the lab."""
        return self._stack.enter_context(part)

    def directory(self) -> Path:
        """A new empty directory. Short: the path of a Unix socket has 107 bytes."""
        self._directories += 1
        path = self._root / str(self._directories)
        path.mkdir()
        return path

    def namespaces(self, *roles: str) -> list[Namespace]:
        """New namespaces, in the order of their roles."""
        made = [self.enter(Namespace(unique(role))) for role in roles]
        self._namespaces += made
        return made

    @property
    def everywhere(self) -> list[Namespace]:
        """All namespaces so far."""
        return self._namespaces[:]

    def veth(
        self, one: Namespace, one_device: str, other: Namespace, other_device: str, *, mtu: int = ETHERNET_MTU
    ) -> None:
        """A cable between two namespaces, both ends still down and without addresses.

        Their indexes differ: the carrier of a device whose peer has the same index may be no news for a second (the
        kernel's net/core/link_watch.c), and IPv6 has no link-local address, nor neighbour discovery, until then.
        """
        index, peer_index = next(self._indexes), next(self._indexes)
        run(
            ["ip", "link", "add", one_device, "netns", one.name, "index", str(index), "mtu", str(mtu), "type", "veth",
             "peer", "name", other_device, "netns", other.name, "index", str(peer_index), "mtu", str(mtu)]
        )  # fmt: skip

    def vxlan(self, namespace: Namespace, device: str, *, number: int, local: str, remote: str, mtu: int) -> None:
        """One end of a VXLAN between two outer addresses: a tunnel whose inner packets have a link header."""
        self._virtual(namespace, device, f"mtu {mtu} type vxlan id {number} local {local} remote {remote} dstport 4789")

    def gre(self, namespace: Namespace, device: str, *, local: str, remote: str, mtu: int) -> None:
        """One end of a GRE tunnel: no link header."""
        self._virtual(namespace, device, f"mtu {mtu} type gre local {local} remote {remote} ttl 64")

    def vlan(self, namespace: Namespace, device: str, *, trunk: str, number: int) -> None:
        """An 802.1Q device on top of `trunk`."""
        self._virtual(namespace, device, f"link {trunk} type vlan id {number}")

    def wireguard(self, namespace: Namespace, *, addresses: list[str], mtu: int = 1420, port: int = 51820) -> WireGuard:
        """A wireguard-go device; the name is its own choice, since the sockets' folder is the machine's."""
        return self.enter(WireGuard(namespace, self.directory(), addresses=addresses, mtu=mtu, port=port))

    def clampd(self, namespace: Namespace, config: str) -> Clampd:
        """A running daemon with this configuration."""
        return self.enter(self.clampd_at_rest(namespace, config))

    def clampd_at_rest(self, namespace: Namespace, config: str) -> Clampd:
        """A daemon with its files, not started."""
        return Clampd(namespace, self.directory(), config)

    def capture(self, namespace: Namespace, device: str) -> Capture:
        """A capture of one device from now on."""
        return self.enter(Capture(namespace, device))

    def _virtual(self, namespace: Namespace, device: str, kind: str) -> None:
        try:
            namespace.ip(f"link add {device} {kind}")
        except LabError as error:
            if "Unknown device type" in str(error) or "not supported" in str(error):
                raise Unsupported(f"this kernel has no such device: {kind}") from error
            raise
