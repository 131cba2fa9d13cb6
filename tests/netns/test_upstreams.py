"""Two upstreams that both lead everywhere, told apart by device, with policy routing by mark.

                     ┌── up0, a cable ──────── near site
client ── gateway ───┤                          203.0.113.1, 2001:db8::1
                     └── wg, a tunnel ──────── far site
                         (packets with mark 1)  203.0.113.1, 2001:db8::1
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab import Capture, Clampd, Lab, Namespace, peer_table, transfer
from lab.topology import EVERYTHING, Ends, mss_for

pytestmark = pytest.mark.netns

SERVICE = {4: "203.0.113.1", 6: "2001:db8::1"}
NEAR_MTU, FAR_MTU = 1400, 1300
MARK = 1
MARK_EVERYTHING = """
table inet marks {
    chain arriving { type filter hook prerouting priority -150; iifname lan meta mark set 1; }
}
"""


@dataclass(frozen=True)
class Upstreams:
    """The topology of this file's head with an enforcing clampd."""

    client: Namespace
    gateway: Namespace
    near: Namespace
    far: Namespace
    at_client: Capture
    at_near: Capture
    at_far: Capture
    clampd: Clampd
    tunnel: str


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    with Lab() as lab:
        client, gateway, near, far = lab.namespaces("client", "gw", "near", "far")
        gateway.forwards()
        lab.veth(client, "lan", gateway, "lan")
        lab.veth(gateway, "up0", near, "up0")
        lab.veth(gateway, "up1", far, "up1")
        client.address("lan", "10.1.0.2/24", "fd00:1::2/64")
        gateway.address("lan", "10.1.0.1/24", "fd00:1::1/64")
        gateway.address("up0", "10.2.0.1/24", "fd00:2::1/64")
        gateway.address("up1", "192.0.2.1/24")
        near.address("up0", "10.2.0.2/24", "fd00:2::2/64")
        far.address("up1", "192.0.2.2/24")
        here = lab.wireguard(gateway, addresses=["10.3.0.1/24", "fd00:3::1/64"])
        there = lab.wireguard(far, addresses=["10.3.0.2/24", "fd00:3::2/64"])
        here.knows(there, allowed=EVERYTHING, endpoint="192.0.2.2")
        there.knows(here, allowed=EVERYTHING, endpoint="192.0.2.1")
        client.route("default via 10.1.0.1", "::/0 via fd00:1::1")
        for site in (near, far):
            site.ip(f"address add {SERVICE[4]}/32 dev lo", f"address add {SERVICE[6]}/128 dev lo")
        near.route("default via 10.2.0.1", "::/0 via fd00:2::1")
        far.route("10.1.0.0/24 via 10.3.0.1", "fd00:1::/64 via fd00:3::1")
        gateway.route("default via 10.2.0.2", "::/0 via fd00:2::2")
        gateway.route(f"default dev {here.name} table 101", f"::/0 dev {here.name} table 101")
        gateway.ip(f"rule add fwmark {MARK} table 101")
        gateway.run("ip", "-6", "rule", "add", "fwmark", str(MARK), "table", "101")
        clampd = lab.clampd(
            gateway,
            'mode = "enforce"\n'
            + peer_table("near", "up0", EVERYTHING, NEAR_MTU)
            + peer_table("far", here.name, EVERYTHING, FAR_MTU),
        )
        clampd.attached("up0", here.name)
        yield Upstreams(
            client, gateway, near, far,
            lab.capture(client, "lan"), lab.capture(near, "up0"), lab.capture(far, there.name),
            clampd, here.name,
        )  # fmt: skip


@pytest.fixture
def marked(upstreams: Upstreams) -> Iterator[None]:
    """While a test runs, everything from the client goes by the tunnel."""
    upstreams.gateway.nft(MARK_EVERYTHING)
    yield
    upstreams.gateway.nft("delete table inet marks")


@pytest.mark.parametrize("family", [4, 6])
def test_unmarked_takes_the_near_limit(upstreams: Upstreams, family: int) -> None:
    connection = transfer(upstreams.client, upstreams.near, SERVICE[family])
    assert Ends.syn(upstreams.at_near, connection).mss == mss_for(NEAR_MTU, family)
    assert Ends.syn(upstreams.at_client, connection).mss == mss_for(NEAR_MTU, family)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.usefixtures("marked")
def test_marked_takes_the_far_limit(upstreams: Upstreams, family: int) -> None:
    connection = transfer(upstreams.client, upstreams.far, SERVICE[family])
    assert Ends.syn(upstreams.at_far, connection).mss == mss_for(FAR_MTU, family)
    assert Ends.syn(upstreams.at_client, connection).mss == mss_for(FAR_MTU, family)


@pytest.mark.parametrize("family", [4, 6])
def test_gateway_itself(upstreams: Upstreams, family: int) -> None:
    plain = transfer(upstreams.gateway, upstreams.near, SERVICE[family])
    assert Ends.syn(upstreams.at_near, plain).mss == mss_for(NEAR_MTU, family)
    assert plain.client_mss <= mss_for(NEAR_MTU, family)
    marked = transfer(upstreams.gateway, upstreams.far, SERVICE[family], mark=MARK)
    assert Ends.syn(upstreams.at_far, marked).mss == mss_for(FAR_MTU, family)
    assert marked.client_mss <= mss_for(FAR_MTU, family)


def test_an_address_of_both_is_shown_where_the_routing_table_leads(upstreams: Upstreams) -> None:
    assert upstreams.clampd.ctl_json("show", SERVICE[4])["peer"]["name"] == "near"
    chosen = upstreams.clampd.ctl_json("show", SERVICE[4], "--device", upstreams.tunnel)
    assert chosen["peer"]["name"] == "far"
