"""The daemon's prober over real paths: exact values by echo and by TCP, whom it asks, and what it makes of trouble.

     10.9.1.0/24           10.9.2.0/24
     fd09:1::/64           fd09:2::/64
host ─────────── router ─────────────── far
    wan      near     narrow          wan
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from lab import Capture, Lab, LabError, Namespace
from lab.topology import SITE, line
from mssclamp.pmtu.check import Check
from mssclamp.pmtu.search import Search, Verdict
from mssclamp.probe.engine import Chose, Ended, Engine, Fell, News, Order

pytestmark = pytest.mark.netns

FAR = {4: "10.9.2.2", 6: "fd09:2::2"}
SECOND = {4: "10.9.2.3", 6: "fd09:2::3"}
NOBODY = {4: "10.9.2.99", 6: "fd09:2::99"}

BACK = """
table inet back {{
    chain forwarded {{ type filter hook forward priority 0; iifname "narrow" meta length > {size} drop; }}
}}
"""
STATEFUL = """
table inet stateful {
    chain filter {
        type filter hook HOOK priority 0; policy drop;
        ct state established,related accept
        ct state invalid drop
        oifname "narrow" accept
        meta l4proto ipv6-icmp icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
"""
OWN = """
table inet own {
    chain leaving { type filter hook output priority 0; meta length > 1300 drop; }
}
"""


@dataclass
class Path:
    """The three, and the engine at work in one of them."""

    host: Namespace
    router: Namespace
    far: Namespace
    news: list[News] = field(default_factory=list)
    cookies: set[int] = field(default_factory=set)
    more: threading.Condition = field(default_factory=threading.Condition)
    times: dict[News, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self, where: Namespace) -> Iterator[None]:
        """An engine in this namespace."""
        with where.entered():  # and so is its thread
            self.engine = Engine(self.take, self.cookies.add, self.cookies.remove, 1000)
        try:
            yield
        finally:
            self.engine.close()
        assert not self.cookies

    def probe(
        self, *addresses: str, make: Callable[[], Search | Check] | None = None, device: str = "wan", **options: object
    ) -> Ended:
        """Carries out one order to its end."""
        smallest = 576 if "." in addresses[0] else 1280
        order = Order(
            peer="peer",
            device=device,
            addresses=tuple(map(ip_address, addresses)),
            make=make or (lambda: Search(smallest, 1501)),
            outer_length=lambda size: size,
            outer=None,
            **options,  # type: ignore[arg-type]
        )
        self.engine.submit(order)
        with self.more:
            assert self.more.wait_for(lambda: self.end_of(order) is not None, 60)
        end = self.end_of(order)
        assert end is not None
        return end

    def end_of(self, order: Order) -> Ended | None:
        return next((each for each in self.news if isinstance(each, Ended) and each.order is order), None)

    def take(self, news: News) -> None:
        with self.more:
            self.news.append(news)
            if isinstance(news, Fell):
                self.times[news] = time.monotonic()
            self.more.notify_all()


@pytest.fixture
def path(lab: Lab) -> Iterator[Path]:
    host, router, far = lab.namespaces("host", "rt", "far")
    router.forwards()
    router.filters_too_big()
    lab.veth(host, "wan", router, "near")
    lab.veth(router, "narrow", far, "wan")
    connect(host)
    router.address("near", "10.9.1.1/24", "fd09:1::1/64")
    router.address("narrow", "10.9.2.1/24", "fd09:2::1/64")
    far.address("wan", *(f"{each[4]}/24" for each in (FAR, SECOND)), *(f"{each[6]}/64" for each in (FAR, SECOND)))
    far.route("default via 10.9.2.1", "::/0 via fd09:2::1")
    for address in FAR.values():
        host.reaches(address)
    made = Path(host, router, far)
    with made.running(host):
        yield made


def connect(host: Namespace) -> None:
    host.address("wan", "10.9.1.2/24", "fd09:1::2/64")
    host.route("default via 10.9.1.1", "::/0 via fd09:1::1")


def mtu_of(end: Ended) -> tuple[int | None, bool]:
    assert end.result is not None, end.text
    return end.result.mtu, end.result.exact


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("family", [4, 6])
def test_a_narrow_link_that_says_nothing(path: Path, family: int, tcp: bool) -> None:
    for mtu in (1500, 1492, 1413, 1280):
        path.router.ip(f"link set narrow mtu {mtu}")
        end = path.probe(FAR[family], tcp=tcp)
        assert mtu_of(end) == (mtu, True)
        assert (str(end.address), end.method) == (FAR[family], "tcp" if tcp else "echo")


@pytest.mark.parametrize("family", [4, 6])
def test_a_way_back_that_takes_less(path: Path, family: int) -> None:
    """An echo comes back as large as it went; what answers by TCP is small."""
    path.router.ip("link set narrow mtu 1450")
    path.router.nft(BACK.format(size=1350))
    assert mtu_of(path.probe(FAR[family])) == (1350, True)
    end = path.probe(FAR[family], tcp=True)
    assert (mtu_of(end), end.method) == ((1350, True), "echo"), "who answered before is asked as before"
    path.engine.cancel("peer")
    end = path.probe(FAR[family], tcp=True)
    assert (mtu_of(end), end.method) == ((1450, True), "tcp")


@pytest.mark.parametrize("family", [4, 6])
def test_firewalls_that_follow_connections(path: Path, family: int) -> None:
    """Every TCP probe is a connection of its own, and its answer belongs to it: here and on the way."""
    try:
        path.host.nft(STATEFUL.replace("HOOK", "input"))
        path.router.nft(STATEFUL.replace("HOOK", "forward"))
    except LabError as error:
        pytest.skip(f"this kernel follows no connections: {error}")
    path.router.ip("link set narrow mtu 1400")
    end = path.probe(FAR[family], tcp=True)
    assert (mtu_of(end), end.method) == ((1400, True), "tcp")


@pytest.mark.parametrize("family", [4, 6])
def test_a_host_that_drops_what_goes_to_closed_ports(path: Path, family: int) -> None:
    path.far.swallows_tcp()
    end = path.probe(FAR[family], tcp=True)
    assert (mtu_of(end), end.method) == ((1500, True), "echo")


@pytest.mark.parametrize("family", [4, 6])
def test_whom_it_asks(path: Path, family: int) -> None:
    end = path.probe(NOBODY[family], SECOND[family], FAR[family])
    assert str(end.address) == SECOND[family]
    # From now on he is asked without a choice, and that is quick.
    capture = Capture(path.host, "wan")
    with capture:
        began = time.monotonic()
        end = path.probe(NOBODY[family], FAR[family], SECOND[family], make=lambda: Check(1400), urgent=True)
        assert time.monotonic() - began < 0.25
    assert (str(end.address), end.probes) == (SECOND[family], 1)
    # He moves out: another is found.
    path.far.ip(f"address delete {SECOND[family]}/{'24' if family == 4 else '64'} dev wan")
    end = path.probe(NOBODY[family], FAR[family], SECOND[family])
    assert (mtu_of(end), str(end.address)) == ((1500, True), FAR[family])
    chosen = [str(each.address) for each in path.news if isinstance(each, Chose)]
    assert chosen == [SECOND[family], SECOND[family], SECOND[family], FAR[family]]


def test_the_fall_of_the_size_in_force(path: Path) -> None:
    """Told as soon as it is proven, long before the exact value; a quarter of a second if the machine is not busy."""
    path.probe(FAR[4])
    path.router.ip("link set narrow mtu 1400")
    began = time.monotonic()
    end = path.probe(FAR[4], make=lambda: Search(576, 1501, in_force=1500), urgent=True)
    (fell,) = (each for each in path.news if isinstance(each, Fell))
    assert (fell.size, mtu_of(end)) == (1400, (1400, True))
    assert path.times[fell] - began < 1.0


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("family", [4, 6])
def test_through_wireguard(lab: Lab, family: int, tcp: bool) -> None:
    """A path of 1400 leaves 1328: the next byte is padded to 1344, and that to 1404 outside."""
    built = line(lab, "wireguard")
    told = Path(built.client, built.gateway, built.site)
    with told.running(built.gateway):
        end = told.probe(SITE[family], tcp=tcp, through_tunnel=True, device=built.device)
    assert (mtu_of(end), end.method) == ((1328, True), "tcp" if tcp else "echo")


def test_nobody_answers(path: Path) -> None:
    end = path.probe(NOBODY[4], "10.9.2.98")
    assert (end.result, end.held) == (None, None)
    assert end.text == "no answer from 10.9.2.99, 10.9.2.98 to a small echo"


def test_a_peer_that_goes_away(path: Path) -> None:
    path.probe(FAR[4])
    path.router.ip("link set narrow down")
    end = path.probe(FAR[4])
    assert end.result is not None
    assert end.result.verdict is Verdict.AWAY


@pytest.mark.parametrize("through_tunnel", [False, True])
@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("family", [4, 6])
def test_too_big_from_beyond(path: Path, family: int, tcp: bool, through_tunnel: bool) -> None:
    """Were this device a tunnel, then the probes that the router complains about have come out of it."""
    path.router.nft("delete table inet blackhole")
    path.router.ip("link set narrow mtu 1400")
    # Routers limit what they say, to any one host.
    path.router.sysctl("net.ipv4.icmp_ratelimit", 0)
    path.router.sysctl("net.ipv6.icmp.ratelimit", 0)
    end = path.probe(FAR[family], tcp=tcp, through_tunnel=through_tunnel)
    assert mtu_of(end) == (1500 if through_tunnel else 1400, True)
    assert end.method == "tcp" if tcp else "echo"


def test_no_way_there(path: Path) -> None:
    """IPv4 takes what no route leads to for a neighbour on the device, IPv6 does not."""
    path.host.ip("route delete ::/0 via fd09:1::1")
    assert path.probe(FAR[6]).text == f"this machine has no route to {FAR[6]} by wan; see `ip route get`"
    path.host.route("::/0 via fd09:1::1")
    assert mtu_of(path.probe(FAR[6])) == (1500, True)


def test_a_firewall_of_this_machine(path: Path) -> None:
    path.host.nft(OWN)
    end = path.probe(FAR[4])
    assert (end.result, end.text) == (None, f"this machine may not send to {FAR[4]}: a firewall rule")


def test_a_device_that_goes_and_comes_again(path: Path, lab: Lab) -> None:
    """Under its old name, but it is another one: the socket of the first would send nothing."""
    assert mtu_of(path.probe(FAR[4])) == (1500, True)
    path.host.ip("link delete wan")
    assert path.probe(FAR[4]).text == "wan is not there"
    lab.veth(path.host, "wan", path.router, "near")
    connect(path.host)
    path.router.address("near", "10.9.1.1/24", "fd09:1::1/64")
    assert mtu_of(path.probe(FAR[4])) == (1500, True)
    assert len(path.cookies) == 2


def test_a_device_that_goes_in_the_middle(path: Path) -> None:
    path.probe(FAR[4])
    threading.Timer(0.05, lambda: path.host.ip("link delete wan")).start()
    path.router.ip("link set narrow mtu 1400")
    end = path.probe(FAR[4])
    assert (end.result, end.held) == (None, None)
    assert end.text


def test_an_mtu_that_another_device_has(path: Path) -> None:
    path.host.ip("link set wan mtu 1460")
    assert mtu_of(path.probe(FAR[4])) == (1460, True)
    assert mtu_of(path.probe(FAR[6], tcp=True)) == (1460, True)


def test_other_peoples_traffic_costs_nothing(path: Path) -> None:
    """A flood of pings and refused connections of this machine's own never reaches the engine's sockets."""
    path.probe(FAR[4], tcp=True)
    before = time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)
    path.host.run("ping", "-q", "-f", "-c", "2000", FAR[4])
    assert time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID) - before < 0.2
