"""clampd and WireGuard on the gateways, as an operator installs them: docs/install.md, from wheels, with systemd.

python -m vmlab.install       both gateways, from the wheels in build/vm/wheels
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .addresses import OUTER_A, OUTER_B
from .machine import TREE, WORK, Machine, MachineError

WHEELS = WORK / "wheels"
GATEWAYS = ("gw-a", "gw-b")
INSTALL_SECONDS = 400

# docs/install.md; there is no index that pip could ask here.
INSTALL = """
/usr/bin/python3 -m venv --system-site-packages /opt/clampd
/opt/clampd/bin/pip install --quiet --no-index --find-links /root/wheels mssclamp
ln -sf /opt/clampd/bin/clampd /opt/clampd/bin/clampctl /usr/local/sbin/
systemctl enable --now /opt/clampd/lib/systemd/system/clampd.service
"""

UPGRADE = """
/opt/clampd/bin/pip install --quiet --no-index --no-deps --force-reinstall {wheel}
systemctl daemon-reload
systemctl restart clampd
"""

INSTALLED = "/opt/clampd/installed"
"""The digest of the wheel that is installed."""

CLAMPD = 'mode = "enforce"\n'

WIREGUARD = """\
[Interface]
PrivateKey = {private_key}
ListenPort = 51820
Address = {addresses}

[Peer]
PublicKey = {peers_key}
AllowedIPs = {allowed}
Endpoint = {endpoint}:51820
"""

ENDPOINT = {"gw-a": OUTER_A[4], "gw-b": OUTER_B[4]}
ADDRESSES = {"gw-a": "10.77.0.1/24, fd77::1/64", "gw-b": "10.77.0.2/24, fd77::2/64"}
ALLOWED = {
    "gw-a": "10.77.0.2/32, fd77::2/128, 10.2.0.0/24, fd00:2::/64",
    "gw-b": "10.77.0.1/32, fd77::1/128, 10.1.0.0/24, fd00:1::/64",
}
"""What the other gateway stands for, by who says so."""


def build(source: Path, target: Path, *, dependencies: bool = True) -> Path:
    """Build the project's wheel into `target`, with those of what it needs; returns the project's own."""
    options = [] if dependencies else ["--no-deps"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", *options, "--wheel-dir", str(target), str(source)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise MachineError(f"building the wheel: {done.stderr.strip()}")
    (built,) = target.glob("mssclamp-*.whl")
    return built


def build_another_version(target: Path) -> Path:
    """A wheel of a later version, with other programs: their sources with one more comment."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("agent", "bpf", "pyproject.toml", "README.md", "LICENSE"):
            (shutil.copytree if (TREE / part).is_dir() else shutil.copy)(TREE / part, copy / part)
        entry = copy / "bpf/clampd.c"
        entry.write_text(entry.read_text() + "/* another version */\n")
        version = copy / "agent/mssclamp/__init__.py"
        version.write_text(version.read_text().replace('__version__ = "', '__version__ = "99.'))
        return build(copy, target, dependencies=False)


def install(machine: Machine) -> None:
    """clampd from the wheels, running; over one that is installed already, if that is another."""
    (wheel,) = WHEELS.glob("mssclamp-*.whl")
    if machine.pull(INSTALLED).decode() == _digest(wheel):
        return
    machine.push({each.name: each.read_bytes() for each in WHEELS.glob("*.whl")}, "/root/wheels")
    if machine.pull("/usr/local/sbin/clampd"):
        upgrade(machine, wheel)
    else:
        machine.push({"clampd.toml": CLAMPD.encode()}, "/etc/clampd")
        machine.script(INSTALL, timeout=INSTALL_SECONDS)
        _note(machine, wheel)


def upgrade(machine: Machine, wheel: Path) -> None:
    """Another version over the one that runs."""
    machine.push({wheel.name: wheel.read_bytes()}, "/root/upgrade")
    _note(machine, None)
    machine.script(UPGRADE.format(wheel=f"/root/upgrade/{wheel.name}"), timeout=INSTALL_SECONDS)
    _note(machine, wheel)


def join(near: Machine, far: Machine) -> None:
    """The kernel's WireGuard between the two, by wg-quick, at every boot; what is there already stays."""
    if not all(machine.pull("/etc/wireguard/wg0.conf") for machine in (near, far)):
        _configure(near, far)
    for machine in (near, far):
        machine.script("systemctl enable --now wg-quick@wg0")


def _configure(near: Machine, far: Machine) -> None:
    keys = {machine: machine.run("wg", "genkey").strip() for machine in (near, far)}
    public = {machine: machine.run("wg", "pubkey", stdin=key).strip() for machine, key in keys.items()}
    for machine, other in ((near, far), (far, near)):
        config = WIREGUARD.format(
            private_key=keys[machine],
            addresses=ADDRESSES[machine.name],
            peers_key=public[other],
            allowed=ALLOWED[machine.name],
            endpoint=ENDPOINT[other.name],
        )
        machine.push({"wg0.conf": config.encode()}, "/etc/wireguard")
        machine.script("chmod 600 /etc/wireguard/wg0.conf; systemctl stop wg-quick@wg0")


def _digest(wheel: Path) -> str:
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def _note(machine: Machine, wheel: Path | None) -> None:
    """Which wheel is installed there; None while it is not certain."""
    path = Path(INSTALLED)
    machine.push({path.name: _digest(wheel).encode() if wheel else b""}, str(path.parent))


def main() -> None:
    """Build, install, join."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    build(TREE, WHEELS)
    with Machine("gw-a") as near, Machine("gw-b") as far, ThreadPoolExecutor() as pool:
        list(pool.map(install, (near, far)))
        join(near, far)


if __name__ == "__main__":
    main()
