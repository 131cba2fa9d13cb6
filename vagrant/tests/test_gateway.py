"""What gateways have besides: VRFs, flowtables, 802.1Q."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from vmlab.addresses import HOST_A, OTHER_B, OUTER_A, OUTER_B
from vmlab.checks import answers, mss_for, opens_clamped, syn
from vmlab.machine import Machine, wait_for
from vmlab.site import Ends, Site, Transfer
from vmlab.tunnels import KINDS, peer_table

MTU, LOWER_MTU = 1328, 1280
VLAN_MTU = 1400
TENANT = {4: "10.6.0.2", 6: "fd00:6::2"}
"""A host in the VRF."""

ROUTER = {4: "10.5.0.254", 6: "fd00:5::254"}

FLOWTABLE = """
table inet fast {
    flowtable fast { hook ingress priority 0; devices = { lan, wg0 }; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        meta l4proto { tcp, udp } ct state established flow add @fast
        meta l4proto tcp counter comment "slow"
    }
}
"""


@contextlib.contextmanager
def vrf(site: Site) -> Iterator[Ends]:
    """On gw-a a VRF with a tenant's network and a tunnel to gw-b in it; the tunnel's underlay is outside of it."""
    near, far = site.gw_a, site.gw_b
    with (
        near.undo("ip", "link", "delete", "blue"),
        near.undo("ip", "link", "delete", "branch"),
        near.undo("ip", "netns", "delete", "tenant"),
        far.undo("ip", "link", "delete", "branch"),
    ):
        near.script("ip netns add tenant; ip link add tenant0 type veth peer name lan netns tenant")
        near.ip(
            "link add blue type vrf table 1001",
            "link set blue up",
            f"link add branch type {KINDS['gre'].options.format(near=OUTER_A[4], far=OUTER_B[4])}",
        )
        for device, addresses in (
            ("tenant0", ("10.6.0.1/24", "fd00:6::1/64 nodad")),
            ("branch", ("10.98.0.1/24", "fd98::1/64 nodad")),
        ):
            near.ip(f"link set {device} master blue", f"link set {device} up")
            near.ip(*(f"address add {address} dev {device}" for address in addresses))
        near.ip(
            f"route add {OTHER_B[4]} via 10.98.0.2 dev branch vrf blue",
            f"route add {OTHER_B[6]} via fd98::2 dev branch vrf blue",
        )
        near.ip(
            "link set lo up",
            "link set lan up",
            f"address add {TENANT[4]}/24 dev lan",
            f"address add {TENANT[6]}/64 dev lan nodad",
            "route add default via 10.6.0.1",
            "route add ::/0 via fd00:6::1",
            namespace="tenant",
        )
        far.ip(
            f"link add branch type {KINDS['gre'].options.format(near=OUTER_B[4], far=OUTER_A[4])}",
            "link set branch up",
            "address add 10.98.0.2/24 dev branch",
            "address add fd98::2/64 dev branch nodad",
            f"route add {TENANT[4]} via 10.98.0.1 dev branch",
            f"route add {TENANT[6]} via fd98::1 dev branch",
        )
        yield Ends(near, "tenant", TENANT, far, "host", OTHER_B)


def test_vrf(site: Site) -> None:
    """The device is in a VRF; the answers stay in it."""
    with vrf(site) as ends, site.gw_a.configured(peer_table(MTU)):
        site.gw_a.attached("branch")
        for family in (4, 6):
            opens_clamped(ends, "branch", family, MTU)
            answers(ends, family, MTU)


@pytest.mark.parametrize("family", [4, 6])
def test_flowtable(site: Site, family: int) -> None:
    """Flows on a flowtable go past the forward hook, and not past tc."""
    site.gw_a.nft(FLOWTABLE)
    with site.gw_a.undo("nft", "delete", "table", "inet", "fast"):
        with (
            site.gw_a.pinned(MTU),
            site.gw_b.make("Capture", device="wg0") as at_far,
            Transfer(site.hosts, family) as transfer,
        ):
            transfer.goes_on()
            assert syn(at_far, transfer.client_port)["mss"] == mss_for(MTU, family)
            before = _slow_packets(site.gw_a)
            transfer.goes_on(100_000)
            assert _slow_packets(site.gw_a) - before <= 2, "the flow is not on the flowtable"
            with site.gw_a.pinned(LOWER_MTU):
                wait_for(lambda: transfer.state()["path_mtu"] == LOWER_MTU, "the sender to be told")
                transfer.goes_on()
        site.reset()
        with site.gw_a.pinned(LOWER_MTU):
            answers(site.hosts, family, LOWER_MTU)


def test_vlan(site: Site) -> None:
    """A peer behind an 802.1Q device."""
    near, router = site.gw_a, site.router
    with (
        near.undo("ip", "link", "delete", "eth1.5"),
        router.undo("ip", "link", "delete", "eth1.5"),
        near.configured(peer_table(VLAN_MTU, prefixes=["10.5.0.254/32", "fd00:5::254/128"], device="eth1.5")),
    ):
        for machine, number in ((near, 11), (router, 254)):
            machine.ip(
                "link add link eth1 name eth1.5 type vlan id 5",
                "link set eth1.5 up",
                f"address add 10.5.0.{number}/24 dev eth1.5",
                f"address add fd00:5::{number}/64 dev eth1.5 nodad",
            )
        router.ip(
            f"route add {HOST_A[4]} via 10.5.0.11 dev eth1.5",
            f"route add {HOST_A[6]} via fd00:5::11 dev eth1.5",
        )
        near.attached("eth1.5")
        ends = Ends(near, "host", HOST_A, router, "main", ROUTER)
        with router.make("Capture", device="eth1") as trunk:
            for family in (4, 6):
                opens_clamped(ends, "eth1.5", family, VLAN_MTU)
                answers(ends, family, VLAN_MTU)
            assert 5 in trunk.tags()


def _slow_packets(gateway: Machine) -> int:
    """TCP packets that met the forward hook."""
    listed = gateway.json("nft", "-j", "list", "chain", "inet", "fast", "forward")["nftables"]
    (count,) = (
        step["counter"]["packets"]
        for each in listed
        if "rule" in each
        for step in each["rule"]["expr"]
        if "counter" in step
    )
    return int(count)
