"""What `clampctl top` makes of samples and keys."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from fake_daemon import a_peer, a_status, an_event
from mssclamp.cli import top_view
from mssclamp.cli.top_view import Row, Sample, View
from mssclamp.control.protocol import Counters, Trial


def sample(at: float, *peers: object, **status: object) -> Sample:
    return Sample(at, a_status(**status), peers)  # type: ignore[arg-type]


def counted(name: str, clamped: int, would: int = 0, **values: object) -> object:
    return a_peer(name, counters=Counters(clamped=clamped, would_clamp=would), **values)


def text(
    view: View, of: Sample, rows: object = None, events: object = (), height: int = 24, **more: object
) -> list[str]:
    """The screen as lines, on 80 columns."""
    shown = top_view.rows(None, of) if rows is None else rows
    layout = top_view.lay_out(view, shown, events, 80, height)
    out = StringIO()
    Console(file=out, width=80, color_system=None, highlight=False).print(
        top_view.screen(view, of, layout, **{"now": of.at} | more)
    )
    return [line.rstrip() for line in out.getvalue().splitlines()]


def pressed(
    view: View, *keys: str, peers: int = 50, height: int = 24, devices: tuple[str, ...] = ("gre7", "wg0")
) -> View:
    rows = [Row(a_peer(f"peer-{number:02}")) for number in range(peers)]
    for key in keys:
        view = top_view.press(view, key, devices, top_view.lay_out(view, rows, [], 80, height))
    return view


# rates


def test_rates_are_differences_by_time():
    before, now = sample(10.0, counted("a", 100, 7)), sample(12.0, counted("a", 150, 8))
    (row,) = top_view.rows(before, now)
    assert (row.clamped, row.would) == (25.0, 0.5)


def test_no_rates_at_first():
    assert top_view.rows(None, sample(10.0, counted("a", 100))) == (Row(counted("a", 100)),)


def test_no_rate_of_a_peer_that_is_new_or_counts_from_zero():
    before, now = sample(10.0, counted("a", 100)), sample(12.0, counted("a", 5), counted("b", 7))
    assert [(row.clamped, row.would) for row in top_view.rows(before, now)] == [(None, None), (None, None)]


def test_no_rates_where_no_time_passed():
    before = now = sample(10.0, counted("a", 100))
    assert top_view.rows(before, now)[0].clamped is None


# keys


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("qps/d", ["q", "p", "s", "/", "d"]),
        ("\x1b[A\x1b[B", ["up", "down"]),
        ("\x1bOA\x1bOB", ["up", "down"]),
        ("\x1b[5~\x1b[6~\x1b[H", ["page up", "page down", "home"]),
        ("\x1b", ["escape"]),
        ("\x1b[15;2~x", ["\x1b[15;2~", "x"]),
        ("kjg", ["k", "j", "g"]),
        ("\r\n\x7f\x08\x15", ["enter", "enter", "backspace", "backspace", "clear"]),
        ("é", ["é"]),
        ("", []),
    ],
)
def test_keys(typed, keys):
    assert list(top_view.keys(typed)) == keys


def test_q_leaves():
    assert pressed(View(), "q").left


def test_p_pauses_and_goes_on():
    assert pressed(View(), "p").paused
    assert not pressed(View(), "p", "p").paused


def test_s_goes_through_the_columns():
    seen = [View()]
    for _ in top_view.SORTS:
        seen.append(pressed(seen[-1], "s"))
    assert [view.sort for view in seen] == [*range(len(top_view.SORTS)), 0]


def test_d_goes_through_the_devices():
    assert [pressed(View(), *"d" * n).device for n in range(4)] == [None, "gre7", "wg0", None]
    assert pressed(View(device="gone"), "d").device is None


def test_typing_a_filter():
    assert pressed(View(), "/", "q", "p").filter == "qp"
    assert pressed(View(), "/", "a", "b", "backspace", "k", "enter") == View(filter="ak")
    assert pressed(View(), "/", "a", "clear").filter == ""
    assert pressed(View(), "/", "a", "escape") == View()
    assert pressed(View(), "/", "up", "\x1b[15~", "\x01").filter == ""
    assert pressed(View(filter="ab"), "/", "c", "enter", "q") == View(filter="abc", left=True)


def test_escape_shows_all_again():
    assert pressed(View(filter="x", device="wg0", top=3, sort=2), "escape") == View(sort=2)


def test_scrolling_stays_inside():
    assert pressed(View(), "up").top == 0
    assert pressed(View(), "down", "j", "up").top == 1
    assert pressed(View(), "page down").top == 20
    assert pressed(View(), *["page down"] * 9).top == 30
    assert pressed(View(), *["page down"] * 9, "k").top == 29
    assert pressed(View(), "page down", "g").top == 0
    assert pressed(View(), "down", peers=3).top == 0


@pytest.mark.parametrize("key", ["x", "enter", "\x1b[15~", "\x00"])
def test_other_keys_do_nothing(key):
    assert pressed(View(), key) == View()


# choosing


ROWS = (
    Row(a_peer("b", device="gre7", mtu=1400, state="pinned", counters=Counters(blackholes=1)), 5.0, 0.0),
    Row(a_peer("a", device="wg0", mtu=1300, state="unprobed"), 1.0, 2.0),
    Row(
        a_peer(
            "c",
            device="wg0",
            mtu=None,
            state="confirmed",
            endpoint="198.51.100.9",
            prefixes=["fd00::/8"],
            counters=Counters(retransmits=7),
        ),
        None,
        None,
    ),
)


@pytest.mark.parametrize(
    ("column", "order"),
    [
        ("name", "abc"),
        ("clamp/s", "bac"),
        ("would/s", "abc"),
        ("resent", "cab"),
        ("holes", "bac"),
        ("mtu", "cab"),
        ("state", "cba"),
        ("device", "bac"),
    ],
)
def test_sorting(column, order):
    sort = [name for name, _ in top_view.SORTS].index(column)
    assert "".join(row.peer.name for row in top_view.chosen(View(sort=sort), ROWS)) == order


@pytest.mark.parametrize(
    ("view", "left"),
    [
        (View(device="wg0"), "ac"),
        (View(filter="GRE7"), "b"),
        (View(filter="198.51.100"), "c"),
        (View(filter="fd00"), "c"),
        (View(filter="unpr"), "a"),
        (View(filter="10.7", device="wg0"), "a"),
        (View(filter="nothing"), ""),
    ],
)
def test_filtering(view, left):
    assert "".join(row.peer.name for row in top_view.chosen(view, ROWS)) == left


# the screen


def test_screen():
    now = sample(12.0, counted("branch-7", 150, 8))
    rows = top_view.rows(sample(10.0, counted("branch-7", 100, 8)), now)
    assert text(View(), now, rows, [an_event(old=1400, new=1380)]) == [
        "clampd 0.1.0  enforce  up 2h 5m  1 peer: 1 pinned",
        "",
        "name      device  state    mtu  mode     clamp/s  would/s  resent  holes",
        "branch-7  gre7    pinned  1380  enforce     25.0        0       0      0",
        "",
        "12:00:00 branch-7: MTU 1400 -> 1380",
        "1-1 of 1  q leave  p pause  s sort  / filter  d device  arrows scroll",
    ]


def test_it_fills_80x24_and_no_more():
    peers = [counted(f"peer-{number:03}-{'x' * 50}", number) for number in range(200)]
    events = [an_event(n, why="x" * 200) for n in range(20)]
    shown = text(View(top=3), sample(1.0, *peers, problems=["y" * 200, "z"]), events=events)
    assert len(shown) == 24
    assert max(map(len, shown)) <= 80
    assert shown[1].startswith("problem: yyy")
    assert shown[3].startswith("peer-003-x")
    assert "1380  enforce" in shown[3]
    assert shown[-1].startswith("4-17 of 200  q leave")


@pytest.mark.parametrize(
    ("width", "more"), [(80, set()), (91, set()), (92, {"mss"}), (109, {"mss"}), (110, {"mss", "prefixes"})]
)
def test_wide_terminals_show_more(width, more):
    layout = top_view.lay_out(View(), ROWS, [], width, 24)
    assert {"mss", "prefixes"} & set(layout.columns) == more


def test_a_measured_wireguard_peer_fits_in_80_columns():
    counters = Counters(retransmits=12, blackholes=1)
    peer = a_peer("wg0:mV3k9Qa1", device="wg0", state="confirmed", mtu=1328, counters=counters)
    assert text(View(), sample(1.0, peer))[2:4] == [
        "name          device  state       mtu  mode     clamp/s  would/s  resent  holes",
        "wg0:mV3k9Qa1  wg0     confirmed  1328  enforce        -        -      12      1",
    ]


@pytest.mark.parametrize("height", [1, 5, 8, 15, 16])
def test_small_terminals_lose_events_then_rows(height):
    peers = [counted(f"peer-{number:03}", number) for number in range(20)]
    shown = text(View(), sample(1.0, *peers), events=[an_event()], height=height)
    assert len(shown) <= max(height, 5)
    assert any("12:00:00" in line for line in shown) == (height >= 16)


def test_the_trial_counts_down_between_samples():
    trials = [Trial(device="gre7", until="", seconds_left=250.0), Trial(device="wg0", until="", seconds_left=90.0)]
    now = sample(100.0, trials=trials)
    assert text(View(), now)[1] == "wg0: enforcing on trial, 1m 30s left; `clampctl confirm` keeps it (and 1 more)"
    assert text(View(), now, now=110.0)[1].startswith("wg0: enforcing on trial, 1m 20s left")
    assert "2h 5m 1" not in text(View(), now)[0]


def test_the_uptime_goes_on_between_samples():
    assert "up 2h 6m" in text(View(), sample(100.0), now=165.0)[0]


def test_notices():
    shown = text(View(), sample(1.0, counted("a", 1), problems=["x"]), notice="no daemon: waiting (…)")
    assert shown[1] == "no daemon: waiting (…)"
    assert shown[3].startswith("a ")


def test_what_is_chosen_is_shown():
    now = sample(1.0, *(row.peer for row in ROWS))
    assert text(View(paused=True), now)[0].endswith("PAUSED")
    assert "p go on" in text(View(paused=True), now)[-1]
    assert text(View(typing=True, filter="ab"), now)[-1] == "filter: ab_   Enter keeps it, Esc clears it"
    foot = text(View(filter="a", device="wg0"), now)[-1]
    assert "/ filter: a  d device: wg0" in foot
    assert text(View(filter="nothing"), now)[-1].startswith("no peers  ")


def test_devices_of():
    assert top_view.devices_of(sample(1.0, a_peer(device="wg9"))) == ["gre7", "wg9"]


def test_views_are_values():
    view = View()
    assert replace(view, sort=1) != view
    assert hash(view) == hash(View())
