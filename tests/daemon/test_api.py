"""The control API over the real daemon, table, modes and store; only the kernel is in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import pytest

from fake_kernel import FakeKernel, Foreign, install
from mssclamp import config
from mssclamp.control import protocol
from mssclamp.control.server import Request
from mssclamp.daemon import clock
from mssclamp.daemon.api import Api
from mssclamp.daemon.daemon import Daemon
from mssclamp.datapath import abi
from mssclamp.errors import (
    AmbiguousError,
    ClampdError,
    ConfigError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RequestError,
)
from mssclamp.pmtu.table import Learned
from mssclamp.store.database import Store

SECOND = 10**9

CONFIG = """
[[peer]]
name = "branch-7"
device = "gre7"
prefixes = ["10.7.0.0/16", "2001:db8:7::/48"]
endpoint = "192.0.2.7"
mtu = 1380

[[peer]]
name = "branch-8"
device = "gre7"
prefixes = ["10.8.0.0/16"]

[[peer]]
name = "careful"
device = "gre7"
prefixes = ["10.9.0.0/16"]
mode = "observe"

[[peer]]
name = "north"
device = "up0"
prefixes = ["0.0.0.0/0", "::/0"]

[[peer]]
name = "away"
device = "ppp0"
prefixes = ["10.5.0.0/16"]
"""


class Clock:
    """The daemon's clocks, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000 * SECOND
        self.boot = "boot-a"
        monkeypatch.setattr(clock, "boot_ns", lambda: self.now)
        monkeypatch.setattr(clock, "unix", lambda: 1_769_860_800.0 + self.now / SECOND)
        monkeypatch.setattr(clock, "boot_id", lambda: self.boot)

    def forward(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


class House:
    """A daemon, what is under it, and a client's verbs."""

    def __init__(self, kernel: FakeKernel, clock: Clock, place: Path) -> None:
        self.kernel = kernel
        self.clock = clock
        self.file = place / "clampd.toml"
        self._database = place / "clampd.db"
        self.file.write_text(CONFIG)
        self.begin()

    def begin(self) -> None:
        self.store = Store.open(self._database)
        self.daemon = Daemon(
            config.load(self.file), lambda: config.load(self.file), self.store, self.kernel, lambda call: call()
        )
        self._seen = self.daemon.events._seq
        self.api = Api(self.daemon)
        self.daemon.start()

    def end(self) -> None:
        self.daemon.close()
        self.store.close()

    def restart(self) -> None:
        self.end()
        self.begin()

    # requests

    def ask(self, method: str, target: str, body: bytes = b"", *, may_change: bool = True) -> Any:
        url = urlsplit(target)
        path = tuple(unquote(part) for part in url.path.split("/") if part)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        answer = self.api.answer(Request(method, path, query, body, may_change))
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert isinstance(answer.body, bytes)
        return json.loads(answer.body)

    def get(self, target: str) -> Any:
        return self.ask("GET", target, may_change=False)

    def post(self, target: str, body: object = None) -> Any:
        return self.ask("POST", target, b"" if body is None else json.dumps(body).encode())

    def mode(self, mode: str, device: str | None = None, seconds: float | None = None) -> Any:
        return self.post("/v1/mode", {"mode": mode, "device": device, "seconds": seconds})

    def peer(self, name: str) -> Any:
        return self.get(f"/v1/peers/{name}")["peer"]

    def events(self) -> list[dict[str, Any]]:
        """What happened since last asked, without numbers and times."""

        async def read() -> list[dict[str, Any]]:
            lines = self.daemon.events.lines(self._seen)
            found = []
            while self._seen < self.daemon.events._seq:
                event = json.loads(await anext(lines))
                self._seen = event["seq"]
                found.append({key: value for key, value in event.items() if key not in ("schema", "seq", "at")})
            await lines.aclose()
            return found

        return asyncio.run(read())

    def happened(self, *names: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events() if event["event"] in names]

    # the kernel's side

    def enforce_until(self, prefix: str, device: str = "gre7") -> int:
        found = self.kernel.in_force(device, prefix)
        assert found is not None
        return found.enforce_until


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[House]:
    kernel = install(monkeypatch)
    kernel.add("lo", 65536, 772, "")
    kernel.add("gre7")
    kernel.add_ethernet("up0")
    kernel.add_ethernet("eth0")
    kernel.routes = {"10.7.1.2": "gre7", "10.8.1.2": "gre7", "8.8.8.8": "up0"}
    house = House(kernel, Clock(monkeypatch), tmp_path)
    yield house
    house.end()


# -- looking


def test_status(house: House) -> None:
    house.clock.forward(12.34)
    status = house.get("/v1/status")
    msgspec.convert(status, protocol.Status)
    assert (status["schema"], status["mode"], status["uptime"]) == (1, "observe", 12.3)
    assert status["peers"] == {"pinned": 1, "unprobed": 4}
    assert status["detached"] == []
    assert status["trials"] == []
    assert status["problems"] == []
    assert status["reasons"] == {reason.name.lower(): 0 for reason in abi.Reason}
    devices = [{key: each[key] for key in ("name", "kind", "mtu", "attached", "problem")} for each in status["devices"]]
    assert [tuple(each.values()) for each in devices] == [
        ("gre7", "gre", 1476, True, None),
        ("ppp0", "", None, False, "there is no such device now"),
        ("up0", "veth", 1500, True, None),
    ]


def test_status_lists_programs_of_all_owners(house: House) -> None:
    (link,) = (each for each in house.kernel.links() if each.name == "gre7")
    house.kernel.foreign[link.index] = [Foreign().filter()]
    device = house.get("/v1/status")["devices"][0]
    assert [(each["hook"], each["name"], each["owner"], each["priority"]) for each in device["programs"]] == [
        ("ingress", "clampd_l3_in", "clampd", 49),
        ("egress", "clampd_l3_eg", "clampd", 49),
        ("ingress", "theirs", "foreign", 10),
    ]


def test_peers(house: House) -> None:
    document = house.get("/v1/peers")
    msgspec.convert(document, protocol.PeersDocument)
    assert document["schema"] == 1
    assert document["next"] is None
    assert [(each["id"], each["mtu"], each["state"], each["overhead"]) for each in document["peers"]] == [
        ("away", None, "unprobed", None),
        ("branch-7", 1380, "pinned", 24),
        ("branch-8", 1476, "unprobed", 24),
        ("careful", 1476, "unprobed", 24),
        ("north", 1500, "unprobed", 0),
    ]
    assert all("evidence" not in each for each in document["peers"])


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("device=gre7", ["branch-7", "branch-8", "careful"]),
        ("device=wg0", []),
        ("device=", []),
        ("state=pinned", ["branch-7"]),
        ("state=blackhole", []),
        ("device=up0&state=unprobed", ["north"]),
        ("after=branch-8", ["careful", "north"]),
        ("after=zzz", []),
        ("limit=2", ["away", "branch-7"]),
        ("limit=5", ["away", "branch-7", "branch-8", "careful", "north"]),
    ],
)
def test_peers_chosen(query: str, names: list[str], house: House) -> None:
    assert [each["name"] for each in house.get(f"/v1/peers?{query}")["peers"]] == names


def test_peers_page_by_page(house: House) -> None:
    names: list[str] = []
    after = ""
    while True:
        page = house.get(f"/v1/peers?limit=2{after}")
        names += [each["name"] for each in page["peers"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert names == ["away", "branch-7", "branch-8", "careful", "north"]


@pytest.mark.parametrize(
    "query",
    ["state=lost", "state=", "limit=", "limit=-1", "limit=1.5", "limit=²", "limit=100001", "limit=" + "9" * 5000],
)
def test_peers_asked_wrongly(query: str, house: House) -> None:
    with pytest.raises(RequestError) as caught:
        house.get(f"/v1/peers?{query}")
    assert caught.value.code == "bad-request"


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("branch-7", "branch-7"),
        ("gre7:branch-7", "branch-7"),
        ("10.7.1.2", "branch-7"),
        ("10.8.1.2?device=gre7", "branch-8"),
        ("8.8.8.8", "north"),
        ("2001:db8:7::1?device=gre7", "branch-7"),
        ("2001%3adb8%3a7%3a%3a1%25gre7", "branch-7"),
        ("10.5.1.1?device=ppp0", "away"),
    ],
)
def test_show(reference: str, name: str, house: House) -> None:
    document = house.get(f"/v1/peers/{reference}")
    msgspec.convert(document, protocol.PeerDocument)
    assert document["peer"]["name"] == name
    assert document["peer"]["evidence"]
    assert (document["address"] is None) == (name in reference)


def test_show_names_the_prefix_of_an_address(house: House) -> None:
    address = house.get("/v1/peers/10.7.1.2")["address"]
    assert (address["device"], address["prefix"]) == ("gre7", "10.7.0.0/16")
    assert "would be lowered" in address["meets"][0]["text"]
    house.mode("enforce")
    assert "is lowered to 1340" in house.get("/v1/peers/10.7.1.2")["address"]["meets"][0]["text"]


@pytest.mark.parametrize("reference", ["nobody", "10.7.1.2?device=up1", "branch-7?device=up0", "%2F", "%00"])
def test_show_nobody(reference: str, house: House) -> None:
    with pytest.raises(NotFoundError):
        house.get(f"/v1/peers/{reference}")


def test_show_several(house: House) -> None:
    with pytest.raises(AmbiguousError, match=r"branch-8 \(gre7\), north \(up0\)"):
        house.get("/v1/peers/10.8.200.1")  # a route that clampd does not know


# -- routes and rights

CHANGES = [
    "/v1/peers/branch-7/pin",
    "/v1/peers/branch-7/unpin",
    "/v1/peers/branch-7/probe",
    "/v1/peers/branch-7/forget",
    "/v1/peers/nobody/pin",
    "/v1/mode",
    "/v1/attach",
    "/v1/detach",
    "/v1/reload",
]


@pytest.mark.parametrize("target", CHANGES)
def test_who_may_look_may_not_change(target: str, house: House) -> None:
    before = house.get("/v1/status"), house.get("/v1/peers")
    for body in (b"", b'{"mtu": 1300}', b'{"mode": "enforce"}', b"garbage"):
        with pytest.raises(ForbiddenError, match="you may look, not change; be root, or in the group clampd-admin"):
            house.ask("POST", target, body, may_change=False)
    assert (house.get("/v1/status"), house.get("/v1/peers")) == before


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v2/status"),
        ("GET", "/v1/status/more"),
        ("GET", "/v1/mode"),
        ("HEAD", "/v1/status"),
        ("POST", "/v1/status"),
        ("POST", "/v1"),
        ("POST", "/v1/peers"),
        ("POST", "/v1/peers/branch-7"),
        ("POST", "/v1/peers/branch-7/explode"),
        ("POST", "/v1/peers//pin"),
        ("DELETE", "/v1/peers/branch-7"),
        ("PRI", "*"),
    ],
)
@pytest.mark.parametrize("may_change", [False, True])
def test_no_such_route(method: str, target: str, may_change: bool, house: House) -> None:
    with pytest.raises(NotFoundError, match=f"there is no {method} /"):
        house.ask(method, target, may_change=may_change)


@pytest.mark.parametrize("target", ["/v1/peers/branch-7/pin", "/v1/mode", "/v1/attach", "/v1/detach"])
@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b"[]",
        b"7",
        b"{",
        b'{"unknown": 1}',
        b"\xff\xfe",
        b'{"mtu": "1380", "mode": 1, "device": 2}',
        b'{"mtu": 1e999, "mode": 0, "device": 0}',
        b'{"mtu": ' + b"9" * 5000 + b', "mode": "x", "device": 1}',
        b"[" * 60_000,
    ],
    ids=range(10),
)
def test_a_body_that_does_not_fit(target: str, body: bytes, house: House) -> None:
    before = house.get("/v1/status"), house.get("/v1/peers")
    with pytest.raises(RequestError):
        house.ask("POST", target, body)
    assert (house.get("/v1/status"), house.get("/v1/peers")) == before


@pytest.mark.parametrize("verb", ["probe", "forget"])
def test_probe_and_forget_of_nobody(verb: str, house: House) -> None:
    with pytest.raises(NotFoundError):
        house.post(f"/v1/peers/nobody/{verb}")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("branch-8", "branch-8 cannot be probed: no address behind it is known that could answer; name one with"),
        ("away", "away cannot be probed: ppp0 is not there"),
    ],
)
def test_probe_where_it_cannot_be(name: str, text: str, house: House) -> None:
    before = house.peer(name)
    with pytest.raises(ConflictError, match=text) as caught:
        house.post(f"/v1/peers/{name}/probe")
    assert caught.value.code == "conflict"
    assert house.peer(name) == before


def test_probe_where_the_operator_said_no(house: House) -> None:
    house.file.write_text(CONFIG.replace('prefixes = ["10.8.0.0/16"]', 'prefixes = ["10.8.0.0/16"]\nprobe = false'))
    house.post("/v1/reload")
    with pytest.raises(ConflictError, match=r"its \[\[peer\]\] says probe = false"):
        house.post("/v1/peers/branch-8/probe")
    house.post("/v1/detach", {"device": "gre7"})
    with pytest.raises(ConflictError, match="clampd is kept off gre7; `clampctl attach gre7`"):
        house.post("/v1/peers/careful/probe")


def test_forget(house: House) -> None:
    """What was learned goes, from the disk too; where nobody can be asked, that is said."""
    learned = Learned(1328, 1329, True, "probe", "1328 answered in 12 ms", 1e9, 1e9)
    house.store.set_learned("branch-8", learned)
    house.restart()
    assert (house.peer("branch-8")["mtu"], house.peer("branch-8")["state"]) == (1328, "searching")
    house.events()
    found = house.post("/v1/peers/branch-8/forget")["peer"]
    assert (found["mtu"], found["state"], found["floor"]) == (1476, "unprobed", None)
    assert "no address behind it is known" in found["why"]
    in_force = house.kernel.in_force("gre7", "10.8.0.0/16")
    assert in_force is not None
    assert in_force.mtu == 1476
    assert house.happened("mtu-changed")[0]["old"] == 1328
    house.restart()
    assert house.peer("branch-8")["mtu"] == 1476


# -- what routers say


def too_big(house: House, mtu: int, quoted: int = 1500, *, seen: bool = True) -> Any:
    """An ICMP message about an outer packet to branch-8 arrives."""
    house.events()
    event = abi.Event(
        peer=house.daemon._reconciler._index_of["branch-8"],
        size=mtu,
        mtu=quoted,
        kind=abi.EventKind.UNDERLAY_ICMP,
        family=4,
        flags=abi.EVENT_SEEN if seen else 0,
    )
    house.daemon._on_event(event)
    return house.peer("branch-8")


@pytest.mark.parametrize(
    ("named", "mtu"),
    [(1400, 1376), (1280, 1256), (1279, 1256), (552, 1256), (68, 1256), (1499, 1475)],
)
def test_a_router_that_saw_our_packets(named: int, mtu: int, house: House) -> None:
    """Nobody can be asked there, so its word is taken: less the tunnel's headers, but never below min_outer."""
    found = too_big(house, named)
    assert (found["state"], found["mtu"], found["source"]) == ("hinted", mtu, "icmp")
    in_force = house.kernel.in_force("gre7", "10.8.0.0/16")
    assert in_force is not None
    assert (in_force.mtu, in_force.flags & abi.PEER_ANSWER) == (mtu, abi.PEER_ANSWER)
    house.clock.forward(601)
    house.daemon.look_at_peers()
    assert (house.peer("branch-8")["state"], house.peer("branch-8")["mtu"]) == ("unprobed", 1476)


@pytest.mark.parametrize(
    ("named", "quoted", "seen", "refuted"),
    [(1400, 1500, False, 0), (0, 1500, True, 1), (1500, 1500, True, 1), (65000, 1500, True, 1), (1400, 600, True, 1)],
)
def test_a_router_that_is_not_believed(named: int, quoted: int, seen: bool, refuted: int, house: House) -> None:
    """It may be forged; or it names no MTU, or one that the packet was not over."""
    found = too_big(house, named, quoted, seen=seen)
    assert (found["state"], found["mtu"]) == ("unprobed", 1476)
    assert (found["counters"]["hints"], found["counters"]["hints_refuted"]) == (1, refuted)
    (hint,) = house.happened("hint")
    assert (hint["hint"], hint["mtu"], hint["proven"], "refuted" in hint) == ("icmp", named, seen, bool(refuted))


# -- pins


def test_pin(house: House) -> None:
    house.events()
    document = house.post("/v1/peers/10.8.1.2/pin", {"mtu": 1300})
    assert (document["peer"]["name"], document["peer"]["mtu"], document["peer"]["state"]) == (
        "branch-8",
        1300,
        "pinned",
    )
    assert document["peer"]["evidence"][-1]["text"] == "pinned by clampctl"
    in_force = house.kernel.in_force("gre7", "10.8.0.0/16")
    assert in_force is not None
    assert (in_force.mtu, in_force.mss4, in_force.mss6) == (1300, 1260, 1240)
    assert house.events() == [
        {"event": "mtu-changed", "peer": "branch-8", "old": 1476, "new": 1300, "why": "pinned by clampctl"}
    ]


def test_pins_survive_restarts_until_they_are_taken_away(house: House) -> None:
    house.post("/v1/peers/branch-7/pin", {"mtu": 1300})
    house.restart()
    assert house.peer("branch-7")["mtu"] == 1300
    assert house.post("/v1/peers/branch-7/unpin")["peer"]["mtu"] == 1380
    house.restart()
    assert house.peer("branch-7")["mtu"] == 1380


@pytest.mark.parametrize("mtu", [575, 1477, -1, 0, 65536])
def test_a_pin_out_of_range(mtu: int, house: House) -> None:
    with pytest.raises(RequestError):
        house.post("/v1/peers/branch-7/pin", {"mtu": mtu})
    assert house.peer("branch-7")["mtu"] == 1380
    assert house.store.pins() == {}


def test_unpin_of_what_is_not_pinned(house: House) -> None:
    with pytest.raises(ConflictError, match="branch-7 is not pinned by clampctl; its mtu stands in the configuration"):
        house.post("/v1/peers/branch-7/unpin")
    with pytest.raises(ConflictError, match=r"branch-8 is not pinned by clampctl$"):
        house.post("/v1/peers/branch-8/unpin")


# -- modes


def test_enforce_and_observe(house: House) -> None:
    assert house.enforce_until("10.7.0.0/16") == 0
    house.events()
    done = house.mode("enforce")
    assert done["text"].startswith("all devices: enforcing; still observed, ")
    assert done["text"].endswith(": careful")
    assert house.enforce_until("10.7.0.0/16") == abi.FOREVER
    assert house.enforce_until("::/0", "up0") == abi.FOREVER
    assert house.enforce_until("10.9.0.0/16") == 0
    assert (house.peer("branch-7")["mode"], house.peer("careful")["mode"]) == ("enforce", "observe")
    assert house.get("/v1/status")["mode"] == "enforce"
    house.restart()
    assert house.enforce_until("10.7.0.0/16") == abi.FOREVER
    assert house.mode("observe")["text"] == "all devices: observing"
    assert house.enforce_until("10.7.0.0/16") == 0


def test_enforce_one_device(house: House) -> None:
    assert house.mode("enforce", "up0")["text"] == "up0: enforcing"
    assert house.enforce_until("0.0.0.0/0", "up0") == abi.FOREVER
    assert house.enforce_until("10.7.0.0/16") == 0
    status = house.get("/v1/status")
    assert (status["mode"], [each["mode"] for each in status["devices"]]) == (
        "observe",
        ["observe", "observe", "enforce"],
    )


def test_a_trial_ends_by_itself(house: House) -> None:
    house.events()
    until = house.clock.now + 600 * SECOND
    assert "enforcing for 600 s" in house.mode("enforce", "gre7", 600)["text"]
    assert house.enforce_until("10.7.0.0/16") == until
    assert house.peer("branch-7")["mode"] == "enforce"
    (trial,) = house.get("/v1/status")["trials"]
    assert (trial["device"], trial["seconds_left"]) == ("gre7", 600.0)
    assert house.daemon.seconds_to_deadline() == 600
    house.clock.forward(599)
    house.restart()
    assert house.enforce_until("10.7.0.0/16") == until
    house.clock.forward(1)
    assert house.peer("branch-7")["mode"] == "observe"
    house.daemon.reconcile()
    assert house.enforce_until("10.7.0.0/16") == 0
    assert house.get("/v1/status")["trials"] == []
    assert house.daemon.seconds_to_deadline() is None
    assert house.store.trials("boot-a") == {}


def test_a_trial_of_another_boot_is_over(house: House) -> None:
    house.mode("enforce", None, 600)
    house.clock.boot = "boot-b"
    house.restart()
    assert house.enforce_until("10.7.0.0/16") == 0


def test_a_trial_is_confirmed(house: House) -> None:
    house.mode("enforce", "gre7", 600)
    house.events()
    assert house.post("/v1/mode", {"mode": "confirm"})["text"] == "gre7: enforcing for good"
    assert house.enforce_until("10.7.0.0/16") == abi.FOREVER
    assert house.happened("mode-changed") == [
        {"event": "mode-changed", "peer": None, "device": "gre7", "mode": "enforce", "why": "confirmed"}
    ]
    house.clock.forward(601)
    house.restart()
    assert house.enforce_until("10.7.0.0/16") == abi.FOREVER


def test_a_trial_that_is_over_is_told_though_another_is_confirmed(house: House) -> None:
    house.mode("enforce", "gre7", 5)
    house.mode("enforce", "up0", 600)
    house.events()
    house.clock.forward(6)
    house.mode("confirm")
    assert [(event["device"], event["why"]) for event in house.happened("mode-changed")] == [
        ("gre7", "the trial is over"),
        ("up0", "confirmed"),
    ]


def test_nothing_to_confirm(house: House) -> None:
    with pytest.raises(ConflictError, match="no trial to confirm"):
        house.mode("confirm")
    house.mode("enforce", None, 5)
    house.clock.forward(5)
    with pytest.raises(ConflictError, match="no trial to confirm"):
        house.mode("confirm")
    assert house.enforce_until("10.7.0.0/16") <= house.clock.now


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"mode": "confirm", "device": "gre7"}, RequestError),
        ({"mode": "confirm", "seconds": 5}, RequestError),
        ({"mode": "observe", "seconds": 5}, RequestError),
        ({"mode": "enforce", "seconds": 0}, RequestError),
        ({"mode": "enforce", "seconds": -5}, RequestError),
        ({"mode": "enforce", "seconds": 604801}, RequestError),
        ({"mode": "enforce", "seconds": 1e308}, RequestError),
        ({"mode": "enforce", "device": "wg9"}, NotFoundError),
        ({"mode": "enforce", "device": "*"}, NotFoundError),
        ({"mode": "enforce", "device": ""}, NotFoundError),
        ({"mode": "pause"}, RequestError),
    ],
)
def test_a_mode_that_cannot_be(wanted: dict[str, object], error: type[ClampdError], house: House) -> None:
    with pytest.raises(error):
        house.post("/v1/mode", wanted)
    assert house.store.modes() == {}
    assert house.enforce_until("10.7.0.0/16") == 0


def test_a_device_that_is_away_can_be_enforced_beforehand(house: House) -> None:
    house.mode("enforce", "ppp0")
    house.kernel.add("ppp0", 1492, 512, "ppp")
    house.daemon.reconcile()
    assert house.enforce_until("10.5.0.0/16", "ppp0") == abi.FOREVER


def test_a_mode_that_cannot_be_kept_is_not_taken(house: House) -> None:
    house.store.close()
    try:
        with pytest.raises(ClampdError):
            house.mode("enforce")
        assert house.enforce_until("10.7.0.0/16") == 0
        house.daemon.reconcile()
        assert house.enforce_until("10.7.0.0/16") == 0
    finally:
        house.restart()


# -- attach and detach


def test_detach_and_attach(house: House) -> None:
    house.events()
    assert house.post("/v1/detach", {"device": "gre7"})["text"] == (
        "detached: gre7; kept off until `clampctl attach gre7`"
    )
    assert (house.kernel.attached("gre7"), house.kernel.attached("up0")) == (set(), {"clampd_l2_in", "clampd_l2_eg"})
    house.restart()
    assert house.kernel.attached("gre7") == set()
    device = house.get("/v1/status")["devices"][0]
    assert (device["attached"], device["problem"]) == (False, "kept off by `clampctl detach`")
    assert house.get("/v1/status")["detached"] == ["gre7"]
    assert house.post("/v1/attach", {"device": "gre7"})["text"] == "attached: gre7"
    assert house.kernel.attached("gre7") == {"clampd_l3_in", "clampd_l3_eg"}
    assert house.kernel.in_force("gre7", "10.7.0.0/16") is not None


def test_detach_from_everything(house: House) -> None:
    assert house.post("/v1/detach")["text"].startswith("detached: gre7, up0; kept off")
    assert (house.kernel.attached("gre7"), house.kernel.attached("up0")) == (set(), set())
    house.kernel.add("ppp0", 1492, 512, "ppp")
    house.restart()
    assert house.kernel.attached("ppp0") == set()
    with pytest.raises(ConflictError, match="detached from everything"):
        house.post("/v1/attach", {"device": "gre7"})
    assert house.post("/v1/attach", {})["text"] == "attached: gre7, ppp0, up0"


def test_detach_tells_watchers(house: House) -> None:
    house.events()
    house.post("/v1/detach", {"device": "gre7"})
    house.post("/v1/attach", {"device": "gre7"})
    assert [(event["event"], event["device"]) for event in house.events()] == [
        ("device-detached", "gre7"),
        ("device-attached", "gre7"),
    ]


def test_only_known_devices_are_attached_and_detached(house: House) -> None:
    for verb in ("attach", "detach"):
        with pytest.raises(NotFoundError, match="there is no device 'wg9'; clampd knows gre7, ppp0, up0"):
            house.post(f"/v1/{verb}", {"device": "wg9"})
    assert house.store.detached() == set()


# -- reload


def test_reload(house: House) -> None:
    house.events()
    house.file.write_text(CONFIG.replace("mtu = 1380", "mtu = 1360").replace("careful", "bold"))
    assert house.post("/v1/reload")["text"] == "the configuration was read again"
    assert [(event["event"], event["peer"]) for event in house.events()] == [
        ("peer-removed", "careful"),
        ("mtu-changed", "branch-7"),
        ("peer-added", "bold"),
    ]
    in_force = house.kernel.in_force("gre7", "10.7.0.0/16")
    assert in_force is not None
    assert in_force.mss4 == 1320


def test_reload_of_a_bad_file_leaves_everything(house: House) -> None:
    before = house.get("/v1/status"), house.get("/v1/peers")
    house.file.write_text(CONFIG + "\nnonsense = 1\n")
    with pytest.raises(ConfigError, match=r"clampd\.toml"):
        house.post("/v1/reload")
    house.daemon.reconcile()
    assert (house.get("/v1/status"), house.get("/v1/peers")) == before


def test_reload_says_what_needs_a_restart(house: House) -> None:
    house.file.write_text('run_dir = "/elsewhere"\n' + CONFIG)
    assert house.post("/v1/reload")["text"].endswith("; run_dir take effect when clampd starts again")


# -- events


def test_events_are_a_stream(house: House) -> None:
    answer = house.api.answer(Request("GET", ("v1", "events"), {"since": "0"}, b"", False))
    assert answer.content_type == "application/x-ndjson"
    assert not isinstance(answer.body, bytes)
    lines = answer.body

    async def first() -> Any:
        line = await anext(lines)
        await lines.aclose()
        return json.loads(line)

    event = asyncio.run(first())
    assert (event["event"], event["peer"], event["at"]) == ("peer-added", "branch-7", "2026-01-31T12:16:40Z")


@pytest.mark.parametrize("since", ["", "-1", "x", "1e5", "9223372036854775809"])
def test_events_since_something_else(since: str, house: House) -> None:
    with pytest.raises(RequestError, match="since="):
        house.api.answer(Request("GET", ("v1", "events"), {"since": since}, b"", False))
