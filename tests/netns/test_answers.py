"""Packets over their peer's MTU are answered, and whoever sent them goes on with smaller ones.

client ────── gateway with clampd ══════ site        (lab.topology)
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lab import (
    Capture,
    Clampd,
    Datagrams,
    Frame,
    Lab,
    Namespace,
    Upload,
    checksum_errors,
    heal,
    peer_table,
    wait_for,
)
from lab.topology import CLIENT, SITE, SITE_PREFIXES, VLAN, Line, line

pytestmark = pytest.mark.netns

# Each below what its device takes; 1328 is what a path of 1400 leaves to WireGuard's padding.
PEER_MTU = {"veth": 1400, "tagged": 1388, "vxlan": 1400, "wireguard": 1328}
LEARNED_MTU, LOWER_MTU = 1323, 1281
HEADERS = {4: 28, 6: 48}
"""Of a ping: IP and ICMP echo."""

CLIENT_BYTES = {family: ipaddress.ip_address(address).packed for family, address in CLIENT.items()}

MASQUERADE = """
table inet translation {{
    chain leaving {{ type nat hook postrouting priority 100; oifname "{device}" masquerade; }}
}}
"""


@dataclass(frozen=True)
class Answering:
    """A line whose gateway answers for the site."""

    lab: Lab
    kind: str
    line: Line
    clampd: Clampd
    at_client: Capture

    @property
    def mtu(self) -> int:
        return PEER_MTU[self.kind]

    def host(self, sender: str) -> Namespace:
        """Who sends: the gateway itself, or a host behind it."""
        return self.line.gateway if sender == "gateway" else self.line.client

    def counters(self) -> dict[str, int]:
        return dict(self.clampd.peer("site")["counters"])

    def wait_for_counters(self, **wanted: int) -> None:
        """Until these counters have grown to these values."""
        wait_for(
            lambda: all(self.counters()[name] >= value for name, value in wanted.items()),
            f"{wanted}, has {self.counters()}",
            timeout=5,
        )

    def forget_paths(self) -> None:
        """Let every host try large packets again."""
        for namespace in self.lab.everywhere:
            namespace.forget_paths()

    @contextlib.contextmanager
    def masquerading(self, device: str) -> Iterator[None]:
        """While inside, everything that leaves by the device has the gateway's address there."""
        self.line.gateway.nft(MASQUERADE.format(device=device))
        try:
            yield
        finally:
            self.line.gateway.nft("delete table inet translation")


@contextlib.contextmanager
def answering_line(kind: str, *, mode: str = "enforce", rates: str = "") -> Iterator[Answering]:
    """Build the line, and start a clampd whose peer `site` has PEER_MTU."""
    with Lab() as lab:
        built = line(lab, kind)
        peer = peer_table("site", built.device, SITE_PREFIXES, PEER_MTU[kind])
        clampd = lab.clampd(built.gateway, f'mode = "{mode}"\n{rates}{peer}')
        clampd.attached(built.device)
        yield Answering(lab, kind, built, clampd, lab.capture(built.client, "lan"))
        assert checksum_errors(*lab.everywhere) == {}


@pytest.fixture(scope="module", params=["veth", "tagged", "vxlan", "wireguard"])
def shared(request: pytest.FixtureRequest) -> Iterator[Answering]:
    with answering_line(request.param) as built:
        yield built


@pytest.fixture(params=[True, False], ids=["offloads", "no-offloads"])
def answering(request: pytest.FixtureRequest, shared: Answering) -> Iterator[Answering]:
    """Checksums left to the devices, or complete on every wire; nobody knows the path's MTU.

    The gateway joins what comes from the LAN to super-packets in any case: to these an answer's checksum is a trap.
    """
    shared.line.offloads(request.param)
    shared.line.gateway.offloads("lan", request.param, gro=True)
    shared.forget_paths()
    yield shared
    assert checksum_errors(*shared.lab.everywhere) == {}
    assert shared.clampd.running, shared.clampd.output()


@pytest.fixture
def veth() -> Iterator[Answering]:
    """A line of its own for tests that change more than they can put back."""
    with answering_line("veth") as built:
        yield built


@pytest.fixture(params=["gateway", "client", "masqueraded"])
def sender(request: pytest.FixtureRequest, answering: Answering) -> Iterator[str]:
    """A socket of the gateway's own, a host behind it, and one whose address is not seen beyond it."""
    name: str = request.param
    with answering.masquerading(answering.line.device) if name == "masqueraded" else contextlib.nullcontext():
        yield name


@pytest.mark.parametrize("family", [4, 6])
def test_ping(answering: Answering, sender: str, family: int) -> None:
    """`ping -M do` names the MTU, and gets through with it."""
    host, mtu = answering.host(sender), answering.mtu
    wait_for(lambda: f"mtu={mtu}" in ping(host, SITE[family], mtu + 1), f"ping to say mtu={mtu}", timeout=3)
    wait_for(lambda: "1received" in ping(host, SITE[family], mtu), "an answer to a ping that fits", timeout=3)


@pytest.mark.parametrize("family", [4, 6])
def test_udp(answering: Answering, sender: str, family: int) -> None:
    """A program that sets DF learns the MTU from a quote of its own packet, and the site gets what fits."""
    host, mtu = answering.host(sender), answering.mtu
    with Datagrams(host, answering.line.site, SITE[family]) as datagrams:
        assert datagrams.arrives(mtu)
        told = datagrams.learns(mtu + 1)
        assert (told.mtu, told.said_by) == (mtu, SITE[family])
        assert (told.destination, told.port) == datagrams.destination
        assert datagrams.path_mtu == mtu
        assert not datagrams.send(mtu + 1), "EMSGSIZE from now on"
        assert datagrams.arrives(mtu)


@pytest.mark.parametrize("snat", [False, True], ids=["", "masqueraded"])
def test_transfers_under_way_go_on(answering: Answering, snat: bool) -> None:
    """From the gateway's own sockets and from behind it."""
    built = answering.line
    with contextlib.ExitStack() as stack:
        if snat:
            stack.enter_context(answering.masquerading(built.device))
        uploads = [
            stack.enter_context(Upload(host, built.site, SITE[family]))
            for host in (built.client, built.gateway)
            for family in (4, 6)
        ]
        assert_heal(answering, uploads)


def test_transfer_behind_masquerade_on_the_lan(answering: Answering) -> None:
    """The site calls the client, who sees the gateway's address on the LAN as the caller's."""
    built = answering.line
    with contextlib.ExitStack() as stack:
        stack.enter_context(answering.masquerading("lan"))
        uploads = [
            stack.enter_context(Upload(built.client, built.site, CLIENT[family], called=True)) for family in (4, 6)
        ]
        assert_heal(answering, uploads)


def assert_heal(answering: Answering, uploads: list[Upload]) -> None:
    """The uploads learn of lower MTUs, and go on."""
    site, device = answering.line.site, answering.line.far_device
    heal(answering.clampd, "site", uploads, site, device, learned=LEARNED_MTU, size=LOWER_MTU)


@pytest.mark.parametrize("family", [4, 6])
def test_comes_in_as_if_from_the_next_hop(answering: Answering, family: int) -> None:
    """On the device itself: between the addresses and MACs of the packet turned round, with its tag if it had one."""
    gateway, device = answering.line.gateway, answering.line.device
    with (
        Capture(gateway, device) as on_device,
        Datagrams(answering.line.client, answering.line.site, SITE[family]) as datagrams,
    ):
        datagrams.learns(answering.mtu + 1)
        answer = wait_for(lambda: next(filter(is_too_big, on_device.frames()), None), "the answer on the device")
    packet = answer.packet
    assert len(packet) <= 576
    here, there = (ipaddress.ip_address(ends[family]).packed for ends in (CLIENT, SITE))
    assert packet[12:20] == there + here if family == 4 else packet[8:40] == there + here
    assert answer.vlan == (VLAN if answering.kind == "tagged" else None)
    if answer.ethernet:
        assert answer.data[:12] == gateway.mac(device) + answering.line.site.mac(answering.line.far_device)


class TestWithoutTheDaemon:
    def test_killed(self, veth: Answering) -> None:
        veth.clampd.kill()
        for family in (4, 6):
            for host in (veth.line.client, veth.line.gateway):
                with Datagrams(host, veth.line.site, SITE[family]) as datagrams:
                    assert datagrams.learns(veth.mtu + 1).mtu == veth.mtu

    def test_adopted(self, veth: Answering) -> None:
        """The next daemon uses the same private pair."""
        pair = [device["ifindex"] for device in private_pair(veth.line.gateway)]
        assert len(pair) == 2
        veth.clampd.kill()
        veth.clampd.start()
        veth.clampd.attached(veth.line.device)
        assert [device["ifindex"] for device in private_pair(veth.line.gateway)] == pair
        with Datagrams(veth.line.client, veth.line.site, SITE[4]) as datagrams:
            assert datagrams.learns(veth.mtu + 1).mtu == veth.mtu
        assert veth.counters()["too_big_sent"] > 0

    @pytest.mark.parametrize("daemon", ["running", "dead"])
    def test_detach_takes_the_pair_away(self, veth: Answering, daemon: str) -> None:
        gateway = veth.line.gateway
        assert len(private_pair(gateway)) == 2
        if daemon == "dead":
            veth.clampd.kill()
        veth.clampd.ctl("detach")
        assert private_pair(gateway) == []
        with Datagrams(veth.line.client, veth.line.site, SITE[4]) as datagrams:
            assert datagrams.arrives(veth.mtu + 1)
        if daemon == "running":
            veth.clampd.ctl("attach")
            veth.clampd.attached(veth.line.device)
            with Datagrams(veth.line.client, veth.line.site, SITE[4]) as datagrams:
                assert datagrams.learns(veth.mtu + 1).mtu == veth.mtu


class TestOnlyCounted:
    def test_observed_packets_are_equal(self) -> None:
        """Whatever its size, a packet arrives as it was sent; what would be answered is counted."""
        with answering_line("veth", mode="observe") as built:
            at_site = built.lab.capture(built.line.site, built.line.far_device)
            built.line.offloads(False)
            with contextlib.ExitStack() as stack:
                for family in (4, 6):
                    datagrams = stack.enter_context(Datagrams(built.line.client, built.line.site, SITE[family]))
                    for size in (built.mtu, built.mtu + 1, 1500):
                        assert datagrams.arrives(size)
                    upload = stack.enter_context(Upload(built.line.client, built.line.site, SITE[family]))
                    upload.goes_on()
                    assert upload.path_mtu == 1500
            arrived = [content(f.packet) for f in at_site.frames() if not f.outgoing and is_clients(f)]
            assert arrived

            def changed() -> list[bytes]:
                left = {content(f.packet) for f in built.at_client.frames() if f.outgoing and is_clients(f)}
                return [packet for packet in arrived if packet not in left]

            # The client's capture may be read later than the site's.
            wait_for(lambda: not changed(), "every packet that arrived to be one that left", timeout=5)
            counters = built.counters()
            assert counters["would_answer"] > 0
            assert counters["too_big_sent"] == 0
            assert counters["oversize_largest"] == 1500

    def test_df_clear(self, veth: Answering) -> None:
        """The kernel may fragment it, or the path: it goes on, counted."""
        with Datagrams(veth.line.client, veth.line.site, SITE[4], discovery="dont") as datagrams:
            assert datagrams.arrives(1500)
            assert datagrams.told() is None
        counters = veth.counters()
        assert (counters["oversize"], counters["oversize_df_clear"], counters["too_big_sent"]) == (1, 1, 0)
        assert counters["oversize_largest"] == 1500
        hint = wait_for_event(veth.clampd, "hint")
        assert (hint["hint"], hint["size"], hint["mtu"], hint["peer"]) == ("oversize-df-clear", 1500, veth.mtu, "site")

    def test_an_event_for_the_first_of_a_burst(self, veth: Answering) -> None:
        with Datagrams(veth.line.client, veth.line.site, SITE[6]) as datagrams:
            datagrams.learns(1500)
        hint = wait_for_event(veth.clampd, "hint")
        assert (hint["hint"], hint["size"], hint["mtu"], hint["family"]) == ("oversize", 1500, veth.mtu, 6)

    def test_unprobed(self, lab: Lab) -> None:
        """Where nothing is known but the device's MTU the kernel answers, not clampd."""
        built = line(lab)
        clampd = lab.clampd(built.gateway, 'mode = "enforce"\n' + peer_table("site", built.device, SITE_PREFIXES))
        clampd.attached(built.device)
        built.gateway.ip(f"link set {built.device} mtu 1400")
        wait_for(lambda: clampd.peer("site")["mtu"] == 1400, "the device's new MTU")
        with Datagrams(built.client, built.site, SITE[4]) as datagrams:
            assert datagrams.learns(1401).mtu == 1400
        assert clampd.peer("site")["counters"]["oversize"] == 0


class TestRates:
    """Floods of oversize packets; the sockets ignore what they are told."""

    def test_one_flow(self) -> None:
        with answering_line("veth") as built:
            with Datagrams(built.line.client, built.line.site, SITE[4], discovery="probe") as flood:
                began = time.monotonic()
                for _ in range(300):
                    flood.send(1500)
                lasted = time.monotonic() - began
            built.wait_for_counters(oversize=300)
            counters = built.counters()
            assert 1 <= counters["too_big_sent"] <= 1 + 10 * lasted
            assert counters["too_big_sent"] + counters["suppressed"] == counters["oversize"] == 300
            event = wait_for_event(built.clampd, "suppressed")
            assert (event["peer"], event["size"]) == ("site", 1500)

    def test_one_sender(self) -> None:
        """A sender with many flows."""
        with answering_line("veth", rates="[rate]\ntoo_big_per_sender = 20\n") as built:
            lasted = flood(built, [None] * 120)
            counters = built.counters()
            assert 20 <= counters["too_big_sent"] <= 20 * (1 + int(lasted + 1))
            assert counters["too_big_sent"] + counters["suppressed"] == 120

    def test_one_peer(self) -> None:
        """Many senders."""
        with answering_line("veth", rates="[rate]\ntoo_big_per_sender = 20\ntoo_big_per_peer = 50\n") as built:
            sources = [f"10.1.0.{10 + number}" for number in range(10)]
            built.line.client.address("lan", *(f"{source}/24" for source in sources))
            lasted = flood(built, sources * 15)
            counters = built.counters()
            assert 50 <= counters["too_big_sent"] <= 50 * (1 + int(lasted + 1))
            assert counters["too_big_sent"] + counters["suppressed"] == 150


def flood(built: Answering, sources: list[str | None]) -> float:
    """One oversize packet from a new socket for each source; how long it took, seconds."""
    with contextlib.ExitStack() as stack:
        flows = [
            stack.enter_context(
                Datagrams(built.line.client, built.line.site, SITE[4], discovery="probe", source=source)
            )
            for source in sources
        ]
        began = time.monotonic()
        for flow in flows:
            flow.send(1500)
        lasted = time.monotonic() - began
        built.wait_for_counters(oversize=len(sources))
    return lasted


def ping(host: Namespace, address: str, size: int) -> str:
    """What one `ping` with DF says of a packet of `size` bytes, without spaces."""
    content = str(size - HEADERS[6 if ":" in address else 4])
    told = host.run("ping", "-n", "-M", "do", "-s", content, "-c", "1", "-W", "1", address, check=False).stdout
    return told.replace(" ", "")


def private_pair(namespace: Namespace) -> list[dict[str, Any]]:
    """clampd's private veth pair."""
    return [device for device in namespace.ip_json("link show") if device["ifname"].startswith("clampd-")]


def wait_for_event(clampd: Clampd, name: str) -> dict[str, Any]:
    """The first event of this name since the daemon started."""
    return clampd.events(lambda event: event["event"] == name)[-1]


def content(packet: bytes) -> bytes:
    """A packet but for what every router changes: TTL and header checksum, hop limit."""
    if packet[0] >> 4 == 4:
        return packet[:8] + packet[9:10] + packet[12:]
    return packet[:7] + packet[8:]


def is_clients(frame: Frame) -> bool:
    """Sent by the client: neither ARP nor the gateway's neighbour discovery."""
    packet = frame.packet
    return CLIENT_BYTES[4] == packet[12:16] if packet[0] >> 4 == 4 else CLIENT_BYTES[6] == packet[8:24]


def is_too_big(frame: Frame) -> bool:
    """An ICMP message of this kind that comes in."""
    packet = frame.packet
    if packet[0] >> 4 == 4:
        return not frame.outgoing and packet[9] == 1 and packet[20:22] == b"\3\4"
    return not frame.outgoing and packet[6] == 58 and packet[40:42] == b"\2\0"
