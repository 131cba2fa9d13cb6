"""What each command asks of the daemon, and what it says about the answer."""

from __future__ import annotations

import pytest

from fake_daemon import FakeDaemon, a_peer, a_status
from mssclamp.control.protocol import Done, PeerDocument, PeersDocument


def last(daemon: FakeDaemon) -> tuple[str, str, dict[str, str], object]:
    asked = daemon.asked[-1]
    return asked.method, asked.path, asked.query, asked.body


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["enforce"], {"mode": "enforce", "device": None, "seconds": None}),
        (["enforce", "wg0"], {"mode": "enforce", "device": "wg0", "seconds": None}),
        (["enforce", "wg0", "--for", "10m"], {"mode": "enforce", "device": "wg0", "seconds": 600}),
        (["observe"], {"mode": "observe", "device": None, "seconds": None}),
        (["observe", "wg0"], {"mode": "observe", "device": "wg0", "seconds": None}),
        (["confirm"], {"mode": "confirm", "device": None, "seconds": None}),
    ],
)
def test_modes(words, body, daemon, clampctl):
    daemon.answers("POST", "/v1/mode", Done(text="wg0: enforcing"))
    assert clampctl(*words).out == "wg0: enforcing\n"
    assert last(daemon) == ("POST", "/v1/mode", {}, body)


@pytest.mark.parametrize("command", ["attach", "detach"])
def test_attach_and_detach(command, daemon, clampctl):
    daemon.answers("POST", f"/v1/{command}", Done(text="done"))
    clampctl(command, "wg0")
    assert last(daemon) == ("POST", f"/v1/{command}", {}, {"device": "wg0"})
    clampctl(command)
    assert last(daemon) == ("POST", f"/v1/{command}", {}, {"device": None})


@pytest.mark.parametrize("command", ["pin", "unpin"])
def test_what_is_done_to_a_peer(command, daemon, clampctl):
    daemon.answers("POST", f"/v1/peers/branch-7/{command}", PeerDocument(peer=a_peer()))
    mtu = ["1380"] if command == "pin" else []
    result = clampctl(command, "branch-7", *mtu, "--device", "gre7")
    assert result.out == "branch-7: MTU 1380 (pinned by the configuration), MSS 1340/1320, pinned\n"
    body = {"mtu": 1380} if command == "pin" else None
    assert last(daemon) == ("POST", f"/v1/peers/branch-7/{command}", {"device": "gre7"}, body)


LEARNED = {"state": "confirmed", "source": "probe", "mtu": 1328, "floor": 1328, "ceiling": 1329}
HINTED = {"state": "hinted", "source": "icmp", "mtu": 1328, "why": "192.0.2.9 says so"}


@pytest.mark.parametrize(
    ("before", "dropped"),
    [
        (LEARNED, "dropped: 1328 passes, 1329 does not"),
        (LEARNED | {"ceiling": None}, "dropped: 1328 passes, nothing known not to"),
        (HINTED, "dropped: MTU 1328 (192.0.2.9 says so)"),
        ({}, "nothing had been learned"),
    ],
)
def test_forget(before, dropped, daemon, clampctl):
    now = a_peer(mtu=1476, state="searching", why="the MTU of gre7", mss4=1436, mss6=1416, source="device")
    daemon.answers("GET", "/v1/peers/10.7.0.9", PeerDocument(peer=a_peer(**before)))
    daemon.answers("POST", "/v1/peers/10.7.0.9/forget", PeerDocument(peer=now))
    assert clampctl("forget", "10.7.0.9", "--device", "gre7").out == (
        f"branch-7: {dropped}\nbranch-7: in force now: MTU 1476 (the MTU of gre7), MSS 1436/1416, searching\n"
    )
    assert last(daemon) == ("POST", "/v1/peers/10.7.0.9/forget", {"device": "gre7"}, None)
    assert daemon.asked[0].query == {"device": "gre7"}


def test_forget_in_json_asks_once(daemon, clampctl):
    daemon.answers("POST", "/v1/peers/branch-7/forget", PeerDocument(peer=a_peer()))
    assert clampctl("forget", "branch-7", "--json").json["peer"]["mtu"] == 1380
    assert len(daemon.asked) == 1


def test_what_cannot_be_forgotten(daemon, clampctl):
    daemon.answers("GET", "/v1/peers/branch-7", PeerDocument(peer=a_peer()))
    daemon.refuses("POST", "/v1/peers/branch-7/forget", 403, "forbidden", "you may look, not change", "be root")
    result = clampctl("forget", "branch-7")
    assert (result.code, result.out, result.err) == (1, "", "clampctl: you may look, not change; be root\n")


@pytest.mark.parametrize("reference", ["10.7.0.9", "2001:db8:7::1", "wg0:mV3k9Q_-", "mV3k9Q/+a=", "50% off?#"])
def test_any_reference_reaches_the_daemon_whole(reference, daemon, clampctl):
    daemon.answers("GET", f"/v1/peers/{reference}", PeerDocument(peer=a_peer()))
    assert clampctl("show", reference).out.startswith("branch-7  static peer on gre7\n")


def test_an_empty_reference_is_refused(daemon, clampctl):
    result = clampctl("show", "")
    assert (result.code, result.err) == (1, "clampctl: the peer's name is empty; `clampctl peers` lists them\n")
    assert not daemon.asked


def test_peers_are_filtered_by_the_daemon(daemon, clampctl):
    daemon.answers("GET", "/v1/peers", PeersDocument(peers=[]))
    assert clampctl("peers", "--device", "wg0", "--state", "pinned").out == "no peers\n"
    assert last(daemon)[2] == {"device": "wg0", "state": "pinned"}


def test_piped_output_is_plain_and_whole(daemon, clampctl):
    name = "a-name-as-long-as-they-come-" + "x" * 36
    daemon.answers("GET", "/v1/peers", PeersDocument(peers=[a_peer(name, prefixes=["2001:db8:1234:5678::/64"] * 2)]))
    out = clampctl("peers").out
    assert name in out
    assert "2001:db8:1234:5678::/64 +1" in out
    assert "\x1b" not in out
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_show_history(daemon, clampctl):
    daemon.answers("GET", "/v1/peers/branch-7", PeerDocument(peer=a_peer(evidence=[])))
    assert clampctl("show", "branch-7", "--history").code == 0


def test_status(daemon, clampctl):
    daemon.answers("GET", "/v1/status", a_status())
    assert clampctl("status").out.startswith("clampd 0.1.0, pid 812, up 2h 5m, mode enforce\n1 peer: 1 pinned\n")
