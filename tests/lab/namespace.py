"""One network namespace and the verbs for it: commands, addresses, routes, sysctls, filters, sockets."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .command import COMMAND_SECONDS, LabError, run, wait_for

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

TOO_BIG_FILTER = """
table inet blackhole {
    chain forwarded { type filter hook forward priority -300; jump too_big; }
    chain own       { type filter hook output  priority -300; jump too_big; }
    chain too_big {
        icmp type destination-unreachable icmp code frag-needed counter drop
        icmpv6 type packet-too-big counter drop
    }
}
"""

SWALLOW_FILTER = """
table inet swallow {
    chain arriving { type filter hook prerouting priority -400; meta l4proto tcp drop; }
}
"""


class Namespace:
    """A network namespace: made on entering, deleted with all its devices on leaving."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Namespace({self.name})"

    def __enter__(self) -> Namespace:
        run(["ip", "netns", "add", self.name])
        # Duplicate address detection would keep every IPv6 address unusable for a second or two.
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.sysctl("net.ipv6.conf.all.accept_dad", 0)
        self.ip("link set lo up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(["ip", "netns", "delete", self.name], check=False)

    # commands

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` in here."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(
        self,
        *command: str,
        stdin: str | None = None,
        check: bool = True,
        timeout: float = COMMAND_SECONDS,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here to its end; see `command.run`."""
        return run(self.argv(*command), stdin=stdin, check=check, timeout=timeout, env=env)

    def ip(self, *commands: str) -> None:
        """One or several `ip` commands, written as after the word `ip`."""
        run(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(commands) + "\n")

    def ip_json(self, command: str) -> list[dict[str, Any]]:
        """What `ip -json COMMAND` shows."""
        shown: list[dict[str, Any]] = json.loads(run(["ip", "-n", self.name, "-j", *command.split()]).stdout or "[]")
        return shown

    def nft(self, ruleset: str) -> None:
        """Load nftables rules."""
        self.run("nft", "-f", "-", stdin=ruleset)

    def tc(self, command: str) -> str:
        """A `tc` command's output."""
        return run(["tc", "-n", self.name, *command.split()]).stdout

    # addresses, routes, devices

    def address(self, device: str, *addresses: str) -> None:
        """Give a device addresses in CIDR notation, and set it up."""
        self.ip(*(f"address add {address} dev {device}{_nodad(address)}" for address in addresses))
        self.ip(f"link set {device} up")

    def route(self, *routes: str) -> None:
        """Add routes, written as after `ip route add`; name the IPv6 default `::/0`."""
        self.ip(*(f"route add {route}" for route in routes))

    def forget_paths(self) -> None:
        """Drop what the kernel has learned about path MTUs."""
        for version in ("-4", "-6"):
            run(["ip", "-n", self.name, version, "route", "flush", "cache"])

    def forwards(self) -> None:
        """Become a router, without redirects and reverse-path surprises."""
        self.sysctl("net.ipv4.ip_forward", 1)
        self.sysctl("net.ipv6.conf.all.forwarding", 1)
        for which in ("all", "default"):
            self.sysctl(f"net.ipv4.conf.{which}.rp_filter", 0)
            self.sysctl(f"net.ipv4.conf.{which}.send_redirects", 0)

    def filters_too_big(self) -> None:
        """Drop all ICMP that says "too big", own and forwarded: a black hole as operators meet it."""
        self.nft(TOO_BIG_FILTER)

    def swallows_above(self, size: int) -> None:
        """Forward no IP packet of more than `size` bytes, and tell nobody."""
        self.nft(
            "table inet narrow {\n"
            f"chain forwarded {{ type filter hook forward priority 0; meta length > {size} counter drop; }}\n"
            "}\n"
        )

    def swallows_tcp(self) -> None:
        """Let TCP arrive (captures see it) but not reach this host's stack: no answer disturbs a test."""
        self.nft(SWALLOW_FILTER)

    def has_device(self, device: str) -> bool:
        """Whether a device of this name is there now."""
        return run(["ip", "-n", self.name, "link", "show", "dev", device], check=False).returncode == 0

    def reaches(self, address: str, *, timeout: float = 10.0) -> None:
        """Wait until this address answers a ping: neighbours know each other then; LabError after `timeout` seconds."""
        wait_for(
            lambda: self.run("ping", "-c", "1", "-W", "1", address, check=False).returncode == 0,
            f"{address} to answer {self.name}",
            timeout=timeout,
        )

    def offloads(self, device: str, on: bool, *, gro: bool | None = None) -> None:
        """Switch a device's offloads; off: packets leave it in wire size and with complete checksums.

        `gro`: whether it joins what it receives to super-packets, if not as the others.
        """
        word, receiving = ("on" if each else "off" for each in (on, on if gro is None else gro))
        self.run("ethtool", "-K", device, "tx", word, "gso", word, "tso", word, "gro", receiving)

    # from within this process

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread into this namespace; sockets made inside stay there for good."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as target:
            _setns(target.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def sysctl(self, key: str, value: int | str) -> None:
        """Set a `net.` sysctl of this namespace; dots separate, as long as no device name holds one."""
        with self.entered():
            Path("/proc/sys", *key.split(".")).write_text(f"{value}\n")

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives in here, whichever thread uses it."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def mac(self, device: str) -> bytes:
        """A device's link-layer address."""
        return bytes.fromhex(self.ip_json(f"link show dev {device}")[0]["address"].replace(":", ""))


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise LabError(f"setns: {os.strerror(number)}")
