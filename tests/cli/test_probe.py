"""`clampctl probe`: when the daemon does it, when this process does, and what it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fake_daemon import FakeDaemon, a_peer, a_search, an_event
from mssclamp.control.protocol import PeerDocument
from mssclamp.errors import AmbiguousError, ConflictError, ForbiddenError, NotFoundError
from mssclamp.pmtu.search import Round, Search
from mssclamp.probe import echo
from mssclamp.probe.raw import Hint
from sim import Path, drive

NO_DAEMON = "--run-dir=/nowhere"


class FakeProber:
    """In place of the raw socket: a simulated path of MTU 1400, or `mtu`."""

    mtu = 1400
    opened: list[tuple[str, str | None]]

    def __init__(self, address: object, device: str | None = None) -> None:
        self.opened.append((str(address), device))
        self.hints = [Hint("192.0.2.9", "message too long", 1400)]

    def __enter__(self) -> FakeProber:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def measure(self, on_round: Callable[[Round], None] = lambda _: None) -> Search:
        search = Search(576, 1501)
        drive(search, Path([(0, self.mtu)]))
        for each in search.rounds:
            on_round(each)
        return search


@pytest.fixture(autouse=True)
def prober(monkeypatch: pytest.MonkeyPatch) -> type[FakeProber]:
    made = type("Prober", (FakeProber,), {"opened": []})
    monkeypatch.setattr(echo, "EchoProber", made)
    return made


# an address of no peer, or no daemon


OUTPUT = """\
192.0.2.77: measuring from here by echo; nothing was changed
round 1: 576, 1280, 1320, 1358 and 1400 answered; 1420, 1450, 1480, 1492 and 1500 lost once
round 2: 1400 answered; 1404, 1408, 1412 and 1416 lost once; 1401 lost three times
hint, not believed: 192.0.2.9 says: too big, MTU 1400
192.0.2.77: path MTU 1400, both ways: 1400 answered in 12 ms; 1401 lost three times beside it
"""


def test_without_a_daemon(prober, clampctl) -> None:
    result = clampctl(NO_DAEMON, "probe", "192.0.2.77")
    assert (result.code, result.out, result.err) == (0, OUTPUT, "")
    assert prober.opened == [("192.0.2.77", None)]


@pytest.mark.parametrize("error", [NotFoundError("no such peer"), ForbiddenError("you may look, not change")])
def test_what_the_daemon_does_not_do_is_done_from_here(error, daemon: FakeDaemon, prober, clampctl) -> None:
    daemon.refuses("POST", "/v1/peers/192.0.2.77/probe", 404, error.code, error.message)
    result = clampctl("probe", "192.0.2.77", "--device", "eth0")
    assert (result.code, result.out) == (0, OUTPUT)
    assert prober.opened == [("192.0.2.77", "eth0")]


@pytest.mark.parametrize("error", [AmbiguousError("several"), ConflictError("probing is off", fix="probe = true")])
def test_what_the_daemon_refuses(error, daemon: FakeDaemon, prober, clampctl) -> None:
    daemon.refuses("POST", "/v1/peers/192.0.2.77/probe", 409, error.code, error.message, error.fix)
    result = clampctl("probe", "192.0.2.77")
    assert (result.code, result.out, result.err) == (1, "", f"clampctl: {error}\n")
    assert prober.opened == []


def test_a_name_needs_the_daemon(prober, clampctl) -> None:
    result = clampctl(NO_DAEMON, "probe", "branch-7")
    assert (result.code, result.out) == (3, "")
    assert prober.opened == []


def test_json(clampctl) -> None:
    document = clampctl(NO_DAEMON, "probe", "192.0.2.77", "--json").json
    assert document["rounds"][1]["lost"][0] == {"size": 1401, "times": 3}
    assert document["rounds"][0]["answered"][0] == {"size": 576, "rtt": 0.012}
    assert document["hints"] == [{"from": "192.0.2.9", "mtu": 1400, "text": "192.0.2.9 says: too big, MTU 1400"}]
    assert {key: document[key] for key in ("schema", "address", "path_mtu", "exact", "text")} == {
        "schema": 1,
        "address": "192.0.2.77",
        "path_mtu": 1400,
        "exact": True,
        "text": "1400 answered in 12 ms; 1401 lost three times beside it; nothing was changed",
    }


def test_nobody_answers(prober, clampctl) -> None:
    prober.mtu = 0
    result = clampctl(NO_DAEMON, "probe", "192.0.2.77", "--json")
    assert result.code == 1
    assert (result.json["path_mtu"], result.json["exact"]) == (None, False)
    assert result.err == (
        "clampctl: 192.0.2.77 does not answer, not even 576 bytes sent 5 times: its path cannot be measured by echo; "
        "try an address there that `ping` reaches\n"
    )


def test_interrupt(prober, monkeypatch: pytest.MonkeyPatch, clampctl) -> None:
    def interrupted(*_: object) -> Search:
        raise KeyboardInterrupt

    monkeypatch.setattr(prober, "measure", interrupted)
    result = clampctl(NO_DAEMON, "probe", "192.0.2.77")
    assert (result.code, result.err.strip()) == (130, "")


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch, clampctl) -> None:
    monkeypatch.setattr("mssclamp.cli.app.App.is_terminal", True)
    out = clampctl(NO_DAEMON, "probe", "192.0.2.77").out
    assert "round 1: 576 1280 1320 1358 1400 1420 1450 1480 1492 1500" in out
    assert "(5 answered, 5 lost)" in out


# a peer, by the daemon


PROBE, SHOW = ("POST", "/v1/peers/home/probe"), ("GET", "/v1/peers/wg0:abc")
FOUND = {"id": "wg0:abc", "name": "wg0:abc", "device": "wg0", "kind": "wireguard"}

PEER_OUTPUT = """\
wg0:abc: searching; MTU 1420 in force meanwhile
round 1: 1280 and 1328 answered; 1392 and 1420 lost once
round 2: 1328 answered; 1344 lost three times
echo to 10.7.0.1, 2 rounds, 8 probes
wg0:abc: MTU 1328, exact, both ways: 1328 answered in 12 ms; 1344 lost three times beside it
"""


@pytest.fixture
def searching(daemon: FakeDaemon) -> FakeDaemon:
    """A daemon that searches for the MTU of wg0:abc when asked for `home`, and finds 1328."""
    daemon.answers(*PROBE, PeerDocument(peer=a_peer(**FOUND, state="searching", mtu=1420)))
    daemon.answers(*SHOW, PeerDocument(peer=a_peer(**FOUND, state="confirmed", mtu=1328)))
    daemon.tells_after(*PROBE, *a_search("another", mtu=1400), *a_search("wg0:abc"))
    return daemon


def ends(daemon: FakeDaemon, **result: object) -> None:
    daemon.tells_after(*PROBE, a_search("wg0:abc", **result)[-1])


def test_a_peer(searching, prober, clampctl) -> None:
    result = clampctl("probe", "home", "--device", "wg0")
    assert (result.code, result.out, result.err) == (0, PEER_OUTPUT, "")
    assert [(asked.method, asked.path) for asked in searching.asked] == [("GET", "/v1/events"), PROBE, SHOW]
    assert searching.asked[1].query == {"device": "wg0"}
    assert prober.opened == []


def test_an_address_of_a_peer_is_that_peer(searching, prober, clampctl) -> None:
    searching.answers("POST", "/v1/peers/10.7.0.9/probe", PeerDocument(peer=a_peer(**FOUND)))
    searching.tells_after("POST", "/v1/peers/10.7.0.9/probe", *a_search("wg0:abc"))
    assert clampctl("probe", "10.7.0.9").out.endswith(PEER_OUTPUT.partition("\n")[2])
    assert prober.opened == []


def test_a_peer_on_a_terminal(searching, monkeypatch: pytest.MonkeyPatch, clampctl) -> None:  # noqa: ARG001
    monkeypatch.setattr("mssclamp.cli.app.App.is_terminal", True)
    out = clampctl("probe", "home").out
    assert "round 1: 1280 1328 1392 1420  (2 answered, 2 lost)" in out
    assert "round 2: 1328 1344  (1 answered, 1 lost)" in out


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (
            {"verdict": "inexact", "exact": False, "text": "1328 answered in 12 ms; larger sizes were not tried"},
            "MTU at least 1328, both ways: 1328 answered in 12 ms; larger sizes were not tried",
        ),
        ({"method": "tcp", "text": "why"}, "MTU 1328, exact, towards the peer only: why"),
        ({"method": None, "text": "why"}, "MTU 1328, exact: why"),
    ],
)
def test_results(result, said, searching, clampctl) -> None:
    ends(searching, **result)
    assert clampctl("probe", "home").out.splitlines()[-1] == f"wg0:abc: {said}"


def test_a_value_that_is_not_in_force(searching, clampctl) -> None:
    searching.answers(*SHOW, PeerDocument(peer=a_peer(**FOUND)))
    assert clampctl("probe", "home").out.splitlines()[-1] == (
        "wg0:abc: in force all the same: MTU 1380 (pinned by the configuration), MSS 1340/1320, pinned"
    )


AWAY = {"verdict": "away", "mtu": None, "exact": False, "text": "nothing answered, not even 576 bytes sent 5 times"}
HELD = {"verdict": "held", "mtu": None, "exact": False, "text": "probes of 1344 bytes left in fragments"}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (
            AWAY,
            "nothing answered, not even 576 bytes sent 5 times; the MTU stays; see that the peer is up, "
            "or name an address there that answers ping: probe_address in its [[peer]]",
        ),
        (AWAY | {"fix": "do this"}, "nothing answered, not even 576 bytes sent 5 times; the MTU stays; do this"),
        (
            HELD | {"fix": "`ip route flush cache`"},
            "no verdict: probes of 1344 bytes left in fragments; the MTU stays; `ip route flush cache`",
        ),
        (
            HELD,
            "no verdict: probes of 1344 bytes left in fragments; the MTU stays; `clampctl show wg0:abc` tells more",
        ),
    ],
)
@pytest.mark.parametrize("json", [False, True])
def test_no_result(result, said, json, searching, clampctl) -> None:
    ends(searching, **result)
    shown = clampctl("probe", "home", *(["--json"] if json else []))
    assert (shown.code, shown.err) == (1, f"clampctl: wg0:abc: {said}\n")
    if json:
        assert (shown.json["result"]["verdict"], shown.json["result"]["mtu"]) == (result["verdict"], None)


def test_json_of_a_peer(searching, clampctl) -> None:
    later = {"schema": 1, "peer": {"id": "wg0:abc", "name": "x", "device": "wg0", "kind": "wireguard", "later": [1]}}
    searching.answers(*SHOW, later)
    result = clampctl("probe", "home", "--json")
    *rounds, end = [dict(event.details) for event in a_search("wg0:abc")]
    for each in (*rounds, end):
        del each["done"]
    assert (result.code, result.err) == (0, "")
    assert result.json == {"schema": 1, "peer": later["peer"], "rounds": rounds, "result": end | {"fix": None}}


def test_a_peer_that_goes_meanwhile_is_not_measured_from_here(searching, prober, clampctl) -> None:
    searching.answers("POST", "/v1/peers/10.7.0.9/probe", PeerDocument(peer=a_peer(**FOUND)))
    searching.tells_after("POST", "/v1/peers/10.7.0.9/probe", an_event(1, "peer-removed", "wg0:abc"))
    result = clampctl("probe", "10.7.0.9")
    assert (result.code, result.err) == (
        1,
        "clampctl: wg0:abc is no longer a peer; `clampctl peers` lists them\n",
    )
    assert prober.opened == []
