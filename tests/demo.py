"""The demonstration: a path gets smaller under a transfer and nobody says so (`sudo make demo`).

    host ───── gateway ───── router ═══════════ router ───── gateway ───── host
                     │             1500 -> 1400        │
                     └──────── WireGuard, MTU 1420 ────┘

A host uploads to another through a WireGuard tunnel. Under way the link between the routers begins to lose what is over
1400 bytes, all fragments, and every ICMP message about it: small packets pass, large ones vanish. First without clampd,
then with one on the sending gateway whose configuration is a single line, `mode = "enforce"`: it knows neither the peer
nor any MTU.

Exit status: 0 if the first transfer hangs and the second goes on, 1 otherwise, 2 if the machine lacks something. Needs
root; makes its own network namespaces and removes them.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lab import Lab, LabError, Upload
from lab.chain import DEVICE_MTU, Chain, chain, inner_limit
from lab.finder import Finder, finder
from lab.goodput import WINDOW_SECONDS, Recovery, rate_of, watch

FAMILY = 4
SMALLER = 1400
PATIENCE_SECONDS = 6.0
HEAL_SECONDS = 10.0
SHOWN_WINDOWS = 5
"""Windows of goodput in one figure."""

TOOLS = ("ip", "tc", "nft", "ping", "ethtool", "wg", "wireguard-go")
PACKAGES = "iproute2 nftables iputils-ping ethtool wireguard-tools wireguard-go"

console = Console(highlight=False)


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
        return f"not installed: {', '.join(lacking)}; apt install {PACKAGES}"
    commands = [Path(sys.executable).with_name(name) for name in ("clampd", "clampctl")]
    if not all(command.exists() for command in commands):
        return f"{' and '.join(map(str, commands))} are not installed; make venv"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun: modprobe tun"
    return None


def demonstrate(lab: Lab) -> int:
    """All of it."""
    console.rule("a path that gets smaller, and nobody says so")
    built = chain(lab, FAMILY)
    console.print(
        f"A host uploads to another through a WireGuard tunnel (MTU {DEVICE_MTU}). Under way a link between two "
        f"routers begins to lose what is over {SMALLER} bytes, all fragments, and every ICMP message about it."
    )

    console.rule("without clampd")
    with upload(built) as first:
        hung = shrink(built, first, limit=PATIENCE_SECONDS)
    if hung.seconds is not None:
        console.print("[bold red]The transfer without clampd should have hung. It did not.[/]")
        return 1
    console.print(f"[green]It hangs[/], as expected: nothing more has come after {PATIENCE_SECONDS:g} seconds.")

    console.rule("with clampd, told nothing")
    built.shrink()
    found = finder(lab, built)
    with upload(built) as second:
        before = found.wait(DEVICE_MTU)
        console.print(f"It has found the peer by itself, and by probes that all {before['mtu']} bytes get there.")
        healed = shrink(built, second, limit=HEAL_SECONDS)
        if healed.seconds is None:
            console.print("[bold red]The transfer with clampd should have gone on. It did not.[/]")
            show(found, "show", found.peer["name"])
            console.print(found.clampd.output(), markup=False)
            return 1
        found.wait(inner_limit(SMALLER, FAMILY))
        second.goes_on()
    show(found, "peers")
    show(found, "show", found.peer["name"])
    console.print(
        f"[bold green]Healed in {healed.seconds:.2f} s:[/] the same connection goes on, every byte as it was sent, and "
        f"the peer's MTU is {found.peer['mtu']}.",
        soft_wrap=True,
    )
    return 0


def upload(built: Chain) -> Upload:
    """From one end's host to the other's."""
    near, far = built.ends
    return Upload(near.host, far.host, far.host_address[FAMILY])


def shrink(built: Chain, under_way: Upload, *, limit: float) -> Recovery:
    """Make the link smaller while the upload runs, and show what arrives."""
    under_way.goes_on()
    rate = rate_of(under_way, 1.0)
    began = time.monotonic()
    built.shrink(SMALLER)
    recovery = watch(under_way, began, rate, limit=limit)
    shown = " ".join(f"{megabytes:.1f}" for megabytes in figures(recovery))
    console.print(f"It ran at {rate / 1e6:.1f} MB/s. From the moment that the link shrinks, each quarter of a second:")
    console.print(f"    {shown}", soft_wrap=True)
    return recovery


def figures(recovery: Recovery) -> list[float]:
    """Megabytes a second, of several windows each."""
    starts = range(0, len(recovery.windows) - SHOWN_WINDOWS + 1, SHOWN_WINDOWS)
    seconds = SHOWN_WINDOWS * WINDOW_SECONDS
    return [sum(recovery.windows[start : start + SHOWN_WINDOWS]) / seconds / 1e6 for start in starts]


def show(found: Finder, *command: str) -> None:
    """A command as an operator sees it."""
    console.print(f"$ clampctl {' '.join(command)}", markup=False)
    console.print(found.clampd.ctl(*command).stdout.rstrip(), markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
