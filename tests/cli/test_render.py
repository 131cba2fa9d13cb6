"""Documents as text, in a pipe and in a terminal of 80 columns."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

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
        "name      device  state      mtu  mss        source  mode     clamped  would  prefixes        changed",
        "branch-7  gre7    pinned    1380  1340/1320  pin     enforce       12      3  10.7.0.0/16 +1  5m",
        "b         gre7    unprobed     -  -          pin     enforce       12      3  -               5m",
    ]
    assert lines(render.peers(document, NOW, width=1000)) == expected
    rows = [words.peer_row(peer, NOW) for peer in document.peers]
    assert words.table(words.PEER_COLUMNS, rows).splitlines() == expected


def test_peers_in_a_narrow_terminal_lose_columns_not_characters():
    shown = lines(render.peers(PeersDocument(peers=[a_peer()]), NOW, width=80), width=80)
    assert shown == [
        "name      device  state    mtu  mss        mode     clamped  would",
        "branch-7  gre7    pinned  1380  1340/1320  enforce       12      3",
    ]


def test_names_are_no_markup():
    document = PeersDocument(peers=[a_peer("x", why="[red]not red[/red] [/]")])
    assert "[red]not red[/red] [/]" in "".join(lines(render.peer(PeerDocument(peer=document.peers[0]))))


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
    shown = lines(render.peer(document))
    assert shown[:9] == [
        "branch-7  static peer on gre7",
        "  mtu       1380 (pinned by the configuration)",
        "  mss       1340 for IPv4, 1320 for IPv6",
        "  state     pinned, since 2026-01-31T12:00:00Z",
        "  overhead  24 bytes",
        "  mode      enforce",
        "  prefixes  10.7.0.0/16, 2001:db8:7::/48",
        "  endpoint  192.0.2.7",
        "  packets   clamped 12, would clamp 3",
    ]
    assert shown[9:12] == [
        "  evidence",
        "    2 older (--history shows them)",
        "    2026-01-31T12:00:02Z  pin 1380 in force: reason 2",
    ]
    assert len(shown) == 11 + 8
    whole = lines(render.peer(document, history=True))
    assert len(whole) == 10 + 10
    assert "    2026-01-31T12:00:00Z  pin 1380 in force: reason 0" in whole


def test_show_of_a_measured_peer():
    peer = a_peer(
        id="wg0:mV3k9Qa1",
        name="home",
        kind="wireguard",
        public_key="mV3k9Qa1=",
        state="confirmed",
        exact=False,
        floor=1328,
        ceiling=1329,
        path_mtu=1388,
        mtu_from_peer=1400,
        direction="to-peer",
        rtt=0.012,
        last_handshake="2026-01-31T11:59:02Z",
        checked="2026-01-31T12:04:30Z",
        counters=Counters(),
    )
    shown = lines(render.peer(PeerDocument(peer=peer)))
    assert shown[0] == "home  wireguard peer on gre7, id wg0:mV3k9Qa1"
    for fact in (
        "  state          confirmed, not exact to the byte, since 2026-01-31T12:00:00Z",
        "  bounds         1328 passes, 1329 does not",
        "  measured       our way only",
        "  from the peer  1400",
        "  path mtu       1388 outer",
        "  public key     mV3k9Qa1=",
        "  handshake      2026-01-31T11:59:02Z",
        "  round trip     12 ms",
        "  checked        2026-01-31T12:04:30Z",
        "  packets        nothing yet",
    ):
        assert fact in shown


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
    shown = lines(render.peer(PeerDocument(peer=a_peer(), address=address)))
    assert shown[:7] == [
        "10.7.0.9  behind branch-7 on gre7, by prefix 10.7.0.0/16",
        "  a SYN to the peer: an MSS above 1340 is lowered",
        "  a full-size packet from the peer: up to 1380 bytes fit",
        "  limit: pinned by the configuration",
        "  cost: 24 bytes of outer headers on every packet",
        "",
        "branch-7  static peer on gre7",
    ]
