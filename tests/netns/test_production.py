"""The clamp and the answers once more, on a gateway with everything that people run on one (lab.production).

Every connection here passes a bridge, conntrack with `policy drop`, masquerade, a clamp of nftables' own, strict
reverse-path filters, and policy routing by a mark.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab import (
    Capture,
    Clampd,
    Datagrams,
    Lab,
    LabError,
    Namespace,
    Upload,
    checksum_errors,
    heal,
    peer_table,
    transfer,
)
from lab.production import PREFIXES, SERVICE, Production, production
from lab.topology import GATEWAY, SITE, SITE_PREFIXES, Ends, line, mss_for

pytestmark = pytest.mark.netns

PEER_MTU = {"veth": 1400, "vxlan": 1400, "wireguard": 1328}
LEARNED_MTU, LOWER_MTU = 1323, 1281
TARGETS = {"site": SITE, "service": SERVICE}
"""By their addresses' own routes, and by mark alone."""

MARK_THE_LAN = """
table inet marks {
    chain arriving { type filter hook prerouting priority mangle; iifname "lan" meta mark set 1; }
}
"""

UNTRACKED = """
table inet raw {
    chain untracked { type filter hook prerouting priority raw; meta l4proto udp notrack; }
}
insert rule inet gate forward iifname lan udp dport 1-65535 accept
"""


@dataclass(frozen=True)
class Gateway:
    """It, with an enforcing clampd."""

    lab: Lab
    kind: str
    line: Production
    clampd: Clampd
    at_client: Capture
    at_site: Capture

    @property
    def mtu(self) -> int:
        return PEER_MTU[self.kind]

    def forget_paths(self) -> None:
        """Let every host try large packets again."""
        for namespace in self.lab.everywhere:
            namespace.forget_paths()


@contextlib.contextmanager
def production_gateway(kind: str) -> Iterator[Gateway]:
    """Build it and start clampd."""
    with Lab() as lab:
        line = production(lab, kind)
        clampd = lab.clampd(
            line.gateway, 'mode = "enforce"\n' + peer_table("site", line.device, PREFIXES, PEER_MTU[kind])
        )
        clampd.attached(line.device)
        at_client, at_site = lab.capture(line.client, "lan"), lab.capture(line.site, line.far_device)
        yield Gateway(lab, kind, line, clampd, at_client, at_site)
        assert checksum_errors(*lab.everywhere) == {}


@pytest.fixture(scope="module", params=["veth", "wireguard"])
def shared(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    with production_gateway(request.param) as built:
        yield built


@pytest.fixture(params=[True, False], ids=["offloads", "no-offloads"])
def gateway(request: pytest.FixtureRequest, shared: Gateway) -> Iterator[Gateway]:
    """The LAN's network cards with offloads and without; nobody knows the path's MTU."""
    shared.line.lan_offloads(request.param)
    shared.forget_paths()
    yield shared
    assert checksum_errors(*shared.lab.everywhere) == {}
    assert shared.clampd.running, shared.clampd.output()


@pytest.fixture
def veth() -> Iterator[Gateway]:
    """One of its own, for tests that change it."""
    with production_gateway("veth") as built:
        yield built


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("target", ["site", "service"])
def test_connections_open_clamped(gateway: Gateway, target: str, family: int) -> None:
    line, limit = gateway.line, mss_for(gateway.mtu, family)
    connection = transfer(line.client, line.site, TARGETS[target][family])
    # On the site's side of the masquerade the port may be another.
    at_site = gateway.at_site.wait_for_segments(
        lambda segment: segment.is_syn and segment.destination_port == connection.server_port, "the SYN"
    )
    assert at_site[0].source == GATEWAY[family]
    assert at_site[0].mss == limit
    assert Ends.syn(gateway.at_client, connection).mss == limit


@pytest.mark.parametrize("family", [4, 6])
def test_own_connections_open_clamped(gateway: Gateway, family: int) -> None:
    connection = transfer(gateway.line.gateway, gateway.line.site, SITE[family])
    assert Ends.syn(gateway.at_site, connection).mss == mss_for(gateway.mtu, family)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("sender", "target"), [("client", "site"), ("client", "service"), ("gateway", "site")])
def test_udp_heals(gateway: Gateway, sender: str, target: str, family: int) -> None:
    """The host recognises the quote: its socket is told, about the destination that it knows."""
    mtu = gateway.mtu
    with Datagrams(host(gateway.line, sender), gateway.line.site, TARGETS[target][family]) as datagrams:
        assert datagrams.arrives(mtu)
        told = datagrams.learns(mtu + 1)
        assert (told.mtu, told.said_by) == (mtu, TARGETS[target][family])
        assert (told.destination, told.port) == datagrams.destination
        assert not datagrams.send(mtu + 1), "EMSGSIZE from now on"
        assert datagrams.arrives(mtu)


def test_transfers_under_way_heal(gateway: Gateway) -> None:
    """From behind the masquerade by route and by mark, and from the gateway itself."""
    line = gateway.line
    with contextlib.ExitStack() as stack:
        uploads = [
            stack.enter_context(Upload(host(line, sender), line.site, TARGETS[target][family]))
            for sender, target in (("client", "site"), ("client", "service"), ("gateway", "site"))
            for family in (4, 6)
        ]
        heal(gateway.clampd, "site", uploads, line.site, line.far_device, learned=LEARNED_MTU, size=LOWER_MTU)


def test_without_the_daemon(veth: Gateway) -> None:
    veth.clampd.kill()
    line = veth.line
    for family in (4, 6):
        with Datagrams(line.client, line.site, SERVICE[family]) as datagrams:
            assert datagrams.learns(veth.mtu + 1).mtu == veth.mtu
        assert transfer(line.client, line.site, SITE[family]).client_mss <= mss_for(veth.mtu, family)


@pytest.mark.parametrize("family", [4, 6])
def test_answers_need_related(veth: Gateway, family: int) -> None:
    """What the documentation says: rules that let only `established` through keep answers from their senders."""
    veth.line.restrict("established")
    for sender in ("client", "gateway"):
        with Datagrams(host(veth.line, sender), veth.line.site, SITE[family]) as datagrams:
            with pytest.raises(LabError):
                datagrams.learns(veth.mtu + 1, timeout=0.5)
            assert datagrams.path_mtu == 1500
    veth.line.restrict("established,related")
    with Datagrams(veth.line.client, veth.line.site, SITE[family]) as datagrams:
        assert datagrams.learns(veth.mtu + 1).mtu == veth.mtu


def test_marks_alone_do_not_bring_answers_back(veth: Gateway) -> None:
    """What the documentation says: without src_valid_mark, or where nothing gives arriving packets their connection's
    mark, a strict reverse-path filter takes answers, as it takes every reply."""
    veth.line.gateway.sysctl("net.ipv4.conf.all.src_valid_mark", 0)
    with Datagrams(veth.line.client, veth.line.site, SERVICE[4]) as datagrams, pytest.raises(LabError):
        datagrams.learns(veth.mtu + 1, timeout=0.5)
    with pytest.raises(LabError):
        transfer(veth.line.client, veth.line.site, SERVICE[4], timeout=0.5)


@pytest.mark.parametrize("family", [4, 6])
def test_an_answer_has_no_mark(lab: Lab, family: int) -> None:
    """The LAN's packets are marked, and the table for the mark knows nothing but the way out: an answer that kept the
    mark would be routed back there."""
    built = line(lab)
    built.gateway.nft(MARK_THE_LAN)
    version = "-4" if family == 4 else "-6"
    built.gateway.run("ip", version, "rule", "add", "fwmark", "1", "table", "101")
    built.gateway.run(
        "ip", version, "route", "add", "default", "via", SITE[family], "dev", built.device, "table", "101"
    )
    peer = peer_table("site", built.device, SITE_PREFIXES, PEER_MTU["veth"])
    clampd = lab.clampd(built.gateway, 'mode = "enforce"\n' + peer)
    clampd.attached(built.device)
    with Datagrams(built.client, built.site, SITE[family]) as datagrams:
        assert datagrams.learns(1500).mtu == PEER_MTU["veth"]


def test_untracked_flows(veth: Gateway) -> None:
    """What the documentation says: an answer about a flow that conntrack does not know is `invalid`, not `related`."""
    gateway = veth.line.gateway
    gateway.nft(UNTRACKED)
    with Datagrams(veth.line.client, veth.line.site, SITE[4]) as datagrams:
        with pytest.raises(LabError):
            datagrams.learns(veth.mtu + 1, timeout=0.5)
        gateway.nft("insert rule inet gate forward icmp type destination-unreachable icmp code frag-needed accept")
        assert datagrams.learns(veth.mtu + 1).mtu == veth.mtu


def test_flowtable(veth: Gateway) -> None:
    """Flows on a (software) flowtable go past forward rules, but not past tc."""
    line = veth.line
    line.accelerate()
    with contextlib.ExitStack() as stack:
        uploads = [
            stack.enter_context(Upload(line.client, line.site, TARGETS[target][family]))
            for target in ("site", "service")
            for family in (4, 6)
        ]
        heal(veth.clampd, "site", uploads, line.site, line.far_device, learned=LEARNED_MTU, size=LOWER_MTU)
    veth.forget_paths()
    for family in (4, 6):
        with Datagrams(line.client, line.site, SITE[family]) as datagrams:
            assert datagrams.learns(veth.mtu + 1).mtu == veth.mtu


@pytest.mark.parametrize("family", [4, 6])
def test_a_device_in_a_bridge(lab: Lab, family: int) -> None:
    """A tunnel that makes one LAN of two: nothing is routed, and the answer is bridged to the host as any frame is."""
    line = production(lab, "vxlan")
    address = {4: "10.1.0.9", 6: "fd00:1::9"}
    line.gateway.ip(f"address flush dev {line.device}", f"link set {line.device} master lan")
    line.gateway.nft("insert rule inet gate forward iifname lan oifname lan accept")
    line.site.address(line.far_device, f"{address[4]}/24", f"{address[6]}/64")
    peer = peer_table("site", line.device, [f"{address[4]}/32", f"{address[6]}/128"], PEER_MTU["vxlan"])
    clampd = lab.clampd(line.gateway, 'mode = "enforce"\n' + peer)
    clampd.attached(line.device)
    at_client = lab.capture(line.client, "lan")
    connection = transfer(line.client, line.site, address[family])
    assert Ends.syn(at_client, connection).mss == mss_for(PEER_MTU["vxlan"], family)
    with Upload(line.client, line.site, address[family]) as upload:
        heal(clampd, "site", [upload], line.site, line.far_device, learned=LEARNED_MTU, size=LOWER_MTU)
    assert checksum_errors(*lab.everywhere) == {}


def host(line: Production, sender: str) -> Namespace:
    """Who sends."""
    return line.gateway if sender == "gateway" else line.client
