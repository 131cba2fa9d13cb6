"""Many more sites of one gateway, each a WireGuard peer of its own with a live program behind it, on healthy paths.

    end 1's gateway ───── end 1's router ───── the crowd's namespace: wireguard-go, once for each site

They all share a namespace and an outer address (as behind a carrier's NAT), and differ in port, key and inner address.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from .chain import DEVICE_MTU, Chain, outer
from .command import LabError, run, unique, wait_for
from .lab import Lab
from .namespace import Namespace
from .process import Process
from .wireguard import SOCKETS, WireGuard

NUMBER = 8
"""In the addresses, where the chain's ends have 1 and 2."""

FIRST_PORT = 20_000
FIRST_TABLE = 1_000
START_SECONDS = 30.0


@dataclass(frozen=True)
class Crowd:
    """The sites' inner addresses, and their public keys as `wg` writes them, in the same order."""

    namespace: Namespace
    addresses: list[str]
    keys: list[str]


def crowd(lab: Lab, chain: Chain, count: int) -> Crowd:
    """Build it; the gateway knows all of its sites and has talked to none.

    Up to about 100: each program takes one of the machine's inotify instances (fs.inotify.max_user_instances, 128).
    """
    (namespace,) = lab.namespaces("crowd")
    router, gateway = chain.ends[0].router, chain.ends[0].tunnel
    lab.veth(router, "crowd", namespace, "outer")
    router.address("crowd", f"198.18.{NUMBER}.254/24", f"2001:db8:{NUMBER}::fe/64")
    namespace.address("outer", f"{outer(NUMBER)[4]}/24", f"{outer(NUMBER)[6]}/64")
    namespace.route(f"default via 198.18.{NUMBER}.254", f"::/0 via 2001:db8:{NUMBER}::fe")
    addresses = [f"10.98.{n >> 8}.{n & 255}" for n in range(1, count + 1)]
    pairs = _keys(count)
    names = [unique("wc") for _ in range(count)]
    for name in names:
        lab.enter(_no_socket_left(name))
        lab.enter(
            Process(namespace.argv("wireguard-go", "-f", name), lab.directory() / "log", env={"LOG_LEVEL": "error"})
        )
    inside = gateway.addresses[0].partition("/")[0]
    known = []
    for index, (name, (private, public), address) in enumerate(zip(names, pairs, addresses, strict=True)):
        port, peer = FIRST_PORT + index, _hexadecimal(gateway.public_key)
        tell(name, f"private_key={private.hex()}\nlisten_port={port}\npublic_key={peer}\nallowed_ip={inside}/32\n")
        known.append(f"public_key={public.hex()}\nendpoint={_endpoint(chain.family, port)}\nallowed_ip={address}/32\n")
    tell(gateway.name, "".join(known))
    namespace.ip(*_devices(names, addresses, inside))
    chain.ends[0].gateway.route(f"10.98.0.0/16 dev {gateway.name}")
    return Crowd(namespace, addresses, [base64.b64encode(public).decode() for _, public in pairs])


def strangers(tunnel: WireGuard, count: int) -> list[str]:
    """Give a device peers that exist in its configuration alone; their public keys."""
    keys = [os.urandom(32) for _ in range(count)]
    settings = []
    for n, key in enumerate(keys):
        address = f"10.97.{n >> 8}.{n & 255}"
        settings.append(
            f"public_key={key.hex()}\nendpoint=198.18.9.{n % 250 + 1}:{FIRST_PORT}\nallowed_ip={address}/32\n"
        )
    tell(tunnel.name, "".join(settings))
    return [base64.b64encode(key).decode() for key in keys]


def tell(device: str, settings: str) -> None:
    """Change a device by its API socket: hundreds of peers at once, where a `wg` command line would be too long."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.settimeout(START_SECONDS)
        # Where a program has just been started, its socket comes a little later, and listens another little later.
        wait_for(
            lambda: connection.connect_ex(str(SOCKETS / f"{device}.sock")) == 0,
            f"{device} to listen",
            timeout=START_SECONDS,
        )
        connection.sendall(f"set=1\n{settings}\n".encode())
        answer = connection.recv(4096)
    if b"errno=0" not in answer:
        raise LabError(f"{device}: {answer!r}")


def _keys(count: int) -> list[tuple[bytes, bytes]]:
    """Private and public keys."""
    script = f"for i in $(seq {count}); do k=$(wg genkey); echo $k $(echo $k | wg pubkey); done"
    lines = run(["sh", "-c", script]).stdout.splitlines()
    return [(base64.b64decode(private), base64.b64decode(public)) for private, public in map(str.split, lines)]


def _devices(names: list[str], addresses: list[str], gateway: str) -> list[str]:
    """Each answers by the device that it was asked on."""
    commands = []
    for index, (name, address) in enumerate(zip(names, addresses, strict=True)):
        table = FIRST_TABLE + index
        commands += [
            f"link set {name} up mtu {DEVICE_MTU}",
            f"address add {address}/32 dev {name}",
            f"route add {gateway}/32 dev {name} table {table}",
            f"rule add from {address} table {table}",
        ]
    return commands


def _endpoint(family: int, port: int) -> str:
    address = outer(NUMBER)[family]
    return f"[{address}]:{port}" if family == 6 else f"{address}:{port}"


def _hexadecimal(key: str) -> str:
    return base64.b64decode(key).hex()


@contextlib.contextmanager
def _no_socket_left(name: str) -> Iterator[None]:
    try:
        yield
    finally:
        (SOCKETS / f"{name}.sock").unlink(missing_ok=True)
