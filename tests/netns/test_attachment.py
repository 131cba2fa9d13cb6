"""Programs on devices: put on as devices come, left in force by a dead daemon, taken off without a trace.

client ────── gateway with clampd ══════ site        (lab.topology)
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from lab import Clampd, Lab, Namespace, another_version, bpf, peer_table, transfer, wait_for
from lab.topology import (
    AFTER_CLAMPD,
    BEFORE_CLAMPD,
    GATEWAY,
    SITE,
    SITE_PREFIXES,
    Ends,
    Line,
    cable,
    line,
    mss_for,
    routes_to_client,
)

pytestmark = pytest.mark.netns

PEER_MTU = 1400
CLAMPED = mss_for(PEER_MTU, 4), mss_for(PEER_MTU, 4)
UNCLAMPED = mss_for(1500, 4), mss_for(1500, 4)


@dataclass(frozen=True)
class Gateway:
    """A line whose gateway runs an enforcing clampd."""

    lab: Lab
    line: Line
    ends: Ends
    clampd: Clampd

    @property
    def device(self) -> str:
        return self.line.device

    @property
    def namespace(self) -> Namespace:
        return self.line.gateway

    def tc_state(self) -> tuple[str, str, str]:
        """Everything that hangs on the device's tc hooks."""
        return tc_state(self.namespace, self.device)


@pytest.fixture
def gateway(lab: Lab) -> Gateway:
    return enforcing(lab, line(lab))


def enforcing(lab: Lab, built: Line) -> Gateway:
    clampd = lab.clampd(built.gateway, config(built.device))
    clampd.attached(built.device)
    return Gateway(lab, built, Ends(lab, built), clampd)


def config(device: str) -> str:
    return 'mode = "enforce"\n' + peer_table("site", device, SITE_PREFIXES, PEER_MTU)


def tc_state(namespace: Namespace, device: str) -> tuple[str, str, str]:
    return (
        namespace.tc(f"qdisc show dev {device}"),
        namespace.tc(f"filter show dev {device} ingress"),
        namespace.tc(f"filter show dev {device} egress"),
    )


class TestDevicesComeAndGo:
    def test_recreated(self, gateway: Gateway) -> None:
        """A tunnel that is restarted is another device of the same name."""
        before = gateway.clampd.programs(gateway.device)
        gateway.namespace.ip(f"link delete {gateway.device}")
        wait_for(lambda: not (gateway.clampd.device(gateway.device) or {}).get("attached"), "the device to be missed")
        cable(gateway.lab, gateway.namespace, gateway.line.site, gateway.device)
        routes_to_client(gateway.line.site, gateway.device)
        gateway.clampd.attached(gateway.device)
        assert gateway.clampd.programs(gateway.device) == before, "no other program was loaded for it"
        assert Ends(gateway.lab, gateway.line).mss() == CLAMPED

    def test_restarted_tunnel(self, lab: Lab) -> None:
        """As above, without a link header, and with another device that stays."""
        built = line(lab)
        near = lab.wireguard(built.gateway, addresses=["10.3.0.1/24"])
        far = lab.wireguard(built.site, addresses=["10.3.0.2/24"])
        near.knows(far, allowed=["10.3.0.0/24"], endpoint=SITE[4])
        far.knows(near, allowed=["10.3.0.0/24"], endpoint=GATEWAY[4])
        clampd = lab.clampd(built.gateway, config(built.device) + peer_table("far", near.name, ["10.3.0.0/24"], 1300))
        clampd.attached(built.device, near.name)
        at_far = lab.capture(built.site, far.name)
        programs = clampd.programs(near.name)
        for _ in range(3):
            near.restart()
            began = time.monotonic()
            clampd.attached(near.name)
            wait_for(lambda: clampd.programs(near.name) == programs, "the same programs again", timeout=5)
            assert time.monotonic() - began < 5
            connection = transfer(built.gateway, built.site, "10.3.0.2")
            assert Ends.syn(at_far, connection).mss == mss_for(1300, 4)

    def test_every_wireguard_device_without_configuration(self, lab: Lab) -> None:
        """And only of this namespace, though the folder of their sockets is the machine's."""
        built = line(lab)
        near = lab.wireguard(built.gateway, addresses=["10.3.0.1/24"])
        lab.wireguard(built.site, addresses=["10.3.0.2/24"])
        clampd = lab.clampd(built.gateway, "")
        clampd.attached(near.name)
        status = clampd.status()
        assert [device["name"] for device in status["devices"]] == [near.name]
        assert status["mode"] == "observe"

    def test_late(self, lab: Lab) -> None:
        """A device that the configuration names and that does not exist yet."""
        built = line(lab)
        clampd = lab.clampd(built.gateway, config("later"))
        assert not (clampd.device("later") or {}).get("attached")
        built.gateway.ip(f"link set {built.device} down", f"link set {built.device} name later")
        built.gateway.address("later", "fd00:2::1/64")  # IPv6 addresses go with "down"
        clampd.attached("later")
        assert Ends(lab, built).mss() == CLAMPED

    def test_renamed_away(self, gateway: Gateway) -> None:
        """Under another name it is not a device that we were told to manage: ours comes off."""
        gateway.namespace.ip(
            f"link set {gateway.device} down", f"link set {gateway.device} name other", "link set other up"
        )
        wait_for(lambda: "clampd" not in "".join(tc_state(gateway.namespace, "other")), "clampd to leave the device")

    @pytest.mark.parametrize("removed", ["filter", "qdisc"])
    def test_removed_by_somebody(self, gateway: Gateway, removed: str) -> None:
        """What somebody else takes off comes back, and an event says so."""
        last = gateway.clampd.events(lambda event: event["event"] == "device-attached")[-1]["seq"]
        if removed == "filter":
            gateway.namespace.tc(f"filter del dev {gateway.device} egress")
        else:
            gateway.namespace.tc(f"qdisc del dev {gateway.device} clsact")
        wait_for(lambda: len(gateway.clampd.programs(gateway.device)) == 2, "both programs to be back", timeout=5)
        gateway.clampd.events(lambda event: event["event"] == "device-attached", since=last)
        assert gateway.ends.mss() == CLAMPED


class TestFailStatic:
    def test_killed(self, gateway: Gateway) -> None:
        gateway.clampd.kill()
        assert gateway.ends.mss(4) == CLAMPED
        assert gateway.ends.mss(6) == (mss_for(PEER_MTU, 6),) * 2

    def test_stopped(self, gateway: Gateway) -> None:
        before = gateway.tc_state()
        assert gateway.clampd.stop() == 0
        assert gateway.tc_state() == before
        assert gateway.ends.mss() == CLAMPED

    def test_adopted(self, gateway: Gateway) -> None:
        """The next daemon goes on with the same programs, maps and counters."""
        gateway.ends.mss()
        before, programs = gateway.tc_state(), gateway.clampd.programs(gateway.device)
        counted = gateway.clampd.peer("site")["counters"]["clamped"]
        assert counted > 0
        gateway.clampd.kill()
        gateway.clampd.start()
        gateway.clampd.attached(gateway.device)
        assert gateway.clampd.programs(gateway.device) == programs
        assert gateway.tc_state() == before
        assert gateway.clampd.peer("site")["counters"]["clamped"] == counted


class TestDetach:
    def test_leaves_no_trace(self, lab: Lab) -> None:
        built = line(lab)
        before = tc_state(built.gateway, built.device)
        gateway = enforcing(lab, built)
        programs = gateway.clampd.programs(gateway.device)
        assert len(programs) == 2
        maps = {number for program in programs for number in bpf.maps_of(program)}
        assert maps
        gateway.clampd.ctl("detach")
        assert gateway.tc_state() == before
        assert gateway.ends.mss() == UNCLAMPED
        # The kernel frees them a moment after the last reference has gone.
        wait_for(lambda: not any(map(bpf.program_lives, programs)), "the programs to be freed")
        wait_for(lambda: not any(map(bpf.map_lives, maps)), "the maps to be freed")

    def test_keeps_off_until_attach(self, gateway: Gateway) -> None:
        gateway.clampd.ctl("detach")
        gateway.clampd.kill()
        gateway.clampd.start()
        assert gateway.clampd.status()["detached"]
        assert gateway.ends.mss() == UNCLAMPED
        assert not (gateway.clampd.device(gateway.device) or {})["attached"]
        gateway.clampd.ctl("attach")
        gateway.clampd.attached(gateway.device)
        assert gateway.ends.mss() == CLAMPED

    def test_one_device(self, gateway: Gateway) -> None:
        gateway.clampd.ctl("detach", gateway.device)
        assert gateway.clampd.status()["detached"] == [gateway.device]
        assert gateway.ends.mss() == UNCLAMPED
        gateway.clampd.ctl("attach", gateway.device)
        gateway.clampd.attached(gateway.device)
        assert gateway.ends.mss() == CLAMPED

    def test_without_the_daemon(self, lab: Lab) -> None:
        built = line(lab)
        before = tc_state(built.gateway, built.device)
        gateway = enforcing(lab, built)
        programs = gateway.clampd.programs(gateway.device)
        gateway.clampd.kill()
        gateway.clampd.ctl("detach")
        assert gateway.tc_state() == before
        wait_for(lambda: not any(map(bpf.program_lives, programs)), "the programs to be freed")
        assert gateway.ends.mss() == UNCLAMPED
        gateway.clampd.start()
        assert gateway.clampd.status()["detached"], "kept off, though no daemon was there to be told"
        assert gateway.ends.mss() == UNCLAMPED
        gateway.clampd.ctl("attach")
        gateway.clampd.attached(gateway.device)

    def test_nothing_there(self, lab: Lab) -> None:
        """Where clampd has never been there is nothing to take off, and nothing foreign is touched."""
        built = line(lab)
        lab.enter(bpf.TcProgram(built.gateway, built.device, "egress", bpf.NOTHING, priority=BEFORE_CLAMPD))
        before = tc_state(built.gateway, built.device)
        lab.clampd_at_rest(built.gateway, config(built.device)).ctl("detach")
        assert tc_state(built.gateway, built.device) == before


class TestForeign:
    """Whatever else hangs on the hooks stays, works, and is listed."""

    @pytest.mark.parametrize("first", ["foreign", "clampd"])
    def test_survives(self, lab: Lab, first: str) -> None:
        built = line(lab)
        if first == "foreign":
            add_foreign(lab, built)
            before = tc_state(built.gateway, built.device)
        gateway = enforcing(lab, built)
        if first == "clampd":
            add_foreign(lab, built)
        assert gateway.ends.mss() == CLAMPED
        listed = (gateway.clampd.device(gateway.device) or {})["programs"]
        assert sorted((program["owner"], program["hook"]) for program in listed) == [
            ("clampd", "egress"),
            ("clampd", "ingress"),
            ("foreign", "egress"),
            ("foreign", "ingress"),
        ]
        gateway.clampd.ctl("detach")
        after = gateway.tc_state()
        assert all(text.count("foreign") == 1 for text in after[1:])
        assert "clampd" not in "".join(after)
        if first == "foreign":
            assert after == before

    def test_a_bare_qdisc_stays(self, lab: Lab) -> None:
        """Who made the qdisc is remembered over restarts and new versions."""
        built = line(lab)
        built.gateway.tc(f"qdisc add dev {built.device} clsact")
        before = tc_state(built.gateway, built.device)
        gateway = enforcing(lab, built)
        first = gateway.clampd.programs(gateway.device)
        gateway.clampd.kill()
        gateway.clampd.start(env=another_version(lab.directory()))
        wait_for(lambda: gateway.clampd.programs(gateway.device) not in ([], first), "the other programs")
        gateway.clampd.ctl("detach")
        assert gateway.tc_state() == before

    def test_our_place_taken(self, lab: Lab) -> None:
        """A foreign filter at our priority: it stays, and status says what is wrong."""
        built = line(lab)
        lab.enter(bpf.TcProgram(built.gateway, built.device, "egress", bpf.NOTHING, priority=49))
        before = tc_state(built.gateway, built.device)
        clampd = lab.clampd(built.gateway, config(built.device))
        device = wait_for(lambda: clampd.device(built.device), "the device in status")
        assert device
        assert not device["attached"]
        assert "49" in device["problem"]
        assert tc_state(built.gateway, built.device)[1:] == before[1:]


def add_foreign(lab: Lab, built: Line) -> None:
    """Somebody else's programs on both hooks, one before and one after clampd's."""
    for hook, priority in (("ingress", BEFORE_CLAMPD), ("egress", AFTER_CLAMPD)):
        lab.enter(bpf.TcProgram(built.gateway, built.device, hook, bpf.NOTHING, priority=priority))
