"""The prober's packets on real devices: past the peer's program unjudged, known again on the underlay.

UDP socket ──▶ vx: clampd (managed) ──▶ VXLAN ──▶ under: clampd (underlay) ──▶ read
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from bpf.packets import ETHERNET, UDP
from bpf.tun import Tun
from lab.namespace import Namespace
from mssclamp.datapath import abi, loader
from mssclamp.datapath.attach import Tc
from mssclamp.datapath.instance import Instance
from support import require_bpf, require_file, require_netns

pytestmark = [pytest.mark.bpf, pytest.mark.netns]

SO_COOKIE = 57
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3

VXLAN_PORT = 4789
OUR_SIDE, PEER_SIDE = "10.9.0.1", "10.9.0.2"
REMOTE = {4: "198.51.100.7", 6: "2001:db8:7::7"}
OVERHEAD = {4: 50, 6: 70}

MTU = 1300
"""Of the peer."""

LENGTH = 1400
"""Of inner packets here."""


@dataclass
class Path:
    """The devices, the programs on them, and the way out of the machine."""

    version: int
    namespace: Namespace
    instance: Instance
    under: Tun
    link: int

    @property
    def key(self) -> abi.EndpointKey:
        """The tunnel's remote end."""
        return abi.endpoint_key(ip_address(REMOTE[self.version]), VXLAN_PORT, UDP)

    @property
    def outer(self) -> int:
        """Length of the outer IP packet."""
        return LENGTH + OVERHEAD[self.version]

    def flags(self, flags: int) -> None:
        """Of the endpoint."""
        self.instance.put_endpoint(self.key, abi.Endpoint(0, flags))

    @contextlib.contextmanager
    def socket(self, *, priority: int = abi.PROBE_PRIORITY, known: bool = True) -> Iterator[socket.socket]:
        """A socket as the prober's, or nearly."""
        with self.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, struct.pack("=I", priority))
            (cookie,) = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
            if known:
                self.instance.allow_prober(cookie)
            yield sock
            self.instance.forget_prober(cookie)

    def send(self, sock: socket.socket) -> bytes | None:
        """Sends an inner packet of LENGTH; the outer packet that leaves, without link header, or None if none does."""
        sock.sendto(bytes(LENGTH - 28), (PEER_SIDE, 9))
        sock.sendto(b"after it", (PEER_SIDE, 9))
        outer = self._read()
        if outer.endswith(b"after it"):
            return None
        assert self._read().endswith(b"after it")
        return outer

    def _read(self) -> bytes:
        """The next outer packet to the tunnel's remote end; not what the devices' own addresses set off."""
        while True:
            data = self.under.read()
            assert data is not None
            if ip_address(REMOTE[self.version]).packed in data[self.link :][:40]:
                return data[self.link :]

    def moved(self) -> dict[str, int]:
        """The peer's counters that are not zero; and makes them so."""
        counters = self.instance.counters(0)
        self.instance.set_counters(0, abi.Counters())
        moved = {name: getattr(counters, name) for name, _ in counters._fields_ if name != "largest"}
        return {name: count for name, count in moved.items() if count}


@pytest.fixture(scope="module", params=[(4, True), (4, False), (6, True), (6, False)], ids=str)
def path(request: pytest.FixtureRequest) -> Iterator[Path]:
    require_bpf()
    require_netns()
    require_file("/dev/net/tun")
    version, link_header = request.param
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(Namespace(f"ctprb{os.getpid()}"))
        with namespace.entered():
            under = Tun("under", link_header=link_header)
            stack.callback(under.close)
            tc = stack.enter_context(Tc())
            orders, builder = tc.ensure_pair()
        local = {4: "198.51.100.1", 6: "2001:db8:7::1"}[version]
        namespace.address("under", f"{local}/{24 if version == 4 else 64}")
        namespace.ip(
            "link set under mtu 1600",
            f"link add vx type vxlan id 7 local {local} remote {REMOTE[version]} dstport {VXLAN_PORT} dev under",
            "link set vx mtu 1450",
        )
        namespace.sysctl("net.ipv6.conf.vx.disable_ipv6", 1)
        namespace.ip(
            "link set vx up",
            f"address add {OUR_SIDE}/24 dev vx",
            f"neigh add {PEER_SIDE} lladdr 02:00:00:00:00:07 dev vx",
        )
        if link_header:
            namespace.ip(f"neigh add {REMOTE[version]} lladdr 02:00:00:00:00:08 dev under")
        instance = loader.load(16)
        stack.callback(instance.close)
        links = {link.name: link for link in tc.links()}
        instance.put_config(abi.Config(orders.index, 1000, 1000, abi.large_limit(MTU), 0, 0, 0, 0, abi.FOREVER))
        instance.put_peer(0, abi.Peer(abi.FOREVER, MTU, MTU - 40, MTU - 60, abi.PEER_ANSWER | abi.PEER_CLAMP))
        instance.put_prefix(links["vx"].index, ip_network(f"{PEER_SIDE}/32"), 0)
        tc.attach(builder, instance)
        tc.attach(links["vx"], instance)
        tc.attach(links["under"], instance, "underlay")
        made = Path(version, namespace, instance, under, ETHERNET if link_header else 0)
        instance.set_near({abi.near_index(made.key.ip)})
        yield made


@pytest.fixture(autouse=True)
def _fresh(path: Path) -> None:
    path.flags(0)
    path.instance.open_length(path.key, path.outer)
    path.moved()


def df(outer: bytes) -> bool | None:
    """Whether an outer packet has DF, and right checksums; None for IPv6."""
    if outer[0] >> 4 == 6:
        return None
    assert sum(struct.unpack("!10H", outer[:20])) % 0xFFFF == 0
    return bool(outer[6] & 0x40)


def test_a_users_packet_is_answered(path: Path) -> None:
    with path.socket(priority=0, known=False) as sock:
        assert path.send(sock) is None
    assert path.moved() == {"oversize": 1, "too_big_sent": 1}


def test_the_probers_passes_and_nobody_counts_it(path: Path) -> None:
    with path.socket() as sock:
        outer = path.send(sock)
    assert outer is not None
    assert len(outer) == path.outer
    assert df(outer) is not True  # no lengths are under probe
    assert path.moved() == {}
    assert path.instance.left_whole(path.key, path.outer) == 0


def test_while_lengths_are_under_probe_it_leaves_whole(path: Path) -> None:
    path.flags(abi.ENDPOINT_PROBING)
    with path.socket() as sock:
        for count in (1, 2):
            outer = path.send(sock)
            assert outer is not None
            assert df(outer) is not False
            assert path.instance.left_whole(path.key, path.outer) == count


def test_a_probe_of_a_length_that_nobody_listed(path: Path) -> None:
    path.flags(abi.ENDPOINT_PROBING)
    path.instance.close_length(path.key, path.outer)
    with path.socket() as sock:
        outer = path.send(sock)
    assert outer is not None
    assert df(outer) is not False
    assert path.instance.left_whole(path.key, path.outer) == 0


def test_a_user_packet_of_that_length_stays_as_it_is(path: Path) -> None:
    path.flags(abi.ENDPOINT_PROBING)
    path.instance.put_peer(0, abi.Peer(0, MTU, MTU - 40, MTU - 60, 0))
    try:
        with path.socket(priority=0, known=False) as sock:
            outer = path.send(sock)
    finally:
        path.instance.put_peer(0, abi.Peer(abi.FOREVER, MTU, MTU - 40, MTU - 60, abi.PEER_ANSWER))
    assert outer is not None
    assert df(outer) is not True
    assert path.moved() == {"oversize": 1, "large": 1}
    assert path.instance.left_whole(path.key, path.outer) == 0


@pytest.mark.parametrize(("priority", "known"), [(abi.PROBE_PRIORITY, False), (0, True), (0xC1A30001, True)])
def test_priority_and_cookie_are_both_needed(path: Path, priority: int, known: bool) -> None:
    with path.socket(priority=priority, known=known) as sock:
        assert path.send(sock) is None
    assert path.moved() == {"oversize": 1, "too_big_sent": 1}


def test_a_cookie_is_forgotten(path: Path) -> None:
    with path.socket() as sock:
        assert path.send(sock) is not None
        (cookie,) = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
        path.instance.forget_prober(cookie)
        path.instance.forget_prober(cookie)
        assert path.send(sock) is None
