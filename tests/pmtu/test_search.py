"""The search over a simulated path: which sizes it sends, what it finds, and what no fault may make it believe."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import partial

import pytest

from mssclamp.pmtu.constants import MAX_ROUNDS, MAX_SECONDS, ROUND_BYTES, TARGET_PROBES, TARGET_ROUNDS
from mssclamp.pmtu.search import Search, Verdict
from mssclamp.wire.mtu import IpVersion, wireguard_overhead, wireguard_padded, wireguard_peer_mtu
from sim import Outcome, Path, Policer, drive

LADDER = [1500, 1492, 1480, 1450, 1420, 1400, 1358, 1320, 1280, 576]


def run(mtu: int, ceiling: int = 1501, floor: int = 576) -> tuple[Search, Outcome]:
    """A search without faults, to its end."""
    search = Search(floor, ceiling)
    return search, drive(search, Path([(0, mtu)]))


# -- the sizes that are sent


@pytest.mark.parametrize(
    ("mtu", "after_the_ladder"),
    [
        (1500, []),
        (1492, [1497, 1495, 1493, 1493, 1493, 1492]),
        (1480, [1489, 1486, 1483, 1481, 1481, 1481, 1480]),
        (1420, [1445, 1440, 1435, 1430, 1425, 1421, 1421, 1421, 1420]),
        (1400, [1416, 1412, 1408, 1404, 1401, 1401, 1401, 1400]),
        (1412, [1416, 1412, 1408, 1404, 1401, 1415, 1414, 1413, 1413, 1413, 1412]),
        (1280, [1314, 1308, 1302, 1297, 1291, 1285, 1284, 1283, 1282, 1281, 1281, 1281, 1280]),
    ],
)
def test_sizes(mtu: int, after_the_ladder: list[int]) -> None:
    assert run(mtu)[1].sizes == LADDER + after_the_ladder


def test_sizes_of_jumbo_frames() -> None:
    assert run(9000, 9001)[1].sizes == [9000, 1500, 1492, 1420, 1280, 576]
    assert run(1500, 9001)[1].sizes[6:] == [6500, 4000, 1501, 1501, 1501, 1501, 1500]


def test_sizes_through_wireguard() -> None:
    search = Search(516, 1421, overhead=60, as_sent=partial(wireguard_padded, device_mtu=1420))
    sizes = drive(search, Path([(0, 1340)])).sizes
    assert sizes == [1420, 1360, 1328, 1296, 1248, 1216, 528, 1344, 1344, 1344, 1328]
    assert search.result is not None
    assert (search.result.mtu, search.result.ceiling, search.result.exact) == (1328, 1344, True)


def test_likely_sizes_are_tried_first() -> None:
    search = Search(576, 1501, likely=[1337])
    assert 1337 in drive(search, Path([(0, 1400)])).sizes[:11]


# -- exact without loss


@pytest.mark.parametrize("floor", [576, 1280])
def test_every_path_mtu(floor: int) -> None:
    for mtu in range(floor, 1501):
        search, outcome = run(mtu, floor=floor)
        assert search.result is not None
        assert (search.result.mtu, search.result.exact) == (mtu, True)
        if mtu >= 1280:
            assert len(search.rounds) <= TARGET_ROUNDS
            assert len(outcome.sent) <= TARGET_PROBES
        else:  # 704 answers are too many for 3 rounds of 16 kB, and for 24 probes
            assert len(search.rounds) <= 4
            assert len(outcome.sent) <= 38


def test_every_path_mtu_through_wireguard() -> None:
    """To the padding step: whatever the path's MTU is, in 3 rounds and 24 probes."""
    for version in (4, 6):
        overhead = wireguard_overhead(version)
        for path_mtu in range(600, 1501):
            search = Search(576 - overhead, 1421, overhead=overhead, as_sent=partial(wireguard_padded, device_mtu=1420))
            outcome = drive(search, Path([(0, path_mtu - overhead)]))
            assert search.result is not None
            assert search.result.mtu == wireguard_peer_mtu(path_mtu, 1420, version)
            assert search.result.exact
            assert len(search.rounds) <= TARGET_ROUNDS
            assert len(outcome.sent) <= TARGET_PROBES


@pytest.mark.parametrize("mtu", [1500, 1501, 2000, 4000, 9000])
def test_jumbo_frames(mtu: int) -> None:
    search, _ = run(mtu, 9001)
    assert search.result is not None
    assert (search.result.mtu, search.result.exact) == (mtu, True)


@pytest.mark.parametrize("loss", [0, 0.3])
def test_bytes_of_a_round(loss: float) -> None:
    for mtu in range(576, 1501, 7):
        search = Search(576, 1501)
        sizes = iter(drive(search, Path([(0, mtu)], loss=loss, chance=random.Random(mtu))).sizes)
        for each in search.rounds:
            assert sum(itertools.islice(sizes, each.probes)) <= ROUND_BYTES


# -- faults

WELL_KNOWN = (1500, 1492, 1480, 1400, 1420, 1280)
RUNS = 1000


def some_mtu(chance: random.Random) -> int:
    return chance.choice((*WELL_KNOWN, chance.randint(576, 1500)))


FAULTS: dict[str, tuple[Callable[[random.Random], Path], float]] = {
    "30 % loss": (lambda c: Path([(0, some_mtu(c))], loss=0.3, chance=c), 0.97),
    "10 % loss": (lambda c: Path([(0, some_mtu(c))], loss=0.1, chance=c), 0.99),
    "reordering and duplicates": (lambda c: Path([(0, some_mtu(c))], jitter=0.15, duplicates=0.3, chance=c), 0.99),
    "answers after their round": (lambda c: Path([(0, some_mtu(c))], late=0.2, chance=c), 0.99),
    "a satellite": (lambda c: Path([(0, some_mtu(c))], delay=0.6, loss=0.05, chance=c), 0.99),
    "all of them": (
        lambda c: Path([(0, some_mtu(c))], loss=0.3, jitter=0.1, late=0.2, duplicates=0.2, chance=c),
        0.95,
    ),
    "a change in the middle": (lambda c: Path([(0, some_mtu(c)), (c.random() / 2, some_mtu(c))], chance=c), 0.0),
    "a change and loss": (
        lambda c: Path([(0, some_mtu(c)), (c.random() * 2, some_mtu(c))], loss=0.2, jitter=0.03, chance=c),
        0.0,
    ),
    "a policer": (lambda c: Path([(0, some_mtu(c))], policer=Policer(), chance=c), 0.95),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_never_a_size_that_does_not_pass(fault: str) -> None:
    """Whatever happens, what is settled on passed during the last round; and nearly always it is exactly right."""
    make, share = FAULTS[fault]
    right = 0
    for seed in range(RUNS):
        path = make(random.Random(f"{fault} {seed}"))
        search = Search(576, 1501)
        outcome = drive(search, path)
        assert search.result is not None
        assert len(search.rounds) <= MAX_ROUNDS
        assert outcome.seconds <= MAX_SECONDS
        mtu = search.result.mtu
        last_round = [at for at, _ in outcome.sent[-search.rounds[-1].probes :]]
        assert mtu is None or mtu <= max(map(path.mtu, last_round)), (seed, path.mtus, search.result)
        right += mtu == path.mtu(outcome.seconds) and search.result.exact
    assert right >= share * RUNS


@pytest.mark.parametrize("fault", ["10 % loss", "answers after their round", "30 % loss", "a policer"])
def test_seldom_sure_of_less_than_passes(fault: str) -> None:
    """A path that is not what a search calls exact: at most one in 200 runs."""
    make, _ = FAULTS[fault]
    wrong = 0
    for seed in range(RUNS):
        path = make(random.Random(f"{fault} {seed}"))
        search = Search(576, 1501)
        drive(search, path)
        assert search.result is not None
        wrong += search.result.exact and search.result.mtu != path.mtu(0)
    assert wrong <= RUNS / 200


def test_a_policer_beside_tcp() -> None:
    """TCP segments of the size in force still arrive: the MTU stays, however many probes the policer drops."""
    for seed in range(200):
        policer = Policer(packet=1400)
        path = Path([(0, 1400)], policer=policer, chance=random.Random(seed))
        search = Search(576, 1501, likely=[1400])

        def acknowledge(now: float, policer: Policer = policer, search: Search = search) -> None:
            if policer.last_passed is not None and now - policer.last_passed < 1:
                search.on_passed(1400, now)

        drive(search, path, watch=acknowledge)
        assert search.result is not None
        assert search.result.mtu is not None
        assert search.result.mtu >= 1400


def test_a_path_that_shrinks_is_found_in_one_search() -> None:
    for at in (0.0, 0.05, 0.15, 0.2):
        search = Search(576, 1501)
        drive(search, Path([(0, 1492), (at, 1400)]))
        assert search.result is not None
        assert (search.result.mtu, search.result.exact) == (1400, True)


# -- ends


def test_nobody_there() -> None:
    search, outcome = run(0)
    assert search.result is not None
    assert (search.result.verdict, search.result.mtu) == (Verdict.AWAY, None)
    assert search.result.text == "nothing answered, not even 576 bytes sent 5 times"
    assert outcome.seconds == pytest.approx(0.2 + 0.4 + 0.8 + 0.04)
    assert search.next_deadline() is None
    assert search.probes_to_send(outcome.seconds + 60) == []


def test_it_goes_away_in_the_middle() -> None:
    search = Search(576, 1501)
    drive(search, Path([(0, 1400), (0.15, 0)]))
    assert search.result is not None
    assert search.result.verdict is Verdict.AWAY


def test_evidence_in_words() -> None:
    search, _ = run(1400)
    assert search.result is not None
    assert search.result.text == "1400 answered in 12 ms; 1401 lost three times beside it"
    assert search.rounds[0].text == "576, 1280, 1320, 1358 and 1400 answered; 1420, 1450, 1480, 1492 and 1500 lost once"
    assert search.rounds[1].text == "1400 answered; 1404, 1408, 1412 and 1416 lost once; 1401 lost three times"
    whole, _ = run(1500)
    assert whole.result is not None
    assert whole.result.text == "1500 answered in 12 ms; this machine sends nothing larger there"


def test_a_larger_answer_outweighs_a_smaller_loss() -> None:
    search = Search(576, 1501)
    search.start(0)
    for probe in search.probes_to_send(0):
        if probe.size in (576, 1500):
            search.on_answer(probe.number, 0.01)
    assert search.result is not None
    assert (search.result.mtu, search.result.exact) == (1500, True)


def test_an_answer_after_the_end_counts_in_favour() -> None:
    search = Search(576, 1501)
    search.start(0)
    first = search.probes_to_send(0)
    answered = {probe.size: probe.number for probe in first}
    for size in (576, 1280, 1320, 1358, 1400):
        search.on_answer(answered[size], 0.012)
    now = 0.0
    while not search.done:
        now = search.next_deadline() or now
        for probe in search.probes_to_send(now):
            if probe.size <= 1400:
                search.on_answer(probe.number, now + 0.012)
        search.on_timeout(now)
    assert search.result is not None
    assert search.result.mtu == 1400
    assert search.on_answer(answered[1420], now + 0.5)
    assert (search.result.mtu, search.result.exact) == (1420, False)


def test_foreign_and_repeated_answers() -> None:
    search = Search(576, 1501)
    search.start(0)
    number = search.probes_to_send(0)[-1].number
    assert not search.on_answer(4711, 0.01)
    assert search.on_answer(number, 0.01)
    assert not search.on_answer(number, 0.02)
    assert search.floor == 576


def test_the_machine_refuses() -> None:
    """EMSGSIZE: the ceiling comes down at once, and the largest that may be sent is tried."""
    search = Search(576, 9001)
    search.start(0)
    assert search.probes_to_send(0)[0].size == 9000
    search.on_refused(1441, 0)
    more = search.probes_to_send(0)
    assert [probe.size for probe in more] == [1440]
    search.on_answer(more[0].number, 0.01)
    assert search.result is not None
    assert (search.result.mtu, search.result.exact) == (1440, True)


def test_what_was_not_sent_is_not_lost() -> None:
    search = Search(576, 1501)
    search.start(0)
    now = 0.0
    while not search.done:
        for probe in search.probes_to_send(now):
            if probe.size > 1400:
                search.on_not_sent(probe.number)
            else:
                search.on_answer(probe.number, now + 0.01)
        now = search.next_deadline() or now
        search.on_timeout(now)
    assert search.result is not None
    assert (search.result.mtu, search.result.exact) == (1400, False)


def test_no_size_at_all() -> None:
    with pytest.raises(ValueError, match="no size from 1500 up to 1400"):
        Search(1500, 1401)


# -- a size in force


def begun(in_force: int, floor: int = 576) -> tuple[Search, dict[int, int]]:
    """A search with its first burst sent; the numbers of its probes by size."""
    search = Search(floor, 1501, in_force=in_force)
    search.start(0.0)
    return search, {probe.size: probe.number for probe in search.probes_to_send(0.0)}


@pytest.mark.parametrize("in_force", [1500, 1412, 576])
def test_three_copies_of_the_size_in_force(in_force: int) -> None:
    """In the first round, 20 ms apart: so one burst of loss does not take them all."""
    search, first = begun(in_force)
    assert in_force in first
    assert search.next_deadline() == pytest.approx(0.02)
    assert search.probes_to_send(0.019) == []
    assert [probe.size for probe in search.probes_to_send(0.021)] == [in_force]
    assert [probe.size for probe in search.probes_to_send(0.041)] == [in_force]
    assert search.next_deadline() == pytest.approx(0.241)


def test_a_fall_is_told_with_the_first_round() -> None:
    """After one timeout, long before the search ends: in time for TCP's first retransmissions."""
    search = Search(576, 1501, in_force=1500)
    when: list[float] = []
    outcome = drive(search, Path([(0, 1400)]), watch=lambda now: when.append(now) if search.fallen else None)
    assert search.fallen == 1400
    assert when[0] <= 0.25 < outcome.seconds
    assert search.rounds[0].text == (
        "576, 1280, 1358 and 1400 answered; 1420, 1450, 1480 and 1492 lost once; 1500 lost three times"
    )


def test_a_round_trip_known_before_makes_patience() -> None:
    """A satellite's answers are waited for; else the first round ends before they come, and much is sent twice."""
    knowing, guessing = Search(576, 1501, in_force=1400, rtt=0.6), Search(576, 1501, in_force=1400)
    known = drive(knowing, Path([(0, 1400)], delay=0.6))
    guessed = drive(guessing, Path([(0, 1400)], delay=0.6))
    assert (knowing.fallen, guessing.fallen) == (None, None)
    assert knowing.rounds[0].answered[1400] == pytest.approx(0.6)
    assert len(known.sent) < len(guessed.sent)


@pytest.mark.parametrize("copies", [1, 2])
def test_two_losses_are_no_fall(copies: int) -> None:
    """Whichever copy is answered."""
    search, first = begun(1500)
    search.on_answer(first[1400], 0.012)
    late = [probe.number for at in (0.021, 0.041) for probe in search.probes_to_send(at)]
    search.on_answer(late[copies - 1], 0.06)
    search.on_timeout(0.3)
    assert search.fallen is None


def test_three_losses_beside_nothing_are_no_fall() -> None:
    search = Search(576, 1501, in_force=1400)
    drive(search, Path([(0, 0)]))
    assert search.fallen is None
    assert search.result is not None
    assert search.result.verdict is Verdict.AWAY


def test_on_a_lossy_path_the_search_goes_on_to_be_sure() -> None:
    search, first = begun(1500)
    search.on_answer(first[1400], 0.012)
    search.on_answer(first[1280], 0.012)  # but not 1358, which passes as well
    for at in (0.021, 0.041):
        search.probes_to_send(at)
    search.on_answer(first[576], 0.1)
    search.on_timeout(0.3)
    assert search.rounds[0].lost[1358] == 1
    assert search.fallen is None


def test_what_tcp_was_seen_to_carry_does_not_fall() -> None:
    search, first = begun(1400)
    search.on_answer(first[1358], 0.012)
    for at in (0.021, 0.041):
        search.probes_to_send(at)
    search.on_passed(1400, 0.1)
    search.on_timeout(0.3)
    assert search.fallen is None


def test_a_size_in_force_that_no_packet_has_is_no_matter() -> None:
    """As when the device's MTU has changed: what is padded is not this size."""
    search = Search(516, 1421, overhead=60, as_sent=partial(wireguard_padded, device_mtu=1420), in_force=1380)
    drive(search, Path([(0, 1340)]))
    assert search.fallen is None
    assert search.result is not None
    assert search.result.mtu == 1328


@pytest.mark.parametrize(("in_force", "most"), [(1500, 25), (1400, 25), (1280, 25), (1337, 28)])
def test_every_path_mtu_with_a_size_in_force(in_force: int, most: int) -> None:
    """It falls exactly where it must, to what passes; three copies of it take the place of a rung, or cost probes."""
    for mtu in range(1280, 1501):
        search = Search(1280, 1501, in_force=in_force)
        outcome = drive(search, Path([(0, mtu)]))
        assert search.result is not None
        assert (search.result.mtu, search.result.exact) == (mtu, True)
        assert (search.fallen is not None) == (mtu < in_force)
        assert search.fallen is None or search.fallen <= mtu
        assert len(search.rounds) <= TARGET_ROUNDS
        assert len(outcome.sent) <= most
        sizes = iter(outcome.sizes)
        for each in search.rounds:
            assert sum(itertools.islice(sizes, each.probes)) <= ROUND_BYTES


@pytest.mark.parametrize("version", [4, 6])
def test_every_path_mtu_through_wireguard_with_a_size_in_force(version: IpVersion) -> None:
    overhead = wireguard_overhead(version)
    as_sent = partial(wireguard_padded, device_mtu=1420)
    for path_mtu in range(1280, 1501, 3):
        right = wireguard_peer_mtu(path_mtu, 1420, version)
        for in_force in (1420, 1328, 1200):
            search = Search(576 - overhead, 1421, overhead=overhead, as_sent=as_sent, in_force=in_force)
            outcome = drive(search, Path([(0, path_mtu - overhead)]))
            assert search.result is not None
            assert (search.result.mtu, search.result.exact) == (right, True)
            assert (search.fallen is not None) == (right < in_force)
            assert len(search.rounds) <= TARGET_ROUNDS
            assert len(outcome.sent) <= TARGET_PROBES


def test_jumbo_frames_in_force() -> None:
    """Three copies alone are over the budget of a round; without rungs beside them it would fall to the floor."""
    search = Search(576, 9001, in_force=9000)
    outcome = drive(search, Path([(0, 1500)]))
    assert outcome.sizes[:8] == [9000, 1500, 1492, 1420, 1400, 1280, 576, 9000]
    assert search.fallen == 1500
    assert search.result is not None
    assert (search.result.mtu, search.result.exact) == (1500, True)


FALLS = {
    **dict.fromkeys(FAULTS, 0.02),
    "a policer": 0.0,
    "reordering and duplicates": 0.0,
    "a satellite": 0.0,
    "30 % loss": 0.04,
    "all of them": 0.04,
}
"""The share of runs that may fall from a size that passes: three packets of one size, and no other, were lost."""


@pytest.mark.parametrize("fault", FALLS)
def test_what_a_fall_names_passes(fault: str) -> None:
    """Whatever the path does; and from a size that passes all the time it falls seldom."""
    make, _ = FAULTS[fault]
    wrong = fallen = 0
    for seed in range(RUNS):
        chance = random.Random(f"in force, {fault} {seed}")
        path = make(chance)
        in_force = chance.choice((1500, 1400, path.mtu(0)))
        search = Search(576, 1501, in_force=in_force)
        outcome = drive(search, path)
        assert search.result is not None
        if search.fallen is not None:
            fallen += 1
            assert search.fallen < in_force
            assert search.fallen <= max(path.mtu(at) for at, _ in outcome.sent), (seed, path.mtus, search.fallen)
            wrong += in_force <= min(path.mtu(at) for at, _ in outcome.sent)
    assert fallen > RUNS / 10
    assert wrong <= FALLS[fault] * RUNS
