"""Documents as text, in a pipe and in a terminal of 80 columns."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from fake_daemon import a_peer, a_status
from mssclamp.cli import render, words
from mssclamp.control.protocol import (
    Address,
    Counters,
    Device,
    Evidence,
    Meets,
    PeerDocument,
    PeersDocument,
    Trial,
)

NOW = datetime(2026, 1, 31, 12, 5, 30, tzinfo=UTC)


def lines(renderable: object, width: int = 1000) -> list[str]:
    out = StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(renderable)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_peers():
    document = PeersDocument(
        peers=[a_peer(), a_peer("b", state="unprobed", mtu=None, mss4=None, mss6=None, prefixes=[])]
    )
    expected = [
        "name      device  state      mtu  path  mss        checked  mode     clamped  prefixes",
        "branch-7  gre7    pinned    1380     -  1340/1320  -        enforce       12  10.7.0.0/16 +1",
        "b         gre7    unprobed     -     -  -          -        enforce       12  -",
    ]
    assert lines(render.peers(document, NOW, width=1000)) == expected
    rows = [words.peer_row(peer, NOW) for peer in document.peers]
    assert words.table(words.PEER_COLUMNS, rows).splitlines() == expected


def test_peers_in_a_narrow_terminal_lose_columns_not_characters():
    document = PeersDocument(peers=[a_peer()])
    assert lines(render.peers(document, NOW, width=80), width=80) == [
        "name      device  state    mtu  path  mss        checked  mode     clamped",
        "branch-7  gre7    pinned  1380     -  1340/1320  -        enforce       12",
    ]
    assert lines(render.peers(document, NOW, width=70), width=70) == [
        "name      device  state    mtu  mss        checked  mode     clamped",
        "branch-7  gre7    pinned  1380  1340/1320  -        enforce       12",
    ]


def test_names_are_no_markup():
    document = PeersDocument(peers=[a_peer("x", why="[red]not red[/red] [/]")])
    assert "[red]not red[/red] [/]" in "".join(lines(render.peer(PeerDocument(peer=document.peers[0]), NOW)))


def test_status():
    assert lines(render.status(a_status())) == [
        "clampd 0.1.0, pid 812, up 2h 5m, mode enforce",
        "1 peer: 1 pinned",
        "",
        "device  kind   mtu  mode     attached  ingress          egress",
        "gre7    gre   1476  enforce  yes       clampd_l3_in@49  other@1 (foreign, before ours), clampd_l3_eg@49",
        "",
        "packets: clamped 12, fits 40",
    ]


def test_status_tells_what_needs_attention():
    gone = Device(name="wg9", kind="", mtu=None, mode="observe", attached=False, problem="there is no such device now")
    trial = Trial(device="gre7", until="2026-01-31T12:10:00Z", seconds_left=61.0)
    shown = lines(render.status(a_status(devices=[gone], trials=[trial], detached=["wg0", "wg1"], problems=["x: y"])))
    assert "gre7: enforcing on trial, 1m 1s left; `clampctl confirm` keeps it" in shown
    assert "kept off wg0, wg1; `clampctl attach DEVICE` puts it back" in shown
    assert shown[-2:] == ["problem: x: y", "problem: wg9: there is no such device now"]
    everything = lines(render.status(a_status(devices=[], detached=["*"], reasons={})))
    assert "detached from everything; `clampctl attach` puts it back" in everything
    assert "no devices to manage" in everything
    assert "packets: nothing yet" in everything


def test_show():
    evidence = [
        Evidence(at=f"2026-01-31T12:00:{n:02}Z", source="pin", size=1380, verdict="in force", text=f"reason {n}")
        for n in range(10)
    ]
    document = PeerDocument(peer=a_peer(evidence=evidence))
    shown = lines(render.peer(document, NOW))
    assert shown[:10] == [
        "branch-7  static peer on gre7",
        "  mtu       1380",
        "  why       pinned by the configuration",
        "  state     pinned",
        "  mss       1340 for IPv4, 1320 for IPv6",
        "  changed   5m 30s ago, at 12:00:00 UTC",
        "  mode      enforce",
        "  prefixes  10.7.0.0/16, 2001:db8:7::/48",
        "  endpoint  192.0.2.7",
        "  overhead  24 bytes",
    ]
    assert shown[10:14] == [
        "  packets   clamped 12, would clamp 3",
        "  evidence, times in UTC",
        "    2 older (--history shows them)",
        "    12:00:02  pin  1380 in force: reason 2",
    ]
    assert len(shown) == 13 + 8
    whole = lines(render.peer(document, NOW, history=True))
    assert len(whole) == 12 + 10
    assert "    12:00:00  pin  1380 in force: reason 0" in whole


def test_evidence_is_told_in_the_order_of_time():
    told = "1400 answered in 12 ms; 1420, 1440 and 1492 lost three times beside it"
    evidence = [
        Evidence(at="2026-01-31T12:00:03Z", source="probe", size=1400, verdict="passes", text=told),
        Evidence(at="2026-01-31T12:00:02Z", source="icmp", size=None, verdict="hint", text="192.0.2.9 says: too big"),
        Evidence(at="2026-01-30T12:00:02Z", source="device", size=1420, verdict="in force", text="the MTU of wg0"),
    ]
    document = PeerDocument(peer=a_peer(evidence=evidence))
    assert lines(render.peer(document, NOW))[-3:] == [
        "    2026-01-30 12:00:02  device  1420 in force: the MTU of wg0",
        "    12:00:02             icmp    192.0.2.9 says: too big",
        f"    12:00:03             probe   {told}",
    ]
    assert lines(render.peer(document, NOW), width=80)[-2:] == [
        "    12:00:03             probe   1400 answered in 12 ms; 1420, 1440 and 1492",
        "                                 lost three times beside it",
    ]


def test_show_of_a_measured_peer():
    peer = a_peer(
        id="wg0:mV3k9Qa1",
        name="home",
        kind="wireguard",
        public_key="mV3k9Qa1=",
        state="confirmed",
        source="probe",
        mtu=1328,
        exact=True,
        floor=1328,
        ceiling=1329,
        path_mtu=1388,
        mtu_from_peer=1400,
        direction="to-peer",
        rtt=0.012,
        why="1328 answered in 12 ms; 1329 lost three times beside it",
        last_handshake="2026-01-31T11:59:02Z",
        checked="2026-01-31T12:04:30Z",
        counters=Counters(probes=14, rounds=2, retransmits=1),
    )
    shown = lines(render.peer(PeerDocument(peer=peer), NOW))
    assert shown == [
        "home  wireguard peer on gre7, id wg0:mV3k9Qa1",
        "  mtu            1328, exact, towards the peer only",
        "  why            1328 answered in 12 ms; 1329 lost three times beside it",
        "  state          confirmed",
        "  mss            1340 for IPv4, 1320 for IPv6",
        "  bounds         1328 passes, 1329 does not",
        "  path mtu       1388: the largest outer packet that was proven to reach the endpoint",
        "  from the peer  1400: what passes on the way from the peer to us",
        "  round trip     12 ms",
        "  checked        1m ago, at 12:04:30 UTC",
        "  changed        5m 30s ago, at 12:00:00 UTC",
        "  handshake      6m 28s ago, at 11:59:02 UTC",
        "  mode           enforce",
        "  prefixes       10.7.0.0/16, 2001:db8:7::/48",
        "  endpoint       192.0.2.7",
        "  public key     mV3k9Qa1=",
        "  overhead       24 bytes",
        "  packets        resent 1",
        "  probing        2 rounds, 14 probes",
    ]


@pytest.mark.parametrize(
    ("source", "mtu"), [("probe", "at least 1328, both ways"), ("pin", "1328"), ("device", "1328")]
)
def test_only_a_measured_value_is_exact_or_not(source, mtu):
    peer = a_peer(exact=False, mtu=1328, direction="both", source=source)
    assert f"  mtu       {mtu}" in lines(render.peer(PeerDocument(peer=peer), NOW))


def test_what_would_help_an_unprobed_peer_stands_out():
    why = "the MTU of wg0; nothing answers there: name an address with probe_address"
    out = StringIO()
    shown = render.peer(PeerDocument(peer=a_peer(state="unprobed", why=why)), NOW)
    Console(file=out, width=120, color_system="standard", force_terminal=True, highlight=False).print(shown)
    assert f"\x1b[33m{why}\x1b[0m" in out.getvalue()


def test_round():
    (line,) = lines(render.probe_round(2, {1280: 0.1, 1400: 0.1}, [1420]))
    assert line == "round 2: 1280 1400 1420  (2 answered, 1 lost)"
    styles = {span.style for span in render.probe_round(2, [1280], [1420]).spans}
    assert {"green", "red"} <= styles


def test_show_of_an_address():
    address = Address(
        address="10.7.0.9",
        device="gre7",
        prefix="10.7.0.0/16",
        limited_by="pinned by the configuration",
        costs="24 bytes of outer headers on every packet",
        meets=[
            Meets(packet="syn", direction="to-peer", text="an MSS above 1340 is lowered"),
            Meets(packet="full-size", direction="from-peer", text="up to 1380 bytes fit"),
        ],
    )
    shown = lines(render.peer(PeerDocument(peer=a_peer(), address=address), NOW))
    assert shown[:7] == [
        "10.7.0.9  behind branch-7 on gre7, by prefix 10.7.0.0/16",
        "  a SYN to the peer: an MSS above 1340 is lowered",
        "  a full-size packet from the peer: up to 1380 bytes fit",
        "  limit: pinned by the configuration",
        "  cost: 24 bytes of outer headers on every packet",
        "",
        "branch-7  static peer on gre7",
    ]
