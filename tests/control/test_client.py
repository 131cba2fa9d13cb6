"""The client against a daemon that is none: requests, errors, events."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_daemon import FakeDaemon, a_peer, a_search, a_status, an_event
from mssclamp.control.client import Client
from mssclamp.control.protocol import Done, ModeRequest, PeerDocument, PeersDocument, ProbeResult, ProbeRound
from mssclamp.errors import (
    AmbiguousError,
    ClampdError,
    ConfigError,
    ConflictError,
    DatapathError,
    ForbiddenError,
    NoDaemonError,
    NotFoundError,
    RequestError,
    StoreError,
)
from support import require_root

NOBODY = 65534


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as fake:
        yield fake


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def test_documents_are_typed(daemon, client):
    daemon.answers("GET", "/v1/status", a_status())
    daemon.answers("GET", "/v1/peers/branch-7", PeerDocument(peer=a_peer()))
    daemon.answers("POST", "/v1/reload", Done(text="done"))
    assert client.status() == a_status()
    assert client.peer("branch-7") == PeerDocument(peer=a_peer())
    assert client.reload() == Done(text="done")


def test_fields_of_a_later_version_are_passed_over(daemon, client):
    daemon.answers("POST", "/v1/attach", {"schema": 1, "text": "done", "problems": [], "later": 1})
    assert client.attach() == Done(text="done")
    assert client.wire == b'{"schema":1,"text":"done","problems":[],"later":1}'


def test_changes_have_bodies(daemon, client):
    daemon.answers("POST", "/v1/mode", Done(text=""))
    daemon.answers("POST", "/v1/detach", Done(text=""))
    daemon.answers("POST", "/v1/peers/a b/pin", PeerDocument(peer=a_peer()))
    client.set_mode(ModeRequest(mode="enforce", device="wg0", seconds=1.5))
    client.detach("wg0")
    client.pin("a b", 1380, "wg0")
    assert [asked.body for asked in daemon.asked] == [
        {"mode": "enforce", "device": "wg0", "seconds": 1.5},
        {"device": "wg0"},
        {"mtu": 1380},
    ]
    assert daemon.asked[-1].query == {"device": "wg0"}


def test_pages_become_one_document(daemon, client):
    first, second = PeersDocument(peers=[a_peer("a")], next="a"), PeersDocument(peers=[a_peer("b")])
    daemon.answers("GET", "/v1/peers", first, second)
    assert client.peers(state="pinned") == PeersDocument(peers=[a_peer("a"), a_peer("b")])
    assert [asked.query for asked in daemon.asked] == [{"state": "pinned"}, {"state": "pinned", "after": "a"}]
    assert client.wire.count(b'"name"') == 2


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad-request", RequestError),
        (400, "config", ConfigError),
        (403, "forbidden", ForbiddenError),
        (404, "not-found", NotFoundError),
        (409, "ambiguous", AmbiguousError),
        (400, "ambiguous", AmbiguousError),
        (409, "conflict", ConflictError),
        (400, "new-code", RequestError),
        (500, "datapath", DatapathError),
        (500, "store", StoreError),
        (500, "failed", ClampdError),
        (500, "new-code", ClampdError),
    ],
)
def test_errors(daemon, client, status, code, kind):
    daemon.refuses("POST", "/v1/reload", status, code, "it is so", "do this")
    with pytest.raises(ClampdError) as raised:
        client.reload()
    assert type(raised.value) is kind
    assert (raised.value.code, raised.value.message, raised.value.fix) == (code, "it is so", "do this")


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (200, b"", "not understood"),
        (200, b"{", "not understood"),
        (200, b'{"schema": 1}', "missing required field `text`"),
        (200, b'{"schema": 2, "text": ""}', "schema 2, ours 1"),
        (502, b"<html>", "it answers 502"),
    ],
)
def test_answers_that_make_no_sense(daemon, client, status, body, complaint):
    daemon.answers("POST", "/v1/reload", body, status=status)
    with pytest.raises(ClampdError, match=complaint) as raised:
        client.reload()
    assert "use the clampctl of its version" in str(raised.value)


# where nobody answers


def test_no_socket(client, tmp_path):
    with pytest.raises(NoDaemonError) as raised:
        client.status()
    assert str(raised.value) == (
        f"no daemon there: {tmp_path}/clampd.sock does not exist; start clampd, or name its directory with --run-dir"
    )
    assert not client.is_running()


def test_a_socket_left_behind(daemon, client):
    assert client.is_running()
    daemon.stop()
    with pytest.raises(NoDaemonError, match=r"nobody listens on .*clampd\.sock: its daemon has ended"):
        client.status()
    assert not client.is_running()


def test_a_path_too_long():
    with pytest.raises(NoDaemonError, match="too long"):
        Client(Path("/" + "x" * 200)).status()


def test_a_file_in_place_of_the_directory(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(NoDaemonError, match="does not exist"):
        Client(tmp_path / "run").status()


def test_no_permission(daemon, client, tmp_path):  # noqa: ARG001
    require_root()
    os.chmod(tmp_path / "clampd.sock", 0o600)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(ForbiddenError, match="use sudo, or join the group clampd"):
            client.status()
        with pytest.raises(ForbiddenError):
            client.is_running()
    finally:
        os.seteuid(0)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket that takes connections and does no more by itself."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "clampd.sock"))
        made.listen()
        yield made


def test_silence(listener, tmp_path):  # noqa: ARG001
    with pytest.raises(NoDaemonError, match=r"has said nothing for 0\.05 s"):
        Client(tmp_path, time_limit=0.05).status()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"SSH-2.0-x\r\n"])
def test_breaking_off(listener, tmp_path, said):
    def break_off() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(said)

    thread = threading.Thread(target=break_off)
    thread.start()
    try:
        with pytest.raises(NoDaemonError, match="broke off in the middle"):
            Client(tmp_path).status()
    finally:
        thread.join()


# events


def test_events(daemon, client):
    events = client.events(since=6)
    sent = an_event(7, old=1400, new=1380, why="pinned")
    received = _first(daemon, events, sent)
    assert received == sent
    assert (
        client.wire
        == b'{"schema":1,"seq":7,"at":"2026-01-31T12:00:00Z","event":"mtu-changed","peer":"branch-7",'
        + (b'"old":1400,"new":1380,"why":"pinned"}')
    )
    assert daemon.asked[-1].query == {"since": "6"}
    events.close()


def test_events_wait_longer_than_the_time_limit(daemon, tmp_path):
    events = Client(tmp_path, time_limit=0.05).events()
    timer = threading.Timer(0.2, daemon.tell, [an_event(1)])
    timer.start()
    assert next(events).seq == 1
    timer.join()
    events.close()


@pytest.mark.parametrize("breaks_off", [False, True])
def test_events_end_with_the_daemon(daemon, client, breaks_off):
    daemon.breaks_off = breaks_off
    events = client.events()
    _first(daemon, events, an_event(1))
    daemon.stop()
    with pytest.raises(NoDaemonError):
        next(events)


@pytest.mark.parametrize("line", [{"schema": 1, "seq": 1}, {"schema": 2, "seq": 1, "at": "", "event": "hint"}])
def test_events_that_make_no_sense(daemon, client, line):
    events = client.events()
    with pytest.raises(ClampdError, match="not understood"):
        _first(daemon, events, line)


def test_events_may_be_refused(tmp_path):
    with FakeDaemon(tmp_path) as daemon:
        daemon.stop()
        with pytest.raises(NoDaemonError):
            next(Client(tmp_path).events())


def test_following_ends_in_time(daemon, client):
    with client.follow(seconds=0.2) as events:
        daemon.tell(an_event(1))
        assert [event.seq for event in events] == [1]


# a search


PROBE = ("POST", "/v1/peers/branch-7/probe")


@pytest.fixture
def searching(daemon: FakeDaemon) -> FakeDaemon:
    """A daemon that searches for the MTU of branch-7, while other things happen too."""
    daemon.answers(*PROBE, PeerDocument(peer=a_peer(state="searching")))
    other = a_search("branch-8", mtu=1400)
    daemon.tells_after(*PROBE, *other, an_event(1, mtu=1328), *a_search(), an_event(99, "peer-removed"))
    return daemon


def test_a_search(searching, client):
    with client.search("branch-7") as (document, told):
        first, second, result = told
    assert document.peer.state == "searching"
    assert [type(each) for each in (first, second, result)] == [ProbeRound, ProbeRound, ProbeResult]
    assert (first.round, first.lost[0].size, second.answered[0].rtt) == (1, 1392, 0.012)
    assert (result.verdict, result.mtu, result.method) == ("exact", 1328, "echo")
    assert [asked.path for asked in searching.asked] == ["/v1/events", PROBE[1]]


def test_a_search_that_says_nothing(daemon, client):
    daemon.answers(*PROBE, PeerDocument(peer=a_peer()))
    with (
        pytest.raises(ClampdError, match=r"branch-7: no result within 0\.1 s; `clampctl show`"),
        client.search("branch-7", seconds=0.1) as (_, told),
    ):
        next(told)


def test_a_search_for_a_peer_that_goes(searching, client):
    searching.tells_after(*PROBE, an_event(1, "peer-removed", "branch-8"), an_event(2, "peer-removed"))
    with pytest.raises(NotFoundError, match="branch-7 is no longer a peer"), client.search("branch-7") as (_, told):
        next(told)


@pytest.mark.parametrize("details", [{}, {"done": True, "verdict": "new"}, {"done": False, "round": 1}])
def test_a_search_that_makes_no_sense(searching, client, details):
    searching.tells_after(*PROBE, an_event(1, "probe-round", **details))
    with pytest.raises(ClampdError, match="not understood"), client.search("branch-7") as (_, told):
        next(told)


def test_a_search_without_its_daemon(searching, client):
    searching.tells_after(*PROBE, a_search()[0])
    with client.search("branch-7") as (_, told):
        next(told)
        searching.stop()
        with pytest.raises(NoDaemonError):
            next(told)


def _first(daemon: FakeDaemon, events: Iterator[object], sent: object) -> object:
    """Sends an event as soon as the stream is open, and returns what comes."""
    telling = threading.Thread(target=daemon.tell, args=(sent,))
    telling.start()
    try:
        return next(events)
    finally:
        telling.join()
