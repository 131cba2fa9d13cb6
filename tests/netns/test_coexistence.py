"""Beside other people's programs and filters, and against somebody who takes clampd's away.

client ────── gateway with clampd ══════ site        (lab.topology)
                 │
                 spy: what a foreign filter mirrors
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from lab import Capture, Clampd, Datagrams, Lab, Namespace, Upload, bpf, peer_table, transfer, wait_for
from lab.topology import AFTER_CLAMPD, BEFORE_CLAMPD, SITE, SITE_PREFIXES, Ends, Line, line, mss_for

pytestmark = pytest.mark.netns

PEER_MTU = 1400
FOREIGN_TAG = 9
MIRROR = "action mirred egress mirror dev spy"
BACK_SECONDS = 5.0
"""A second is what is promised on a machine that has nothing else to do."""


@dataclass(frozen=True)
class Gateway:
    """A line whose gateway runs an enforcing clampd."""

    lab: Lab
    line: Line
    clampd: Clampd
    at_site: Capture
    at_spy: Capture

    @property
    def namespace(self) -> Namespace:
        return self.line.gateway

    @property
    def device(self) -> str:
        return self.line.device

    def document(self) -> dict[str, Any]:
        """The device as `status` shows it."""
        return dict(self.clampd.device(self.device) or {})

    def on_both_hooks(self) -> bool:
        """Whether clampd's two programs are on the device."""
        return len(self.clampd.programs(self.device)) == 2

    def filters(self, hook: str) -> str:
        return self.namespace.tc(f"filter show dev {self.device} {hook}")

    def assert_clamps(self) -> None:
        connection = transfer(self.line.client, self.line.site, SITE[4])
        assert Ends.syn(self.at_site, connection).mss == mss_for(PEER_MTU, 4)

    def assert_answers(self) -> None:
        self.line.client.forget_paths()
        with Datagrams(self.line.client, self.line.site, SITE[4]) as datagrams:
            assert datagrams.learns(PEER_MTU + 1).mtu == PEER_MTU
            assert datagrams.arrives(PEER_MTU)


@pytest.fixture
def built(lab: Lab) -> Line:
    """A line with a spy at hand."""
    made = line(lab)
    lab.veth(made.gateway, "spy", made.gateway, "spied")
    made.gateway.ip("link set spy up", "link set spied up")
    return made


@pytest.fixture
def gateway(lab: Lab, built: Line) -> Gateway:
    return enforcing(lab, built)


def enforcing(lab: Lab, built: Line) -> Gateway:
    """Start clampd on the line."""
    clampd = lab.clampd(built.gateway, 'mode = "enforce"\n' + peer_table("site", built.device, SITE_PREFIXES, PEER_MTU))
    clampd.attached(built.device)
    at_site, at_spy = lab.capture(built.site, built.far_device), lab.capture(built.gateway, "spied")
    return Gateway(lab, built, clampd, at_site, at_spy)


class TestForeignFilters:
    @pytest.mark.parametrize("priority", [BEFORE_CLAMPD, AFTER_CLAMPD], ids=["before", "after"])
    def test_a_program(self, lab: Lab, built: Line, priority: int) -> None:
        """One that tags packets: it runs, and so does clampd's, whichever is first."""
        foreign = bpf.TcProgram(built.gateway, built.device, "egress", bpf.push_vlan(FOREIGN_TAG), priority=priority)
        for end, device in ((built.gateway, built.device), (built.site, built.far_device)):
            lab.enter(bpf.TcProgram(end, device, "ingress", bpf.POP_VLAN, priority=AFTER_CLAMPD))
        gateway = enforcing(lab, built)
        lab.enter(foreign)
        gateway.assert_clamps()
        gateway.assert_answers()
        assert {frame.vlan for frame in gateway.at_site.frames() if not frame.outgoing} == {FOREIGN_TAG}

    @pytest.mark.parametrize("priority", [BEFORE_CLAMPD, AFTER_CLAMPD], ids=["before", "after"])
    def test_u32(self, gateway: Gateway, priority: int) -> None:
        """A classic filter that mirrors what matches; before clampd it must say `continue`."""
        control = "continue" if priority == BEFORE_CLAMPD else "pipe"
        gateway.namespace.tc(
            f"filter add dev {gateway.device} egress prio {priority} protocol ip "
            f"u32 match ip dst {SITE[4]}/32 {MIRROR} {control}"
        )
        gateway.assert_clamps()
        gateway.assert_answers()
        wait_for(lambda: gateway.at_spy.segments(lambda segment: segment.is_syn), "a SYN at the spy")
        mss = {segment.mss for segment in gateway.at_spy.segments(lambda segment: segment.is_syn)}
        assert mss == {mss_for(1500 if priority == BEFORE_CLAMPD else PEER_MTU, 4)}

    def test_detach_leaves_them(self, lab: Lab, built: Line) -> None:
        """On a qdisc that clampd made, too."""
        gateway = enforcing(lab, built)
        lab.enter(bpf.TcProgram(built.gateway, built.device, "ingress", bpf.NOTHING, priority=BEFORE_CLAMPD))
        gateway.namespace.tc(
            f"filter add dev {gateway.device} egress prio {AFTER_CLAMPD} protocol ip "
            f"u32 match ip dst {SITE[4]}/32 {MIRROR}"
        )
        gateway.clampd.ctl("detach")
        assert "clsact" in gateway.namespace.tc(f"qdisc show dev {gateway.device}")
        assert gateway.filters("ingress").count("foreign") == 1
        assert gateway.filters("egress").count("mirred") == 1
        assert "clampd" not in gateway.filters("ingress") + gateway.filters("egress")
        before = gateway.at_spy.count
        transfer(built.client, built.site, SITE[4])
        wait_for(lambda: gateway.at_spy.count > before, "the mirror to work on")


class TestTakenAway:
    @pytest.mark.parametrize("what", ["filter", "qdisc"])
    def test_comes_back(self, gateway: Gateway, what: str) -> None:
        take_away(gateway, what)
        wait_for(gateway.on_both_hooks, "both programs to be back", timeout=BACK_SECONDS)
        event = gateway.clampd.events(lambda event: event["event"] == "device-attached" and "why" in event)[-1]
        assert event["device"] == gateway.device
        gateway.assert_clamps()
        gateway.assert_answers()

    def test_three_times_in_a_minute(self, gateway: Gateway) -> None:
        """Whoever does that means it: clampd stays off, and says so, until it is told to try again."""
        for _ in range(2):
            take_away(gateway, "filter")
            wait_for(gateway.on_both_hooks, "both programs to be back", timeout=BACK_SECONDS)
        take_away(gateway, "filter")
        gateway.clampd.events(lambda event: event["event"] == "device-detached")
        document = gateway.document()
        assert not document["attached"]
        assert "three times" in document["problem"] or "3 times" in document["problem"]
        assert f"clampctl attach {gateway.device}" in document["problem"]
        assert "clampd" not in gateway.filters("ingress") + gateway.filters("egress")
        gateway.clampd.ctl("reload")
        assert not gateway.document()["attached"], "nor does it come back with the next change"
        gateway.clampd.ctl("attach", gateway.device)
        gateway.clampd.attached(gateway.device)
        gateway.assert_clamps()
        gateway.assert_answers()

    @pytest.mark.parametrize("what", ["pair", "builder"])
    def test_the_private_pair_comes_back(self, gateway: Gateway, what: str) -> None:
        if what == "pair":
            gateway.namespace.ip("link delete clampd-orders")
        else:
            gateway.namespace.tc("filter del dev clampd-builder ingress")
        wait_for(
            lambda: (
                gateway.namespace.has_device("clampd-builder")
                and "clampd_answer" in gateway.namespace.tc("filter show dev clampd-builder ingress")
            ),
            "the builder to be back",
            timeout=BACK_SECONDS,
        )
        gateway.assert_answers()


def take_away(gateway: Gateway, what: str) -> None:
    """As somebody else's script does it."""
    if what == "filter":
        gateway.namespace.tc(f"filter del dev {gateway.device} egress")
    else:
        gateway.namespace.tc(f"qdisc del dev {gateway.device} clsact")


def test_shadowed(gateway: Gateway) -> None:
    """A foreign program that ends the hook before clampd's: `status` says that its packets go past."""
    foreign = bpf.TcProgram(
        gateway.namespace, gateway.device, "egress", bpf.ends(bpf.TC_ACT_OK), priority=BEFORE_CLAMPD
    )
    with Upload(gateway.line.client, gateway.line.site, SITE[4]) as upload:
        upload.goes_on()
        assert shadowed(gateway) == set()
        with foreign:
            wait_for(lambda: shadowed(gateway) == {"egress"}, "clampd's program to be shadowed", timeout=20)
            assert "shadowed" in gateway.document()["problem"]
            assert "shadowed" in gateway.clampd.ctl("status").stdout
            gateway.namespace.tc(f"filter del dev {gateway.device} egress pref {BEFORE_CLAMPD}")
        wait_for(lambda: not shadowed(gateway), "clampd's program to see packets again", timeout=20)


def shadowed(gateway: Gateway) -> set[str]:
    """The hooks on which clampd's program is shown as shadowed."""
    return {program["hook"] for program in gateway.document()["programs"] if program["shadowed"]}
