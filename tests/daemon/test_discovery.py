"""WireGuard's peers as the daemon sees them: found, named, followed, and asked for no more often than needed."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from fake_kernel import FakeKernel, install
from mssclamp import config
from mssclamp.daemon import clock, underlay
from mssclamp.daemon.daemon import Daemon
from mssclamp.daemon.discovery import Discovery
from mssclamp.daemon.hands import Hands
from mssclamp.daemon.underlay import Underlay
from mssclamp.datapath import abi
from mssclamp.datapath.links import Link
from mssclamp.datapath.wireguard import Peers
from mssclamp.errors import AmbiguousError, DatapathError
from mssclamp.probe.engine import Engine, Order
from mssclamp.store.database import Store
from mssclamp.wire.wireguard import Endpoint, WireGuardPeer

NONE = 65534  # ARPHRD_NONE
HANDSHAKE = 1_769_860_742.5


def key(number: int) -> bytes:
    """A key with every sign that base64 and base64url write differently."""
    return b"\xfb\xff\xfe" + number.to_bytes(29, "little")


def text(number: int) -> str:
    return base64.b64encode(key(number)).decode()


def name_of(number: int, device: str = "wg0") -> str:
    return f"{device}:{base64.urlsafe_b64encode(key(number)).decode().rstrip('=')}"


def peer(number: int, *allowed: str, endpoint: str | None = "198.51.100.7", **traffic: Any) -> WireGuardPeer:
    where = None if endpoint is None else Endpoint(ip_address(endpoint), 51820)
    return WireGuardPeer(key(number), where, tuple(map(ip_network, allowed)), **traffic)


class Programs:
    """What the WireGuard devices tell, and when they were asked."""

    def __init__(self) -> None:
        self.told: dict[str, dict[bytes, WireGuardPeer]] = {}
        self.trouble: dict[str, float] = {}
        """Devices that do not answer, with the seconds that they take for it."""
        self.asked: list[tuple[float, str]] = []
        self.now = 1000.0

    def tell(self, device: str, *peers: WireGuardPeer) -> None:
        self.told[device] = {each.public_key: each for each in peers}

    def read(self, link: Link, patience: float) -> Peers:
        self.asked.append((self.now, link.name))
        if link.name in self.trouble:
            self.now += min(patience, self.trouble[link.name])
            raise DatapathError(f"{link.name}: nobody answers")
        return dict(self.told[link.name])


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    programs = Programs()
    monkeypatch.setattr(clock, "boot_ns", lambda: int(programs.now * 1e9))
    monkeypatch.setattr(clock, "boot_id", lambda: "boot")
    return programs


# -- how often


def link(name: str = "wg0", index: int = 7, mtu: int = 1420) -> Link:
    return Link(index, name, mtu, NONE, "wireguard")


class Watch:
    """A Discovery that is asked to look all the time, as the daemon does."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.discovery = Discovery(programs.read)

    def run(self, seconds: float, *links: Link) -> list[float]:
        """Times of asking, from the beginning of this run, with something new or not."""
        began, self.programs.asked = self.programs.now, []
        while self.programs.now < began + seconds:
            self.discovery.look(links)
            self.programs.now += 0.5
        return [round(at - began, 1) for at, _ in self.programs.asked]


@pytest.fixture
def watch(programs: Programs) -> Watch:
    return Watch(programs)


@pytest.mark.parametrize(("peers", "times"), [(0, [0, 2, 4, 6, 8]), (200, [0, 2, 4, 6, 8]), (201, [0])])
def test_many_peers_are_asked_for_seldom(watch: Watch, peers: int, times: list[float]) -> None:
    watch.programs.tell("wg0", *map(peer, range(peers)))
    assert watch.run(10, link()) == times


def test_after_thirty_seconds_at_the_latest(watch: Watch) -> None:
    watch.programs.tell("wg0", *map(peer, range(1000)))
    assert watch.run(65, link()) == [0, 30, 60]


def test_peers_of_all_devices_count(watch: Watch) -> None:
    watch.programs.tell("wg0", *map(peer, range(150)))
    watch.programs.tell("wg1", *map(peer, range(150)))
    assert watch.run(10, link(), link("wg1", 8)) == [0, 0, 2]  # wg0, wg1, and wg0 when both were known


def test_a_device_that_changes_is_asked_at_once(watch: Watch) -> None:
    watch.programs.tell("wg0", *map(peer, range(1000)))
    assert watch.run(3, link()) == [0]
    assert watch.run(3, link(mtu=1400)) == [0]
    assert watch.run(3, link(mtu=1400)) == []


def test_a_device_that_is_set_up_is_asked_at_once(watch: Watch) -> None:
    """wg-quick makes a device, tells it its peers, and then sets it up: from now on it has traffic."""
    down = replace(link(), is_up=False)
    watch.programs.tell("wg0")
    watch.discovery.look([down])
    watch.programs.now += 0.01
    watch.programs.tell("wg0", peer(1, "10.1.0.0/24"))
    assert not watch.discovery.look([down])
    assert watch.discovery.look([link()])
    assert list(watch.discovery.peers["wg0"]) == [key(1)]


def test_only_what_matters_is_news(watch: Watch) -> None:
    def news(*peers: WireGuardPeer) -> bool:
        watch.programs.tell("wg0", *peers)
        watch.programs.now += 2
        return watch.discovery.look([link()])

    one, two = peer(1, "10.0.0.1/32"), peer(2, "10.0.0.2/32")
    assert news(one)
    assert not news(one)
    assert not news(replace(one, last_handshake=HANDSHAKE, received=1, sent=2))
    found = watch.discovery.peer("wg0", key(1))
    assert found is not None
    assert found.last_handshake == HANDSHAKE
    assert news(one, two)
    assert not news(two, one)
    assert news(peer(1, "10.0.0.1/32", endpoint="2001:db8::1"), two)
    assert news(peer(1, "10.0.0.1/32", "10.9.0.0/16"), two)
    assert news(two)


def test_who_fails_is_asked_less_and_less(watch: Watch) -> None:
    watch.programs.trouble["wg0"] = 0
    assert watch.run(200, link()) == [0, 2, 6, 14, 30, 62, 126, 190]
    assert watch.discovery.problems == {"wg0": "wg0: nobody answers"}
    watch.programs.trouble.clear()
    watch.programs.tell("wg0", peer(1))
    assert watch.run(64, link())[0] > 40
    assert (watch.discovery.problems, len(watch.discovery.peers["wg0"])) == ({}, 1)
    watch.programs.trouble["wg0"] = 0
    watch.programs.now += 2
    assert watch.run(5, link()) == [0, 2]  # it begins anew


def test_who_fails_keeps_what_it_told(watch: Watch) -> None:
    watch.programs.tell("wg0", peer(1))
    watch.run(1, link())
    watch.programs.trouble["wg0"] = 0
    watch.run(10, link())
    assert len(watch.discovery.peers["wg0"]) == 1
    watch.run(1, link(index=8))  # another device of that name
    assert watch.discovery.peers == {}


def test_hanging_programs_hold_nobody_for_long(watch: Watch) -> None:
    """All devices together have one second; who is left out for once has its turn at the next look."""
    links = [link(f"wg{number}", number) for number in range(1, 9)]
    for each in links:
        watch.programs.trouble[each.name] = 60
    links.append(link())
    watch.programs.tell("wg0", peer(1))
    longest = 0.0
    for _ in range(400):
        began = watch.programs.now
        watch.discovery.look(links)
        longest = max(longest, watch.programs.now - began)
        watch.programs.now += 0.5
    assert longest <= 1.001
    assert {name for _, name in watch.programs.asked} == {each.name for each in links}
    assert len(watch.discovery.peers["wg0"]) == 1


def test_a_device_that_goes_takes_its_peers_along(watch: Watch) -> None:
    watch.programs.tell("wg0", peer(1))
    watch.discovery.look([link()])
    assert watch.discovery.look([])
    assert watch.discovery.peers == {}
    assert watch.discovery.peer("wg0", key(1)) is None


# -- out of turn


def test_a_device_can_be_asked_out_of_turn(watch: Watch) -> None:
    watch.programs.tell("wg0", *map(peer, range(300)))
    watch.run(2, link())
    watch.programs.tell("wg0", peer(1, last_handshake=HANDSHAKE))
    watch.discovery.refresh("wg0")
    found = watch.discovery.peer("wg0", key(1))
    assert found is not None
    assert found.last_handshake == HANDSHAKE
    assert watch.discovery.look([link()])  # there are fewer
    assert not watch.discovery.look([link()])


def test_but_not_twice_in_a_second(watch: Watch) -> None:
    watch.programs.tell("wg0", peer(1))
    watch.discovery.look([link()])
    watch.programs.asked.clear()
    for _ in range(50):
        watch.discovery.refresh("wg0")
        watch.programs.now += 0.1
    assert len(watch.programs.asked) <= 5


def test_nor_one_that_is_not_there(watch: Watch) -> None:
    watch.discovery.refresh("wg0")
    assert watch.programs.asked == []


def test_nor_one_that_does_not_answer(watch: Watch) -> None:
    """It holds everybody for as long as it may: as seldom as in turn."""
    watch.programs.tell("wg0", peer(1))
    watch.discovery.look([link()])
    watch.programs.trouble["wg0"] = 60
    watch.programs.asked.clear()
    waited = 0.0
    for _ in range(60):
        before = watch.programs.now
        watch.discovery.refresh("wg0")
        waited += watch.programs.now - before
        watch.discovery.look([link()])
        watch.programs.now += 1
    assert len(watch.discovery.peers["wg0"]) == 1
    assert len(watch.programs.asked) <= 6
    assert waited <= 1


# -- what becomes of them


class House:
    """A daemon over a kernel in memory, with WireGuard devices."""

    def __init__(self, kernel: FakeKernel, programs: Programs, place: Path) -> None:
        self.kernel, self.programs = kernel, programs
        self.file = place / "clampd.toml"
        self.file.write_text("")
        self._store = Store.open(place / "clampd.db")

    def start(self, text: str = "") -> None:
        self.file.write_text(text)
        self.daemon = Daemon(
            config.load(self.file),
            lambda: config.load(self.file),
            self._store,
            self.kernel,
            lambda call: call(),
            Discovery(self.programs.read),
            Underlay(lambda asked: underlay.ask_kernel(asked)),
        )
        self.daemon.start()
        self.written: list[str] = []
        self.kernel.watch = lambda: self.written.append(self.kernel.touched)

    def look(self) -> None:
        """Two seconds later."""
        self.programs.now += 2
        self.daemon.look_at_peers()

    def peers(self) -> dict[str, Any]:
        return {each.id: each for each in self.daemon.peers(None, None, None, None).peers}

    def events(self) -> list[tuple[str, str]]:
        return [(event.event, event.peer) for event in self.daemon.events._events if event.peer is not None]

    def close(self) -> None:
        self.daemon.close()
        self._store.close()


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch, programs: Programs, tmp_path: Path) -> Iterator[House]:
    kernel = install(monkeypatch)
    kernel.add("wg0", 1420, NONE, "wireguard")
    programs.tell("wg0", peer(1, "10.99.0.1/32", "fd00:99::1/128", last_handshake=HANDSHAKE), peer(2, endpoint=None))
    house = House(kernel, programs, tmp_path)
    yield house
    house.close()


def test_peers_are_there_without_any_configuration(house: House) -> None:
    house.start()
    found = house.peers()
    assert list(found) == sorted((name_of(1), name_of(2)))
    one, two = found[name_of(1)], found[name_of(2)]
    assert (one.name, one.device, one.kind, one.public_key) == (name_of(1)[:12], "wg0", "wireguard", text(1))
    assert (one.endpoint, one.last_handshake, one.overhead) == ("198.51.100.7:51820", "2026-01-31T11:59:02Z", 60)
    assert (one.prefixes, one.state, one.mtu, one.source) == (
        ["10.99.0.1/32", "fd00:99::1/128"], "unprobed", 1420, "device"
    )  # fmt: skip
    assert (two.endpoint, two.last_handshake, two.overhead, two.prefixes) == (None, None, None, [])
    row = house.kernel.in_force("wg0", "fd00:99::1/128")
    assert row is not None
    assert (row.mtu, row.mss4, row.mss6, row.flags & abi.PEER_ANSWER) == (1420, 1380, 1360, 0)


@pytest.mark.parametrize("reference", [name_of(1), name_of(1)[:12], text(1), text(1)[:9], "-__+AQ", "10.99.0.1"])
def test_references(house: House, reference: str) -> None:
    """A name, an id, a key or its beginning in either alphabet, an address."""
    house.start()
    assert house.daemon.peer(reference, None).peer.id == name_of(1)


def test_a_beginning_that_several_keys_share(house: House) -> None:
    house.start()
    with pytest.raises(AmbiguousError, match="fits 2 peers"):
        house.daemon.peer(text(1)[:4], None)


def test_comings_and_goings(house: House) -> None:
    house.start()
    house.programs.tell("wg0", peer(1, "10.99.0.1/32"), peer(3, "10.99.0.3/32", "fd00:99::1/128"))
    house.look()
    assert house.events()[-2:] == [("peer-removed", name_of(2)), ("peer-added", name_of(3))]
    assert house.peers()[name_of(1)].prefixes == ["10.99.0.1/32"]
    assert house.peers()[name_of(3)].prefixes == ["10.99.0.3/32", "fd00:99::1/128"]
    assert house.kernel.in_force("wg0", "10.99.0.3/32") is not None
    house.programs.tell("wg0")
    house.look()
    assert (house.peers(), house.kernel.lookups("wg0")) == ({}, {})


def test_roaming_changes_the_overhead(house: House) -> None:
    house.start()
    house.programs.tell("wg0", peer(1, "10.99.0.1/32", endpoint="2001:db8::7"))
    house.look()
    (found,) = house.peers().values()
    assert (found.endpoint, found.overhead) == ("[2001:db8::7]:51820", 80)


def test_traffic_alone_writes_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.start()
    derived: list[None] = []
    monkeypatch.setattr(house.daemon, "_derive_goal", lambda: derived.append(None))
    later = peer(1, "10.99.0.1/32", "fd00:99::1/128", last_handshake=HANDSHAKE + 60, sent=9)
    house.programs.tell("wg0", peer(2, endpoint=None), later)
    house.look()
    house.programs.now += 2
    house.daemon.reconcile()
    assert derived == []
    assert set(house.written) <= {"clampd_config"}  # where it says that we are there
    assert house.peers()[name_of(1)].last_handshake == "2026-01-31T12:00:02Z"


def test_a_device_that_comes_later(house: House) -> None:
    house.start()
    house.programs.tell("wg1", peer(1, "10.99.0.1/32"))
    house.kernel.add("wg1", 1380, NONE, "wireguard")
    house.daemon.reconcile()
    assert house.peers()[name_of(1, "wg1")].mtu == 1380  # the same site over two devices: two peers
    house.kernel.remove("wg0")
    house.daemon.reconcile()
    assert list(house.peers()) == [name_of(1, "wg1")]


def test_a_device_whose_peers_are_not_told(house: House) -> None:
    house.programs.trouble["wg0"] = 0
    house.start()
    (device,) = house.daemon.status().devices
    assert (device.attached, device.problem) == (True, "wg0: nobody answers")
    house.programs.trouble.clear()
    house.look()
    assert house.daemon.status().devices[0].problem is None
    assert len(house.peers()) == 2


def test_devices_that_are_not_managed_are_not_asked(house: House) -> None:
    house.start('exclude = ["wg0"]')
    house.look()
    assert (house.programs.asked, house.peers()) == ([], {})


NAMED = """
[[peer]]
name = "home"
device = "wg0"
public_key = "{}"
mtu = 1328
mode = "enforce"
"""


def test_a_peer_that_the_configuration_names(house: House) -> None:
    house.start(NAMED.format(text(1)))
    found = house.daemon.peer("home", None).peer
    assert (found.id, found.name, found.mtu, found.state, found.mode) == (name_of(1), "home", 1328, "pinned", "enforce")
    assert (found.prefixes, found.endpoint) == (["10.99.0.1/32", "fd00:99::1/128"], "198.51.100.7:51820")
    assert house.daemon.pin("home", None, 1300).peer.id == name_of(1)
    assert house.daemon.status().problems == []


def test_a_pin_waits_for_its_peer(house: House) -> None:
    house.start(NAMED.format(text(1)))
    house.daemon.pin("home", None, 1300)
    kept = dict(house.programs.told["wg0"])
    house.programs.tell("wg0")
    house.look()
    house.programs.told["wg0"] = kept
    house.look()
    assert house.daemon.peer("home", None).peer.mtu == 1300
    house.daemon.close()
    house.start()  # the name is gone, the peer and its pin are not
    assert house.peers()[name_of(1)].mtu == 1300


@pytest.mark.parametrize(
    ("device", "number", "problem"),
    [
        ("wg0", 9, f"peer home: wg0 has no peer with the key {text(9)}"),
        ("wg7", 1, "peer home: there is no device wg7 now"),
        ("gre7", 1, "peer home: gre7 is no WireGuard device, so nobody there has a public key"),
    ],
)
def test_a_peer_that_is_not_there(house: House, device: str, number: int, problem: str) -> None:
    house.kernel.add("gre7")
    house.start(NAMED.format(text(number)).replace('"wg0"', f'"{device}"'))
    assert house.daemon.status().problems == [problem]
    house.programs.tell("wg0", peer(9))
    house.look()
    assert house.daemon.status().problems == ([] if number == 9 else [problem])


DECLARED = """
[[peer]]
name = "site"
device = "wg0"
prefixes = ["10.99.0.1/32", "10.99.0.0/24"]
mtu = 1328
"""


def test_a_declared_prefix_stays_the_declared_peers(house: House) -> None:
    house.start(DECLARED)
    assert house.peers()["site"].prefixes == ["10.99.0.1/32", "10.99.0.0/24"]
    assert house.peers()[name_of(1)].prefixes == ["fd00:99::1/128"]
    row = house.kernel.in_force("wg0", "10.99.0.1/32")
    assert row is not None
    assert row.mtu == 1328
    (problem,) = house.daemon.status().problems
    assert problem.startswith(f"wg0: 10.99.0.1/32 of the WireGuard peer {name_of(1)[:12]} counts as site's")
    assert house.daemon.peer("10.99.0.1", None).peer.id == "site"
    assert house.daemon.peer("fd00:99::1", None).peer.id == name_of(1)


def test_a_peer_that_is_declared_altogether_is_listed_once(house: House) -> None:
    house.programs.tell("wg0", peer(1, "10.99.0.1/32", "10.99.0.0/24"))
    house.start(DECLARED)
    assert list(house.peers()) == ["site"]
    (problem,) = house.daemon.status().problems
    assert "10.99.0.1/32 and 1 more of the WireGuard peer" in problem
    house.file.write_text(DECLARED + NAMED.format(text(1)))
    house.daemon.reload()
    assert list(house.peers()) == ["site", name_of(1)]


def test_no_prefix_is_counted_twice(house: House) -> None:
    """Not even where a program tells nonsense."""
    house.programs.tell("wg0", peer(1, "10.0.0.0/8", "10.0.0.0/8"), peer(2, "10.0.0.0/8"))
    house.start()
    assert [each.prefixes for each in house.peers().values()] == [["10.0.0.0/8"]]


def test_a_peer_inside_anothers_prefixes_is_one_of_its_own(house: House) -> None:
    house.programs.tell("wg0", peer(1, "10.0.0.0/8"), peer(2, "10.1.0.0/16"), peer(3, "10.1.2.3/32"))
    house.start()
    found = [house.daemon.peer(address, None).peer.id for address in ("10.2.0.1", "10.1.0.1", "10.1.2.3")]
    assert found == [name_of(1), name_of(2), name_of(3)]


def test_who_roams_is_looked_at_once_the_programs_know(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, fragments would count as proof."""
    house.kernel.add_ethernet("eth0")
    (eth0,) = (link.index for link in house.kernel.links() if link.name == "eth0")
    monkeypatch.setattr(underlay, "ask_kernel", lambda asked: {each: frozenset({eth0}) for each in asked})
    monkeypatch.setattr(Hands, "is_asleep", lambda _self, _peer: False)
    orders: list[Order] = []
    monkeypatch.setattr(Engine, "submit", lambda _self, order: orders.append(order))
    house.programs.tell("wg0", peer(1, "10.99.0.1/32"))
    house.start()
    house.daemon.probe(name_of(1), None)
    house.programs.tell("wg0", peer(1, "10.99.0.1/32", endpoint="203.0.113.9"))
    house.look()
    assert len(orders) == 2
    assert all(order.outer is not None for order in orders)
