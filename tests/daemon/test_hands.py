"""What the finder asks of the rest of the daemon: above all, who sleeps."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from mssclamp.config import Config, DeviceConfig
from mssclamp.daemon import clock
from mssclamp.daemon.discovery import Discovery
from mssclamp.daemon.hands import SESSION, Hands
from mssclamp.daemon.policy import Policy
from mssclamp.datapath.links import Link
from mssclamp.datapath.wireguard import Peers
from mssclamp.pmtu.modes import Modes
from mssclamp.pmtu.table import Peer, PeerFacts, Table
from mssclamp.wire.wireguard import WireGuardPeer

NOW = 1_800_000_000.0
KEY = bytes(range(32))
TEXT_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

WIREGUARD = Link(7, "wg0", 1420, 65534, "wireguard")
GRE = Link(8, "gre7", 1476, 778, "gre")

PREFIX = ip_network("10.7.0.0/16")
FOUND = PeerFacts(id="wg0:one", name="one", device="wg0", prefixes=(PREFIX,), kind="wireguard", public_key=TEXT_KEY)
DECLARED = PeerFacts(id="two", name="two", device="wg0", prefixes=(PREFIX,))
ELSEWHERE = replace(DECLARED, device="gre7")


class Desk:
    """Hands, and a WireGuard device that tells of one peer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        self.handshake: float | None = NOW
        self.asked = 0
        monkeypatch.setattr(clock, "unix", lambda: self.now)
        monkeypatch.setattr(clock, "boot_ns", lambda: int((self.now - NOW + 1000) * 1e9))
        self.discovery = Discovery(self._read)
        self.policy = Policy(Config(), Modes(), set())
        unused: Any = None
        self.hands = Hands(self.policy, unused, self.discovery, unused, unused)
        self.hands.links = {"wg0": WIREGUARD, "gre7": GRE}
        self.discovery.look([WIREGUARD])

    def _read(self, link: Link, patience: float) -> Peers:
        del link, patience
        self.asked += 1
        return {KEY: WireGuardPeer(KEY, None, (ip_network("10.0.0.0/8"), PREFIX), self.handshake)}


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


def a_peer(facts: PeerFacts) -> Peer:
    table = Table()
    table.update([facts], {"wg0": 1420, "gre7": 1476}, NOW)
    return table.peers[facts.id]


@pytest.mark.parametrize("facts", [FOUND, DECLARED], ids=["found", "declared"])
def test_a_session_lives_for_three_minutes(desk: Desk, facts: PeerFacts) -> None:
    """Also of a declared peer, by whose AllowedIPs its prefix is."""
    peer = a_peer(facts)
    desk.now = NOW + SESSION
    assert not desk.hands.is_asleep(peer)
    desk.now += 1
    assert desk.hands.is_asleep(peer)


@pytest.mark.parametrize("facts", [FOUND, DECLARED], ids=["found", "declared"])
def test_no_handshake_is_no_session(desk: Desk, facts: PeerFacts) -> None:
    desk.handshake = None
    desk.now += 2
    desk.discovery.look([WIREGUARD])
    assert desk.hands.is_asleep(a_peer(facts))


def test_what_is_known_may_be_old(desk: Desk) -> None:
    """A device with many peers is read seldom: before somebody is called asleep it is asked."""
    desk.now = desk.handshake = NOW + 1000
    asked = desk.asked
    assert not desk.hands.is_asleep(a_peer(FOUND))
    assert desk.asked == asked + 1
    assert not desk.hands.is_asleep(a_peer(FOUND))
    assert desk.asked == asked + 1


def test_a_peer_that_the_device_does_not_tell_sleeps(desk: Desk) -> None:
    assert desk.hands.is_asleep(a_peer(replace(DECLARED, prefixes=(ip_network("192.0.2.0/24"),))))
    assert desk.hands.is_asleep(a_peer(replace(DECLARED, prefixes=(ip_network("fd00::/8"),))))


def test_other_tunnels_have_no_sessions(desk: Desk) -> None:
    desk.now += 10_000
    assert not desk.hands.is_asleep(a_peer(ELSEWHERE))


def test_obstacles(desk: Desk) -> None:
    assert desk.hands.obstacle(a_peer(FOUND)) is None
    assert str(desk.hands.obstacle(a_peer(replace(FOUND, probe=False)))) == "its [[peer]] says probe = false"
    desk.policy.detached = {"gre7"}
    assert desk.hands.obstacle(a_peer(FOUND)) is None
    assert str(desk.hands.obstacle(a_peer(ELSEWHERE))) == "clampd is kept off gre7; `clampctl attach gre7`"
    desk.policy.config = Config(device=(DeviceConfig(name="wg*", probe=False),))
    assert str(desk.hands.obstacle(a_peer(FOUND))) == "the [[device]] of wg0 says probe = false"
