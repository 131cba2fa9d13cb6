"""WireGuard's peers, found without a word of configuration.

gateway with clampd ══════ site        outer addresses of both families between them
"""

from __future__ import annotations

import base64
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import Clampd, Lab, Namespace, wait_for
from lab.command import LabError, Unsupported
from lab.topology import Ends, line, mss_for
from lab.wireguard import SOCKETS
from mssclamp.datapath.attach import Tc

pytestmark = pytest.mark.netns

NOTICED = 5.0
"""Seconds until a change of the peers is told."""

DEVICE_MTU = 1420
GATEWAY_OUTER = {4: "192.0.2.1", 6: "2001:db8::1"}
SITE_OUTER = {4: "192.0.2.2", 6: "2001:db8::2"}
GATEWAY, SITE = "10.99.0.1", "10.99.0.2"


class Pair:
    """A gateway that has not heard of its peer's endpoint, and a site that calls it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.gateway, self.site = lab.namespaces("gw", "site")
        lab.veth(self.gateway, "outer", self.site, "outer")
        self.gateway.address("outer", f"{GATEWAY_OUTER[4]}/24", f"{GATEWAY_OUTER[6]}/64")
        self.site.address("outer", f"{SITE_OUTER[4]}/24", f"{SITE_OUTER[6]}/64")
        self.near = lab.wireguard(self.gateway, addresses=[f"{GATEWAY}/24"])
        self.far = lab.wireguard(self.site, addresses=[f"{SITE}/24"])
        self.near.knows(self.far, allowed=[f"{SITE}/32"])
        self.calls_over(4)

    def calls_over(self, family: int) -> None:
        """The site sends something over an outer family; the gateway learns the endpoint from it."""
        self.far.knows(self.near, allowed=["10.99.0.0/24"], endpoint=GATEWAY_OUTER[family])
        self.site.run("ping", "-c", "1", "-W", "2", GATEWAY)


class Watched:
    """What a daemon says of the peers of one device."""

    def __init__(self, clampd: Clampd, device: str) -> None:
        self.clampd = clampd
        self._device = device

    def peers(self) -> dict[str, dict[str, Any]]:
        """By public key."""
        listed = self.clampd.ctl_json("peers", "--device", self._device)["peers"]
        return {peer["public_key"]: peer for peer in listed}

    def wait(self, wanted: Callable[[dict[str, dict[str, Any]]], object], what: str) -> dict[str, dict[str, Any]]:
        wait_for(lambda: wanted(self.peers()), what, timeout=NOTICED)
        return self.peers()


@pytest.fixture
def pair(lab: Lab) -> Pair:
    return Pair(lab)


@pytest.fixture
def watched(pair: Pair) -> Watched:
    watched = Watched(pair.lab.clampd(pair.gateway, ""), pair.near.name)
    watched.wait(lambda peers: pair.far.public_key in peers, "the site")
    return watched


def test_enforced_without_configuration(lab: Lab) -> None:
    built = line(lab, "wireguard")
    clampd = lab.clampd(built.gateway, "")
    clampd.attached(built.device)
    (peer,) = clampd.ctl_json("peers")["peers"]
    assert (peer["state"], peer["mtu"], peer["source"], peer["mode"]) == ("unprobed", DEVICE_MTU, "device", "observe")
    assert (peer["mss4"], peer["mss6"]) == (mss_for(DEVICE_MTU, 4), mss_for(DEVICE_MTU, 6))
    ends = Ends(lab, built)
    assert ends.mss() == (mss_for(1500, 4), DEVICE_MTU - 40)  # the site's own device limits what it says
    clampd.ctl("enforce")
    for family in (4, 6):
        assert ends.mss(family) == (mss_for(DEVICE_MTU, family), mss_for(DEVICE_MTU, family))
    assert clampd.peer(peer["public_key"][:8].replace("/", "_"))["counters"]["clamped"] >= 2


def test_what_is_told_of_a_peer(pair: Pair, watched: Watched) -> None:
    key = pair.far.public_key
    peer = watched.peers()[key]
    url_safe = base64.urlsafe_b64encode(base64.b64decode(key)).decode().rstrip("=")
    assert peer["id"] == f"{pair.near.name}:{url_safe}"
    assert peer["name"] == f"{pair.near.name}:{url_safe[:8]}"
    assert (peer["kind"], peer["prefixes"]) == ("wireguard", [f"{SITE}/32"])
    assert (peer["endpoint"], peer["overhead"]) == (f"{SITE_OUTER[4]}:{pair.far.port}", 60)
    shaken = time.strptime(peer["last_handshake"], "%Y-%m-%dT%H:%M:%SZ")
    assert abs(time.mktime(shaken) - time.mktime(time.gmtime())) < 60
    for reference in (key, key[:6], peer["name"], peer["id"], SITE):
        assert watched.clampd.ctl_json("show", reference)["peer"]["id"] == peer["id"]


def test_peers_come_change_and_go(pair: Pair, watched: Watched) -> None:
    other = pair.lab.wireguard(pair.site, addresses=["10.99.0.3/24"], port=51821)
    pair.near.knows(other, allowed=["10.99.0.3/32", "fd00:99::3/128"], endpoint=SITE_OUTER[6])
    peers = watched.wait(lambda peers: other.public_key in peers, "a second peer")
    assert peers[other.public_key]["prefixes"] == ["10.99.0.3/32", "fd00:99::3/128"]
    assert (peers[other.public_key]["overhead"], peers[other.public_key]["last_handshake"]) == (80, None)
    pair.near.knows(other, allowed=["10.99.0.3/32", "10.20.0.0/16"])
    watched.wait(
        lambda peers: peers[other.public_key]["prefixes"] == ["10.99.0.3/32", "10.20.0.0/16"], "other AllowedIPs"
    )
    assert watched.clampd.ctl_json("show", "10.20.3.4")["peer"]["public_key"] == other.public_key
    pair.near.knows(pair.far, allowed=[f"{SITE}/32", "10.20.3.0/24"])  # a site inside the other's prefixes
    watched.wait(lambda peers: len(peers[pair.far.public_key]["prefixes"]) == 2, "a peer within a peer")
    assert watched.clampd.ctl_json("show", "10.20.3.4")["peer"]["public_key"] == pair.far.public_key
    pair.near.forgets(other)
    watched.wait(lambda peers: list(peers) == [pair.far.public_key], "its end")
    events = watched.clampd.events(lambda event: event["event"] == "peer-removed")
    assert [event["event"] for event in events if event["event"].startswith("peer-")] == [
        "peer-added",
        "peer-added",
        "peer-removed",
    ]


def test_a_peer_moves_to_another_address_family(pair: Pair, watched: Watched) -> None:
    for family, overhead in ((6, 80), (4, 60)):
        pair.calls_over(family)
        peers = watched.wait(
            lambda peers, overhead=overhead: peers[pair.far.public_key]["overhead"] == overhead,  # type: ignore[misc]
            f"an overhead of {overhead}",
        )
        assert SITE_OUTER[family] in peers[pair.far.public_key]["endpoint"]


def test_a_program_that_is_started_again(pair: Pair, watched: Watched) -> None:
    pair.near.restart()
    watched.wait(lambda peers: pair.far.public_key in peers, "the site again")
    watched.clampd.attached(pair.near.name)


def test_the_configuration_names_a_peer(pair: Pair) -> None:
    named = f'[[peer]]\nname = "home"\ndevice = "{pair.near.name}"\npublic_key = "{pair.far.public_key}"\nmtu = 1328\n'
    clampd = pair.lab.clampd(pair.gateway, named)
    peer = clampd.peer("home")
    assert (peer["public_key"], peer["mtu"], peer["prefixes"]) == (pair.far.public_key, 1328, [f"{SITE}/32"])
    clampd.ctl("pin", "home", "1312")
    assert clampd.peer(SITE)["mtu"] == 1312
    assert clampd.status()["problems"] == []


def test_two_namespaces_share_the_sockets_folder(pair: Pair, watched: Watched) -> None:
    other = Watched(pair.lab.clampd(pair.site, ""), pair.far.name)
    other.wait(lambda peers: list(peers) == [pair.near.public_key], "the gateway, seen from the site")
    for each, mine in ((watched, pair.near), (other, pair.far)):
        devices = each.clampd.status()["devices"]
        assert [device["name"] for device in devices if device["role"] == "managed"] == [mine.name]
        assert len(each.clampd.ctl_json("peers")["peers"]) == 1


@contextlib.contextmanager
def silent_socket(device: str, *, dead: bool) -> Iterator[None]:
    """A device's API socket where nobody answers: its program is gone, or hangs."""
    path = SOCKETS / f"{device}.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        try:
            if dead:
                listening.close()
            else:
                listening.listen()
            yield
        finally:
            path.unlink()


@pytest.mark.parametrize("dead", [True, False], ids=["dead", "hanging"])
def test_a_socket_where_nobody_answers(pair: Pair, watched: Watched, dead: bool) -> None:
    """It is named, and keeps nobody else waiting."""
    device = pair.near.name[:-1] + "x"
    pair.gateway.ip(f"tuntap add dev {device} mode tun", f"link set {device} up")
    with silent_socket(device, dead=dead):
        expected = "nobody answers on" if dead else "its peers were not told within"
        wait_for(
            lambda: expected in ((watched.clampd.device(device) or {}).get("problem") or ""), expected, timeout=NOTICED
        )
        pair.near.knows(pair.far, allowed=[f"{SITE}/32", "10.30.0.0/16"])
        watched.wait(lambda peers: len(peers[pair.far.public_key]["prefixes"]) == 2, "the other device's news")
        slowest = max(_seconds(watched.clampd.status) for _ in range(40))
        assert slowest < 1.5


def _seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    time.sleep(0.05)
    return time.monotonic() - began


def test_the_kernels_driver(lab: Lab) -> None:
    """Where this kernel has one."""
    gateway, site = lab.namespaces("gw", "site")
    keys = [_kernel_device(lab, namespace) for namespace in (gateway, site)]
    gateway.run(
        "wg", "set", "wg0", "peer", keys[1], "endpoint", "192.0.2.2:51820", "allowed-ips",
        ",".join(f"10.{n >> 8}.{n & 255}.0/24" for n in range(1000)),
    )  # fmt: skip
    watched = Watched(lab.clampd(gateway, ""), "wg0")
    peer = watched.wait(lambda peers: keys[1] in peers, "the kernel's peer")[keys[1]]
    assert (len(peer["prefixes"]), peer["overhead"], peer["endpoint"]) == (1000, 60, "192.0.2.2:51820")
    gateway.run("wg", "set", "wg0", "peer", keys[1], "remove")
    watched.wait(lambda peers: not peers, "its end")


def _kernel_device(lab: Lab, namespace: Namespace) -> str:
    try:
        namespace.ip("link add wg0 type wireguard")
    except LabError as error:
        raise Unsupported("this kernel has no WireGuard driver") from error
    key = lab.directory() / "key"
    private = namespace.run("wg", "genkey").stdout
    key.touch(mode=0o600)
    key.write_text(private)
    namespace.run("wg", "set", "wg0", "private-key", str(key), "listen-port", "51820")
    namespace.ip("link set wg0 up")
    return namespace.run("wg", "pubkey", stdin=private).stdout.strip()


def test_a_device_that_is_set_up_is_another_one(lab: Lab) -> None:
    """Which is why its peers are asked for at that moment (tests/daemon/test_discovery.py)."""
    (gateway,) = lab.namespaces("gw")
    gateway.ip("link add wg0 type veth peer name other")
    with gateway.entered(), Tc() as tc:

        def is_up() -> bool:
            return next(link.is_up for link in tc.links() if link.name == "wg0")

        assert not is_up()
        gateway.ip("link set wg0 up")
        assert is_up()
