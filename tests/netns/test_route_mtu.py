"""`route_mtu`: MTUs of peers in the routes of a wireguard-go tunnel, and every way in which they go again.

client ────── gateway with clampd ══ WireGuard over a path of 1400 bytes ══ site ── 10.7.0.1, fd07::1   (lab.topology)

Bigger outer packets are swallowed without a word. 1328 is what such a path leaves to WireGuard's padding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Clampd, Datagrams, Lab, LabError, Namespace, peer_table, transfer, wait_for
from lab.topology import GATEWAY, Line, line
from mssclamp.datapath.links import ChangeMonitor

pytestmark = pytest.mark.netns

PEER_MTU, DEVICE_MTU = 1328, 1420
TOO_LARGE = 1400
"""Bytes that the device takes and the path does not."""

BRANCH = {4: "10.7.0.1", 6: "fd07::1"}
PREFIXES = ["10.7.0.0/16", "fd07::/48"]
TABLE = "77"
SUPERVISED = ("-4", "-6")


@dataclass(frozen=True)
class Branch:
    """A line whose site has a network behind it, and how the gateway's routes were before anybody touched them."""

    line: Line
    before: dict[str, list[str]]

    @property
    def gateway(self) -> Namespace:
        return self.line.gateway

    @property
    def device(self) -> str:
        return self.line.device

    def config(self, *, mode: str = "enforce", route_mtu: bool = True, mtu: int | None = PEER_MTU) -> str:
        wanted = f'[[device]]\nname = "{self.device}"\nroute_mtu = {str(route_mtu).lower()}\n'
        return f'mode = "{mode}"\n' + wanted + peer_table("branch", self.device, PREFIXES, mtu)

    def mtus(self) -> dict[str, int | None]:
        """The MTU of every route out of the device that has one, by destination and table."""
        found: dict[str, int | None] = {}
        for family in SUPERVISED:
            for route in self.gateway.ip_json(f"{family} route show table all dev {self.device}"):
                for metrics in route.get("metrics", []):
                    if "mtu" in metrics:
                        table = route.get("table", "main")
                        found[route["dst"] + ("" if table == "main" else f" {table}")] = metrics["mtu"]
        return found

    def wait(self, wanted: dict[str, int | None]) -> None:
        wait_for(lambda: self.mtus() == wanted, f"the MTUs {wanted} in routes, not {self.mtus()}", timeout=5)

    def is_as_before(self) -> bool:
        return routes(self.gateway) == self.before


def routes(gateway: Namespace) -> dict[str, list[str]]:
    """Everything the kernel says of every route, its own flags of IPv6 routes included."""
    shown = {family: gateway.run("ip", "-d", family, "route", "show", "table", "all").stdout for family in SUPERVISED}
    with gateway.entered():
        shown["flags"] = Path("/proc/thread-self/net/ipv6_route").read_text()
    # There, columns 6 and 7 count uses.
    listed = {what: [line.split() for line in text.splitlines()] for what, text in shown.items()}
    return {
        what: sorted(" ".join(words[:6] + words[8:] if what == "flags" else words) for words in lines)
        for what, lines in listed.items()
    }


WRITTEN = {
    "10.7.0.0/16": PEER_MTU, f"10.7.0.0/16 {TABLE}": PEER_MTU, "10.7.9.0/24": PEER_MTU, "fd07::/48": PEER_MTU
}  # fmt: skip


@pytest.fixture
def branch(lab: Lab) -> Branch:
    built = line(lab, "wireguard")
    gateway, device = built.gateway, built.device
    built.site.ip(*(f"address add {address} dev lo" for address in BRANCH.values()))
    gateway.route(
        f"10.7.0.0/16 dev {device}",
        f"10.7.0.0/16 via 10.2.0.2 dev {device} table {TABLE} advmss 1300 metric 5",
        f"10.7.9.0/24 dev {device} src {GATEWAY[4]} rto_min 50ms initcwnd 20 proto static",
        f"fd07::/48 dev {device} hoplimit 9 pref high",
        f"10.6.0.0/16 dev {device}",
    )
    for address in BRANCH.values():
        transfer(built.client, built.site, address, size=100)  # a session is there, and everybody knows everybody
    return Branch(built, routes(gateway))


@pytest.fixture
def clampd(lab: Lab, branch: Branch) -> Iterator[Clampd]:
    clampd = lab.clampd(branch.gateway, branch.config())
    clampd.attached(branch.device)
    branch.wait(WRITTEN)
    yield clampd
    assert "Traceback" not in clampd.output()


class TestTraffic:
    def test_without_df_what_is_too_large_arrives_in_fragments(self, lab: Lab, branch: Branch) -> None:
        clampd = lab.clampd(branch.gateway, branch.config(route_mtu=False))
        clampd.attached(branch.device)
        for sender in (branch.line.client, branch.gateway):
            with Datagrams(sender, branch.line.site, BRANCH[4], discovery="dont") as datagrams:
                before = clampd.peer("branch")["counters"]["oversize_df_clear"]
                with pytest.raises(LabError):
                    datagrams.arrives(TOO_LARGE)
                lost = clampd.peer("branch")["counters"]["oversize_df_clear"]
                assert lost > before
                set_option(clampd, branch, route_mtu=True)
                assert datagrams.arrives(TOO_LARGE)
                assert clampd.peer("branch")["counters"]["oversize_df_clear"] == lost
                set_option(clampd, branch, route_mtu=False)

    @pytest.mark.parametrize("family", [4, 6])
    def test_local_sockets_know_the_mtu(self, branch: Branch, clampd: Clampd, family: int) -> None:
        with Datagrams(branch.gateway, branch.line.site, BRANCH[family]) as datagrams:
            assert datagrams.path_mtu == PEER_MTU
            assert not datagrams.send(PEER_MTU + 1)
            assert datagrams.arrives(PEER_MTU)
            clampd.ctl("observe")
            assert datagrams.arrives(PEER_MTU), "a socket looks at its route when it sends"
            assert datagrams.path_mtu == DEVICE_MTU
        connection = transfer(branch.gateway, branch.line.site, BRANCH[family], size=1000)
        assert connection.client_mss > PEER_MTU - 60

    @pytest.mark.parametrize("family", [4, 6])
    def test_hosts_hear_it_from_the_kernel(self, branch: Branch, clampd: Clampd, family: int) -> None:
        with Datagrams(branch.line.client, branch.line.site, BRANCH[family]) as datagrams:
            assert datagrams.learns(TOO_LARGE).mtu == PEER_MTU
            assert datagrams.arrives(PEER_MTU)
        assert clampd.peer("branch")["counters"]["oversize"] == 0


class TestUndone:
    """However it ends, every route is as it was, down to the kernel's flags."""

    def test_observe(self, branch: Branch, clampd: Clampd) -> None:
        clampd.ctl("observe")
        assert branch.is_as_before()
        clampd.ctl("enforce")
        assert branch.mtus() == WRITTEN
        clampd.ctl("observe", branch.device)
        assert branch.is_as_before()

    def test_a_trial(self, branch: Branch, clampd: Clampd) -> None:
        clampd.ctl("observe")
        clampd.ctl("enforce", "--for", "2s")
        assert branch.mtus() == WRITTEN
        wait_for(branch.is_as_before, "the end of the trial", timeout=5)

    def test_detach(self, branch: Branch, clampd: Clampd) -> None:
        clampd.ctl("detach", branch.device)
        assert branch.is_as_before()
        clampd.ctl("attach", branch.device)
        assert branch.mtus() == WRITTEN
        clampd.ctl("detach")
        assert branch.is_as_before()
        clampd.kill()
        clampd.start()
        assert branch.is_as_before()

    @pytest.mark.parametrize("all_devices", [True, False])
    def test_detach_without_the_daemon(self, branch: Branch, clampd: Clampd, all_devices: bool) -> None:
        clampd.kill()
        assert branch.mtus() == WRITTEN, "a daemon that is gone leaves everything in force"
        told = clampd.ctl("detach", *([] if all_devices else [branch.device])).stdout
        assert branch.is_as_before()
        assert "route 10.7.0.0/16 has no mtu" in told

    @pytest.mark.parametrize("how", ["stopped", "killed"])
    def test_a_restart_goes_on_and_still_knows_them(self, branch: Branch, clampd: Clampd, how: str) -> None:
        clampd.kill() if how == "killed" else clampd.stop()
        assert branch.mtus() == WRITTEN
        clampd.start()
        clampd.attached(branch.device)
        assert branch.mtus() == WRITTEN
        clampd.ctl("observe")
        assert branch.is_as_before()

    def test_a_restart_with_the_option_off(self, branch: Branch, clampd: Clampd) -> None:
        clampd.kill()
        clampd.config.write_text(branch.config(route_mtu=False))
        clampd.start()
        branch.wait({})
        assert branch.is_as_before()

    def test_the_option_off(self, branch: Branch, clampd: Clampd) -> None:
        set_option(clampd, branch, route_mtu=False)
        assert branch.is_as_before()

    def test_the_peer_goes(self, branch: Branch, clampd: Clampd) -> None:
        clampd.config.write_text(branch.config().partition("[[peer]]")[0])
        clampd.ctl("reload")
        assert branch.is_as_before()

    def test_no_evidence(self, branch: Branch, clampd: Clampd) -> None:
        """Another pin is another MTU; without any the value is the device's, and nobody has to be told."""
        clampd.config.write_text(branch.config(mtu=None))
        clampd.ctl("reload")
        assert branch.is_as_before()
        clampd.ctl("pin", "branch", "1000")
        branch.wait({each: 1280 if ":" in each else 1000 for each in WRITTEN})
        clampd.ctl("unpin", "branch")
        assert branch.is_as_before()

    def test_the_devices_mtu_went_below_and_came_back(self, branch: Branch, clampd: Clampd) -> None:
        """The kernel itself then changes what IPv6 routes say."""
        clampd.kill()
        for mtu in (1300, DEVICE_MTU):
            branch.gateway.ip(f"link set {branch.device} mtu {mtu}")
        assert branch.mtus()["fd07::/48"] == DEVICE_MTU
        clampd.start()
        branch.wait(WRITTEN)
        clampd.ctl("observe")
        assert branch.is_as_before()


class TestLeftAlone:
    def test_what_is_not_understood(self, lab: Lab, branch: Branch) -> None:
        gateway, device = branch.gateway, branch.device
        gateway.route(
            f"10.7.1.0/24 dev {device} proto bird",
            f"10.7.2.0/24 nexthop dev {device} nexthop dev lan",
            f"10.7.3.0/24 dev {device} mtu 1300",
            f"10.7.4.0/24 dev {device} mtu lock 1300",
            f"fd07:0:0:5::/64 dev {device} expires 1000",
            f"fd07:0:0:6::/64 dev {device} metric 9",
        )
        gateway.ip("route append fd07:0:0:6::/64 dev lan metric 9")
        gateway.ip(f"nexthop add id 7 dev {device}", "route add 10.7.6.0/24 nhid 7")
        before = routes(gateway)
        clampd = lab.clampd(gateway, branch.config())
        clampd.attached(device)
        branch.wait(WRITTEN | {"10.7.3.0/24": 1300, "10.7.4.0/24": 1300})
        problems = "\n".join(clampd.status()["problems"])
        for name, why in (
            ("10.7.1.0/24", "made by bird"),
            ("10.7.2.0/24", "several next hops"),
            ("10.7.6.0/24", "a nexthop object"),
            ("10.7.3.0/24, 10.7.4.0/24", "an MTU of its own"),
            ("fd07:0:0:5::/64", "expires by itself"),
            ("fd07:0:0:6::/64", "another route has the same destination"),
        ):
            assert f"leaves {name} alone: {why}" in problems
        assert clampd.output().count("made by bird") == 1
        assert "made by bird" in clampd.ctl("reload").stdout + clampd.ctl("reload").stderr
        assert clampd.output().count("made by bird") == 1
        clampd.ctl("detach")
        after = routes(gateway)
        for each in (before, after):  # one of them counts down
            each["-6"] = [line for line in each["-6"] if "expires" not in line]
        assert after == before

    def test_a_wider_route_is_named(self, lab: Lab, branch: Branch) -> None:
        prefixes = ["10.2.0.2/32", "fd00:2::2/128", "10.7.0.0/16"]
        config = branch.config().partition("[[peer]]")[0] + peer_table("branch", branch.device, prefixes, PEER_MTU)
        clampd = lab.clampd(branch.gateway, config)
        clampd.attached(branch.device)
        branch.wait({each: mtu for each, mtu in WRITTEN.items() if ":" not in each})
        (problem,) = clampd.status()["problems"]
        assert "no route inside 10.2.0.2/32 of branch, fd00:2::2/128 of branch" in problem
        branch.gateway.route(f"10.2.0.2/32 dev {branch.device}", f"fd00:2::2/128 dev {branch.device}")
        wait_for(lambda: not clampd.status()["problems"], "a look at the new routes", timeout=5)
        assert branch.mtus()["10.2.0.2"] == PEER_MTU

    def test_what_somebody_changed_is_his(self, branch: Branch, clampd: Clampd) -> None:
        branch.gateway.ip(f"route replace 10.7.9.0/24 dev {branch.device} mtu 1350")
        wait_for(lambda: "10.7.9.0/24 alone" in str(clampd.status()["problems"]), "the change to be seen", timeout=5)
        clampd.ctl("detach")
        assert branch.mtus() == {"10.7.9.0/24": 1350}

    def test_what_somebody_changed_while_nobody_looked(self, branch: Branch, clampd: Clampd) -> None:
        clampd.kill()
        branch.gateway.ip(f"route replace 10.7.9.0/24 dev {branch.device} mtu 1350")
        clampd.ctl("detach")
        assert branch.mtus() == {"10.7.9.0/24": 1350}

    def test_no_fight(self, branch: Branch, clampd: Clampd) -> None:
        """Somebody who keeps taking our MTU out wins, for a minute."""
        gateway, device = branch.gateway, branch.device
        fought = "fd07::/48"
        for _ in range(2):
            gateway.ip(f"route replace {fought} dev {device} hoplimit 9 pref high")
            branch.wait(WRITTEN)
        gateway.ip(f"route replace {fought} dev {device} hoplimit 9 pref high")
        wait_for(lambda: f"out of {fought}" in str(clampd.status()["problems"]), "the end of the fight", timeout=5)
        assert branch.mtus() == {each: mtu for each, mtu in WRITTEN.items() if each != fought}


def test_routes_come_and_go(branch: Branch, clampd: Clampd) -> None:
    branch.gateway.route(f"10.7.5.0/24 dev {branch.device}", f"fd07:0:0:5::/64 dev {branch.device}")
    branch.wait(WRITTEN | {"10.7.5.0/24": PEER_MTU, "fd07:0:0:5::/64": PEER_MTU})
    branch.gateway.ip(
        f"route delete 10.7.5.0/24 dev {branch.device}", f"route delete fd07:0:0:5::/64 dev {branch.device}"
    )
    clampd.ctl("detach")
    assert branch.is_as_before()


def test_an_address_goes_with_its_route(lab: Lab, branch: Branch) -> None:
    """The kernel's own routes of the device's addresses are written to, and the kernel still knows them."""
    gateway, device = branch.gateway, branch.device
    gateway.address(device, "10.7.8.1/24", "fd07:0:0:8::1/64")
    clampd = lab.clampd(gateway, branch.config())
    clampd.attached(device)
    branch.wait(WRITTEN | {"10.7.8.0/24": PEER_MTU, "fd07:0:0:8::/64": PEER_MTU})
    gateway.ip(f"address delete 10.7.8.1/24 dev {device}", f"address delete fd07:0:0:8::1/64 dev {device}")
    clampd.ctl("detach")
    assert branch.is_as_before()


def test_only_routes_that_concern_us_wake_the_daemon(branch: Branch) -> None:
    gateway, device = branch.gateway, branch.device
    index = gateway.ip_json(f"link show dev {device}")[0]["ifindex"]
    with gateway.entered(), contextlib.closing(ChangeMonitor()) as monitor:
        for followed, out_of, woken in (
            (frozenset(), device, False),
            (frozenset({index}), device, True),
            (frozenset({index}), "lan", False),
            (frozenset(), device, False),
        ):
            monitor.follow_routes(followed)
            for prefix in ("10.99.0.0/16", "fd99::/48"):
                for verb in ("add", "delete"):
                    gateway.ip(f"route {verb} {prefix} dev {out_of}")
                    assert monitor.drain() is woken


def set_option(clampd: Clampd, branch: Branch, *, route_mtu: bool) -> None:
    clampd.config.write_text(branch.config(route_mtu=route_mtu))
    clampd.ctl("reload")
    branch.wait(WRITTEN if route_mtu else {})
