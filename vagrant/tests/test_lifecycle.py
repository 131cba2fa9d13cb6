"""Restart, upgrade and reboot of a gateway, while SYNs go on."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from vmlab.addresses import HOST_A, HOST_B
from vmlab.checks import Record, mss_for
from vmlab.install import build_another_version, upgrade
from vmlab.machine import Remote, wait_for
from vmlab.site import ATTACH_SECONDS, Site

MTU = 1328
MSS = 1460
RATE = 50
PAIRS = [(HOST_A[family], HOST_B[family]) for family in (4, 6)]
BOOT_RATE = 20

WATCH = """
[Unit]
Description=What happens to links and filters while this machine boots, and SYNs from its host meanwhile
After=lab-host.service
Before=clampd.service wg-quick@wg0.service network-online.target

[Service]
Type=simple
ExecStart=/bin/sh /opt/lab/watch

[Install]
WantedBy=multi-user.target
"""

WATCH_SCRIPT = """
ip -ts monitor link > /run/lab-links &
tc -ts monitor > /run/lab-filters &
PYTHONPATH=/opt/lab exec ip netns exec host python3 -m lab.syn_sender '{order}'
"""


def test_restart(site: Site) -> None:
    """The daemon goes and comes: not a SYN leaves unclamped."""

    def restart() -> None:
        site.gw_a.run("systemctl", "restart", "clampd")
        site.gw_a.attached("wg0")

    with site.gw_a.pinned(MTU):
        _all_clamped(_while_syns_go_on(site, restart))


def test_killed(site: Site) -> None:
    """kill -9: systemd starts it again, and the programs have never been away."""

    def restarts() -> int:
        return int(site.gw_a.run("systemctl", "show", "clampd", "-p", "NRestarts", "--value"))

    before = restarts()

    def kill() -> None:
        site.gw_a.run("systemctl", "kill", "-s", "KILL", "clampd")
        wait_for(lambda: restarts() == before + 1, "systemd to start it again")
        site.gw_a.attached("wg0")

    with site.gw_a.pinned(MTU):
        _all_clamped(_while_syns_go_on(site, kill))


def test_upgrade(site: Site, tmp_path: Path, record: Record) -> None:
    """A wheel with other programs: they take the old ones' place, and not a SYN leaves unclamped.

    It stays: it is the same but for a comment.
    """
    wheel = build_another_version(tmp_path)
    with site.gw_a.pinned(MTU):
        before = _programs(site)

        def to_other() -> None:
            upgrade(site.gw_a, wheel)
            wait_for(lambda: _programs(site) not in (before, []), "other programs", timeout=ATTACH_SECONDS)

        syns = _while_syns_go_on(site, to_other)
        _all_clamped(syns)
        record("upgrade: SYNs meanwhile", len(syns))
        assert site.gw_a.status()["version"].startswith("99.")


@pytest.mark.timeout(600)
def test_reboot(site: Site, record: Record) -> None:
    """Until clampd has attached itself to wg0, SYNs leave as they came: how long is that? Afterwards none does."""
    order = {"pairs": PAIRS, "rate": BOOT_RATE, "mss": MSS, "acknowledge": False, "report": "/run/lab-syns"}
    site.gw_a.push({"watch": WATCH_SCRIPT.format(order=json.dumps(order)).encode()}, "/opt/lab")
    site.gw_a.push({"lab-watch.service": WATCH.encode()}, "/etc/systemd/system")
    site.gw_a.run("systemctl", "enable", "lab-watch")
    with site.gw_a.pinned(MTU), site.gw_b.make("Capture", device="wg0") as arriving:
        site.gw_a.reboot()
        site.gw_a.attached("wg0")
        site.gw_a.run("sleep", "3")
        syns = arriving.syns()
    site.gw_a.run("systemctl", "disable", "--now", "lab-watch")
    unclamped = [each for each in syns if each["mss"] > mss_for(MTU, each["version"])]
    up = _when(site.gw_a.run("cat", "/run/lab-links"), r" wg0: <[^>]*\bUP\b")
    attached = _when(site.gw_a.run("cat", "/run/lab-filters"), r" filter dev wg0 egress .* clampd_")
    record("reboot: seconds from wg0 up to clampd on it", round((attached - up).total_seconds(), 1))
    record("reboot: SYNs that left, at 20 a second", len(syns))
    record("reboot: of these unclamped", len(unclamped))
    assert len(syns) > len(unclamped)
    assert syns[: len(unclamped)] == unclamped, "a SYN left unclamped after one that was clamped"


def _while_syns_go_on(site: Site, act: Any) -> list[dict[str, Any]]:
    with site.gw_b.make("Capture", device="wg0") as arriving, _syns(site) as sending:
        wait_for(lambda: arriving.count() > RATE, "SYNs")
        act()
        before = arriving.count()
        wait_for(lambda: arriving.count() > before + RATE, "more SYNs")
        sent = sending.stop()
        syns: list[dict[str, Any]] = arriving.syns()
        assert len(syns) > 0.9 * sent
        return syns


def _syns(site: Site) -> Remote:
    return site.gw_a.make("Syns", pairs=PAIRS, rate=RATE, mss=MSS)


def _all_clamped(syns: list[dict[str, Any]]) -> None:
    assert {(each["version"], each["mss"]) for each in syns} == {(4, mss_for(MTU, 4)), (6, mss_for(MTU, 6))}
    assert all(each["checksum_right"] for each in syns)


def _programs(site: Site) -> list[int]:
    for device in site.gw_a.status()["devices"]:
        if device["name"] == "wg0":
            return [program["id"] for program in device["programs"] if program["owner"] == "clampd"]
    return []


def _when(said: str, wanted: str) -> datetime:
    """The time of the first line of `ip -ts monitor` or `tc -ts monitor` that matches."""
    for line in said.splitlines():
        stamp = re.match(r"\[(\S+)\]", line)
        if stamp and re.search(wanted, line):
            return datetime.fromisoformat(stamp[1])
    raise AssertionError(f"nothing like {wanted!r} in:\n{said}")
