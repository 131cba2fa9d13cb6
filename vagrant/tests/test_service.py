"""clampd as systemd runs it, over the kernel's own WireGuard."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time

from vmlab.addresses import OUTER_B
from vmlab.machine import VAGRANT, wait_for
from vmlab.site import Site

TOP_SECONDS = 60


def test_service(site: Site) -> None:
    shown = site.gw_a.run("systemctl", "show", "clampd", "-p", "Type,ActiveState,SubState")
    assert {"Type=notify", "ActiveState=active", "SubState=running"} <= set(shown.split())
    assert site.gw_a.run("systemctl", "is-enabled", "clampd").strip() in ("linked", "enabled")


def test_kernel_peers(site: Site) -> None:
    """By generic netlink: nothing was declared, and there is no API socket."""
    assert not site.gw_a.run("sh", "-c", "ls /run/wireguard /var/run/wireguard 2> /dev/null || true")
    status = json.loads(site.gw_a.clampctl("status", "--json"))
    devices = {device["name"]: device for device in status["devices"]}
    assert {name: device["role"] for name, device in devices.items()} == {"wg0": "managed", "eth1": "underlay"}
    device = devices["wg0"]
    assert (device["name"], device["kind"], device["mtu"], device["attached"]) == ("wg0", "wireguard", 1420, True)
    site.session()
    peer = wait_for(lambda: _with_handshake(site), "the handshake to be seen")
    assert peer["public_key"] == site.gw_a.run("wg", "show", "wg0", "peers").strip()
    assert peer["endpoint"] == f"{OUTER_B[4]}:51820"
    assert peer["overhead"] == 60
    assert set(peer["prefixes"]) == {"10.77.0.2/32", "fd77::2/128", "10.2.0.0/24", "fd00:2::/64"}


def test_commands(site: Site) -> None:
    """What an operator does by hand."""
    name = site.gw_a.peer()["name"]
    assert "1328" in site.gw_a.clampctl("pin", name, "1328")
    assert "pinned" in site.gw_a.clampctl("show", name)
    site.gw_a.clampctl("unpin", name)
    assert "MTU 1420, exact" in site.gw_a.clampctl("probe", name)
    site.gw_a.clampctl("forget", name)


def test_network_manager(site: Site) -> None:
    """systemd-networkd leaves the private pair alone."""
    with site.gw_a.pinned(1328):
        for device in ("clampd-orders", "clampd-builder"):
            wait_for(lambda device=device: site.gw_a.json("ip", "-j", "link", "show", device), device)  # type: ignore[misc]
            (shown,) = site.gw_a.json("ip", "-j", "address", "show", device)
            assert shown["addr_info"] == []
            assert "unmanaged" in site.gw_a.run("networkctl", "--no-pager", "status", device)


def test_top(site: Site) -> None:
    """`vagrant ssh gw-a`, then `sudo clampctl top`, shows a live table."""
    name = site.gw_a.peer()["name"]
    # As somebody types it, without what vagrant/vm sets for itself.
    typed = {name: value for name, value in os.environ.items() if not name.startswith("VAGRANT")}
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        ["vagrant", "ssh", "gw-a", "--", "-tt", "sudo", "clampctl", "top"],
        cwd=VAGRANT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=typed | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + TOP_SECONDS
    try:
        while name.encode() not in shown and time.monotonic() < deadline:
            if select.select([screen], [], [], 1)[0]:
                shown += os.read(screen, 65536)
        assert name.encode() in shown, shown
        os.write(screen, b"q")
        assert _ends(process, screen), "q leaves"
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def _ends(process: subprocess.Popen[bytes], screen: int) -> bool:
    """Whether it ends by itself; its output must be read meanwhile."""
    deadline = time.monotonic() + TOP_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([screen], [], [], 0.2)[0]:
            try:
                os.read(screen, 65536)
            except OSError:
                break
    return process.wait(10) == 0


def _with_handshake(site: Site) -> dict[str, object] | None:
    peer = site.gw_a.peer()
    return peer if peer["last_handshake"] else None
