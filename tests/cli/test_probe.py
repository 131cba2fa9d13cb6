"""`clampctl probe`: when the daemon does it, when this process does, and what it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fake_daemon import FakeDaemon, a_peer
from mssclamp.control.protocol import PeerDocument
from mssclamp.errors import AmbiguousError, ConflictError, NotFoundError, NotYetError
from mssclamp.pmtu.search import Round, Search
from mssclamp.probe import echo
from sim import Path, drive

NO_DAEMON = "--run-dir=/nowhere"


class FakeProber:
    """In place of the raw socket: a simulated path of MTU 1400, or `mtu`."""

    mtu = 1400
    opened: list[tuple[str, str | None]]

    def __init__(self, address: object, device: str | None = None) -> None:
        self.opened.append((str(address), device))
        self.hints = [echo.Hint("192.0.2.9", "message too long", 1400)]

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


def test_a_peer_by_the_daemon(daemon: FakeDaemon, prober, clampctl) -> None:
    daemon.answers("POST", "/v1/peers/10.7.0.9/probe", PeerDocument(peer=a_peer()))
    assert clampctl("probe", "10.7.0.9").out.startswith("branch-7: MTU 1380")
    assert prober.opened == []


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


@pytest.mark.parametrize("error", [NotFoundError("no such peer"), NotYetError("not yet")])
def test_what_the_daemon_cannot_is_done_from_here(error, daemon: FakeDaemon, prober, clampctl) -> None:
    daemon.refuses("POST", "/v1/peers/192.0.2.77/probe", 409, error.code, error.message)
    result = clampctl("probe", "192.0.2.77", "--device", "eth0")
    assert (result.code, result.out) == (0, OUTPUT)
    assert prober.opened == [("192.0.2.77", "eth0")]


@pytest.mark.parametrize("error", [AmbiguousError("several"), ConflictError("in the way")])
def test_what_the_daemon_refuses(error, daemon: FakeDaemon, prober, clampctl) -> None:
    daemon.refuses("POST", "/v1/peers/192.0.2.77/probe", 409, error.code, error.message)
    assert clampctl("probe", "192.0.2.77").code == 1
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
