"""The clamp and the answers on the kernel's WireGuard, and how its driver pads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from vmlab.addresses import OUTER_B
from vmlab.checks import answers, mss_for, opens_clamped, outer_size
from vmlab.machine import wait_for
from vmlab.site import Datagrams, Ends, Site, Transfer

MTU, LOWER_MTU = 1328, 1280
OVERHEAD = 60
ROUTE_MTU = 'mode = "enforce"\n[[device]]\nname = "wg*"\nroute_mtu = true\n'


@pytest.fixture
def pinned(site: Site) -> Iterator[Site]:
    """gw-a's peer at 1328, as for a path of 1400."""
    with site.gw_a.pinned(MTU):
        yield site


@pytest.fixture(params=["to-peer", "from-peer"])
def ends(request: pytest.FixtureRequest, site: Site) -> Ends:
    """Who calls: the host behind gw-a, where the pin is, or the one behind gw-b."""
    return site.hosts if request.param == "to-peer" else site.back


@pytest.mark.parametrize("family", [4, 6])
def test_device_limit(site: Site, family: int) -> None:
    """Nothing is known but the device's MTU."""
    opens_clamped(site.hosts, "wg0", family, 1420)


@pytest.mark.parametrize("family", [4, 6])
def test_clamp(pinned: Site, ends: Ends, family: int) -> None:
    with ends.far.make("Capture", namespace="host", device="lan") as at_host, Transfer(ends, family) as transfer:
        transfer.goes_on(20_000)
        seen = wait_for(lambda: at_host.syns(), "the SYN")[0]
        assert seen["mss"] == mss_for(MTU, family)
        assert seen["checksum_right"]
        assert transfer.state()["segment"] <= seen["mss"] - 12, "the SYN-ACK was clamped too"
    assert pinned.gw_a.checksum_errors() == pinned.gw_b.checksum_errors() == {}


@pytest.mark.parametrize("family", [4, 6])
def test_answers(pinned: Site, family: int) -> None:
    answers(pinned.hosts, family, MTU)
    assert pinned.gw_a.peer()["counters"]["too_big_sent"] > 0


@pytest.mark.parametrize("family", [4, 6])
def test_transfer_under_way(site: Site, family: int) -> None:
    """A path that shrinks, and a pin that says so: the open connection goes on, with smaller segments."""
    with site.gw_a.pinned(MTU), Transfer(site.hosts, family) as transfer:
        transfer.goes_on()
        site.path.swallow(LOWER_MTU + OVERHEAD)
        transfer.hangs(seconds=2)
        with site.gw_a.pinned(LOWER_MTU):
            transfer.goes_on()
            assert transfer.state()["path_mtu"] == LOWER_MTU


def test_padding(site: Site) -> None:
    """The driver pads to 16 bytes, but not beyond the route's MTU: 1340 leave as 1404, with `route_mtu` as 1400."""
    with site.gw_a.pinned(1340):
        assert _outer(site, 1340) == 1344 + OVERHEAD
        with site.gw_a.configured(ROUTE_MTU):
            wait_for(lambda: _route_mtu(site) == 1340, "the route's MTU")
            assert _outer(site, 1340) == 1340 + OVERHEAD
    wait_for(lambda: _route_mtu(site) is None, "the route to be as it was")


def test_route_mtu(site: Site) -> None:
    """IPv4 without DF is fragmented by the gateway, and arrives where nothing larger passes."""
    site.path.swallow(1400)
    with (
        site.gw_a.configured(ROUTE_MTU),
        site.gw_a.pinned(1340),
        Datagrams(site.hosts, 4, discovery="dont") as datagrams,
    ):
        wait_for(lambda: _route_mtu(site) == 1340, "the route's MTU")
        assert datagrams.arrives(1400)


def test_down_and_up(site: Site) -> None:
    """wg-quick makes the device anew; the peer and its pin are found again."""
    with site.gw_a.pinned(MTU):
        site.gw_a.run("wg-quick", "down", "wg0")
        wait_for(lambda: not site.gw_a.peers(), "the peer to be gone")
        site.gw_a.run("wg-quick", "up", "wg0")
        site.gw_a.attached("wg0")
        wait_for(lambda: site.gw_a.peer()["mtu"] == MTU, "the pin")
        site.session()
        opens_clamped(site.hosts, "wg0", 4, MTU)


def test_ipv6_underlay(site: Site) -> None:
    """The peer roams to an IPv6 endpoint, and back: the overhead follows within two seconds and a bit."""
    with site.underlay(6):
        wait_for(lambda: site.gw_a.peer()["overhead"] == 80, "the overhead", timeout=8)
        with site.gw_b.make("Capture", device="eth1") as outer, Datagrams(site.hosts, 4) as datagrams:
            assert outer_size(outer, datagrams, 1280, OUTER_B[6]) == 1280 + 80
    wait_for(lambda: site.gw_a.peer()["overhead"] == OVERHEAD, "the overhead", timeout=8)


def _outer(site: Site, inner: int) -> int:
    """Size of the outer packet that an inner one leaves in."""
    with site.router.make("Capture", device="eth1") as outer, Datagrams(site.hosts, 4) as datagrams:
        return outer_size(outer, datagrams, inner, OUTER_B[4])


def _route_mtu(site: Site) -> int | None:
    (route,) = site.gw_a.json("ip", "-j", "route", "show", "10.2.0.0/24")
    for metrics in route.get("metrics", []):
        if "mtu" in metrics:
            return int(metrics["mtu"])
    return None
