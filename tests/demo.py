"""The demonstration: a download that hangs without clampd and arrives with it (`sudo make demo`).

    client ────── gateway ────── router A ══════ router B ────── site
        10.80.0.0/24   198.51.100.0/24   MTU 1400   203.0.113.0/24
                     └────── WireGuard tunnel, 10.99.0.0/24 ──────┘
                              (device MTU 1420)

Both routers filter every ICMP "too big", so nobody learns of the 1400-byte link: small packets pass, large
ones vanish. A client downloads a file from the site through the tunnel, first without clampd, then with it.

Exit status: 0 if the first download hangs and the second arrives whole, 1 otherwise, 2 if the machine lacks
something. Needs root; makes its own network namespaces and removes them.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import signal
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from lab import Clampd, Lab, LabError, Namespace, peer_table

FILE_BYTES = 4 << 20
PATIENCE_SECONDS = 6
ROUTER_LINK_MTU = 1400
TUNNEL_MTU = 1420
# 1400 less WireGuard's 60 bytes over IPv4 is 1340; it pads to 16 bytes, so 1328 is the largest that fits.
PEER_MTU = 1328
SITE_ADDRESS = "10.99.0.2"
TOOLS = ("ip", "tc", "nft", "wg", "wireguard-go", "curl")
CURL_TIMED_OUT = 28

console = Console(highlight=False)


@dataclass(frozen=True)
class Download:
    """What curl said and brought."""

    status: int
    bytes_arrived: int
    whole: bool

    def __str__(self) -> str:
        return f"{self.bytes_arrived:,} of {FILE_BYTES:,} bytes (curl: exit status {self.status})"


class WebServer:
    """An HTTP server in a namespace that serves the files of one directory."""

    def __init__(self, namespace: Namespace, address: str, directory: Path) -> None:
        handler = partial(_QuietHandler, directory=str(directory))
        with namespace.entered():
            self._server = http.server.ThreadingHTTPServer((address, 80), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1})

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        # Handlers of a hung download are daemon threads: closing must not wait for them.
        self._server.socket.close()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: the demonstration has its own words."""

    def handle(self) -> None:
        """Serve, and take it calmly that a hung client went away."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True


def main() -> int:
    problem = missing()
    if problem:
        console.print(f"[bold red]cannot run the demonstration:[/] {problem}")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with Lab() as lab:
            return demonstrate(lab)
    except LabError as error:
        console.print(f"[bold red]the demonstration broke:[/] {escape(str(error))}")
        return 1


def missing() -> str | None:
    """What keeps the demonstration from running at all, with the remedy; None if nothing does."""
    if os.geteuid() != 0:
        return "it makes network namespaces, so it needs root: sudo make demo"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}; apt install iproute2 nftables wireguard-tools wireguard-go curl"
    commands = [Path(sys.executable).with_name(name) for name in ("clampd", "clampctl")]
    if not all(command.exists() for command in commands):
        return f"{' and '.join(map(str, commands))} are not installed; make venv"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun: modprobe tun"
    return None


def demonstrate(lab: Lab) -> int:
    console.rule("a path with a smaller MTU that nobody tells of")
    client, gateway, tunnel = build(lab)
    expected = serve(lab, tunnel.site)
    console.print(
        f"A client downloads {FILE_BYTES >> 20} MiB through a WireGuard tunnel (MTU {TUNNEL_MTU}). "
        f"Behind the gateway one router link carries only {ROUTER_LINK_MTU} bytes, "
        "and every ICMP message that would say so is filtered."
    )

    console.rule("without clampd")
    first = download(client, expected, lab.directory())
    console.print(f"After {PATIENCE_SECONDS} seconds there are {first}.")
    if first.status != CURL_TIMED_OUT:
        console.print("[bold red]The download without clampd should have hung. It did not.[/]")
        return 1
    console.print("[green]It hangs[/], as expected: the connection opens, and the full-size packets vanish.")

    console.rule("with clampd")
    clampd = lab.clampd(
        gateway,
        'mode = "observe"\n' + peer_table("site", tunnel.gateway_device, [f"{SITE_ADDRESS}/32"], PEER_MTU),
    )
    clampd.attached(tunnel.gateway_device, timeout=20)
    console.print(
        f"clampd runs on the gateway and knows the site as a peer of MTU {PEER_MTU}. "
        f"\n$ clampctl enforce\n{clampd.ctl('enforce').stdout.strip()}",
    )
    second = download(client, expected, lab.directory())
    console.print(f"There are {second}.")
    show_peers(clampd)
    if not second.whole:
        console.print("[bold red]The download with clampd should have arrived whole. It did not.[/]")
        console.print(clampd.output(), markup=False)
        return 1
    console.print("[green]It arrives[/], and the SHA-256 sums agree: both ends start with segments that fit the path.")
    return 0


@dataclass(frozen=True)
class Tunnel:
    """Where the tunnel ends."""

    site: Namespace
    gateway_device: str


def build(lab: Lab) -> tuple[Namespace, Namespace, Tunnel]:
    """The topology of this file's head: client, gateway, and the tunnel to the site."""
    client, gateway, router_a, router_b, site = lab.namespaces("client", "gw", "ra", "rb", "site")
    lab.veth(client, "lan", gateway, "lan")
    lab.veth(gateway, "wan", router_a, "near")
    lab.veth(router_a, "far", router_b, "far", mtu=ROUTER_LINK_MTU)
    lab.veth(router_b, "near", site, "wan")

    client.address("lan", "10.80.0.2/24")
    gateway.address("lan", "10.80.0.1/24")
    gateway.address("wan", "198.51.100.2/24")
    router_a.address("near", "198.51.100.1/24")
    router_a.address("far", "192.0.2.1/24")
    router_b.address("far", "192.0.2.2/24")
    router_b.address("near", "203.0.113.1/24")
    site.address("wan", "203.0.113.2/24")

    client.route("default via 10.80.0.1")
    gateway.route("default via 198.51.100.1")
    router_a.route("default via 192.0.2.2")
    router_b.route("default via 192.0.2.1")
    site.route("default via 203.0.113.1")
    for router in (gateway, router_a, router_b):
        router.forwards()
    for router in (router_a, router_b):
        router.filters_too_big()

    near = lab.wireguard(gateway, addresses=["10.99.0.1/24"], mtu=TUNNEL_MTU)
    far = lab.wireguard(site, addresses=[f"{SITE_ADDRESS}/24"], mtu=TUNNEL_MTU)
    near.knows(far, allowed=[f"{SITE_ADDRESS}/32"], endpoint="203.0.113.2")
    far.knows(near, allowed=["10.99.0.1/32", "10.80.0.0/24"], endpoint="198.51.100.2")
    site.route(f"10.80.0.0/24 dev {far.name}")
    return client, gateway, Tunnel(site, near.name)


def serve(lab: Lab, site: Namespace) -> str:
    """Put a file of random bytes on a web server at the site; its SHA-256."""
    directory = lab.directory()
    content = os.urandom(FILE_BYTES)
    (directory / "file").write_bytes(content)
    lab.enter(WebServer(site, SITE_ADDRESS, directory))
    return hashlib.sha256(content).hexdigest()


def download(client: Namespace, expected: str, directory: Path) -> Download:
    """Fetch the file with curl, for at most PATIENCE_SECONDS."""
    target = directory / "arrived"
    done = client.run(
        "curl", "--silent", "--show-error", "--max-time", str(PATIENCE_SECONDS), "--noproxy", "*",
        "--output", str(target), f"http://{SITE_ADDRESS}/file",
        check=False,
    )  # fmt: skip
    content = target.read_bytes() if target.exists() else b""
    return Download(done.returncode, len(content), hashlib.sha256(content).hexdigest() == expected)


def show_peers(clampd: Clampd) -> None:
    """The table, as an operator sees it."""
    console.print("$ clampctl peers")
    console.print(clampd.ctl("peers").stdout.rstrip(), markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
