"""The search for the largest packet that passes: which sizes to try, and what their answers and losses prove.

PURE: the time comes in, sizes to send go out. Driven by three kinds of events: an answer, a timer, and what the machine
itself refuses to send. The owner sends what `probes_to_send` returns, keeps one timer for `next_deadline`, and reads
`result` once it is there.

How it goes (RFC 8899, section 5.3, with several sizes at once):

- Round 1 is a ladder of MTUs that occur in the world. What is lost once beside something answered bounds the next
  round, no more: later rounds split what is left evenly, until a size that passes and one that was lost are neighbours.
- The neighbour must then be lost three times, with the size that passes answered, all in one round. So whatever is
  settled on passed in the last round, even if the path changed during the search.
- Largest first: what a policer or a full queue drops is the end of a burst, and those are the sizes that need no answer
  where a larger one has its own.
- An answer always counts for its size and all smaller ones, however late. A loss counts only if nothing larger passes.
- A proof that nobody answers, not even at the size that passed before, means that the path changed: the search begins
  again. If nobody answers the ladder either, the peer is away, and nothing is known of its path.
- A path that lost a size which passes is lossy: losses of larger sizes are then doubted, so they are tried again, more
  losses are asked for, and probes no longer leave in one burst.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count

from mssclamp.pmtu.constants import (
    COPY_GAP,
    LADDER,
    LOSSY_LOSSES,
    LOSSY_WITNESSES,
    MAX_PROBES,
    MAX_ROUNDS,
    MAX_SECONDS,
    ROUND_BYTES,
    TARGET_PROBES,
    TARGET_ROUNDS,
)
from mssclamp.pmtu.round_trip import RoundTrip

_PROOF = 3
"""Probes of a proof without loss: two more copies of the size that was lost once, and one of the size that passes."""


class Verdict(Enum):
    """How a search ended."""

    EXACT = "exact"
    """The next larger size does not pass, or the device takes none."""
    INEXACT = "inexact"
    """Time or rounds ran out: what passes is known, whether more would is not."""
    AWAY = "away"
    """Nothing answered: no word about the path."""
    DOUBT = "doubt"
    """The one probe of a check was lost (`Check`): time for a search."""


@dataclass(frozen=True)
class Probe:
    """One packet to send. `number` is what `on_answer` wants back; `size`: the IP packet, bytes."""

    number: int
    size: int


@dataclass(frozen=True)
class Result:
    """What a search found. `mtu`: the largest size proven (None: AWAY); `ceiling`: the smallest known not to pass."""

    verdict: Verdict
    mtu: int | None
    ceiling: int | None
    text: str

    @property
    def exact(self) -> bool:
        """Whether nothing larger than `mtu` passes."""
        return self.verdict is Verdict.EXACT


@dataclass(frozen=True)
class Round:
    """What became of one round so far: sizes with their first round trip (seconds), and sizes with their losses."""

    number: int
    answered: dict[int, float]
    lost: dict[int, int]
    probes: int

    @property
    def text(self) -> str:
        """In words: "1280 and 1400 answered; 1420 lost"."""
        parts = []
        if self.answered:
            parts.append(f"{listed(sorted(self.answered))} answered")
        by_times: dict[int, list[int]] = {}
        for size, losses in sorted(self.lost.items()):
            by_times.setdefault(losses, []).append(size)
        parts += [f"{listed(sizes)} lost {_times(losses)}" for losses, sizes in sorted(by_times.items())]
        return "; ".join(parts) or "nothing decided"


@dataclass
class _Sent:
    """A probe on its way, or what became of it."""

    number: int
    size: int
    round: int
    at: float
    answered: float | None = None
    lost: bool = False


@dataclass
class _Wave:
    """Probes that one timer waits for: those still to be sent (when, size), and when the last one was."""

    waiting: list[tuple[float, int]] = field(default_factory=list)
    last: float = 0.0
    largest: int = 0


class Search:
    """One search between `floor`, a size worth trying first of all, and `ceiling`, the smallest that cannot pass.

    Sizes are inner IP packets. `overhead` is what the tunnel adds (for the ladder, whose MTUs are outer ones),
    `as_sent` the size to which the tunnel pads a packet: only sizes that stay as they are get tried. `likely` are inner
    sizes to try in the first round besides the ladder, for instance one that an ICMP message named. `in_force` is the
    size that people rely on: the first round holds as many copies of it as a proof takes, so that `fallen` tells soon
    that it passes no more. `rtt`: seconds, as measured before.
    """

    def __init__(
        self,
        floor: int,
        ceiling: int,
        *,
        overhead: int = 0,
        as_sent: Callable[[int], int] = lambda size: size,
        likely: Iterable[int] = (),
        in_force: int | None = None,
        rtt: float | None = None,
    ) -> None:
        self._sizes = sorted({size for size in map(as_sent, range(floor, ceiling)) if size < ceiling})
        if not self._sizes:
            raise ValueError(f"no size from {floor} up to {ceiling - 1}")
        self._in_force = in_force if in_force in self._sizes else None
        self._likely = (*likely, *([] if self._in_force is None else [self._in_force]))
        self._rungs = tuple(rung - overhead for rung in LADDER)
        self._sent: list[_Sent] = []
        self._numbers = count()
        self._passed: list[tuple[int, float]] = []
        self._wave = _Wave()
        self._round = self._first_round = 0
        self._began = self._restarted = self._round_began = 0.0
        self._knocks = 0
        self.round_trip = RoundTrip(rtt)
        self.result: Result | None = None
        self.fallen: int | None = None
        """What to fall back to, bytes, as soon as the size in force was lost three times in a round that a smaller one
        answered. None where the path is lossy, and the search must go on to be sure."""

    # what the owner calls

    def start(self, now: float) -> None:
        """Begins with the ladder."""
        self._began = now
        self._climb(now)

    def probes_to_send(self, now: float) -> list[Probe]:
        """What is due, in the order in which to send it."""
        due = [] if self.result else [size for at, size in self._wave.waiting if at <= now]
        self._wave.waiting = [later for later in self._wave.waiting if later[0] > now]
        sent = [_Sent(next(self._numbers), size, self._round, now) for size in due]
        self._sent += sent
        if sent:
            self._wave.last = now
        return [Probe(each.number, each.size) for each in sent]

    def on_answer(self, number: int, now: float) -> bool:
        """The probe of this number was answered; False if it is none of ours or was answered before."""
        sent = next((each for each in self._sent if each.number == number), None)
        if sent is None or sent.answered is not None:
            return False
        sent.answered = now
        self.round_trip.on_sample(now - sent.at)
        self._on_proof(sent.size, now)
        return True

    def on_passed(self, size: int, now: float) -> None:
        """Something else proves that this size passes now: a TCP segment of that size was acknowledged."""
        self._passed.append((size, now))
        self._on_proof(size, now)

    def on_refused(self, ceiling: int, now: float) -> None:
        """This machine sends nothing of `ceiling` bytes or more: the kernel's word about a device or route."""
        if self.result:
            return
        self._sizes = self._sizes[: bisect_left(self._sizes, ceiling)] or [min(self._sizes[0], ceiling - 1)]
        top = self._sizes[-1]
        self._sent = [each for each in self._sent if each.size <= top]
        self._wave.waiting = [later for later in self._wave.waiting if later[1] <= top]
        if not any(each.size == top for each in self._sent) and all(size != top for _, size in self._wave.waiting):
            self._wave.waiting.append((now, top))
        self._wave.largest = min(self._wave.largest, top)

    def on_not_sent(self, number: int) -> None:
        """The probe did not leave this machine: it says nothing either way."""
        self._sent = [each for each in self._sent if each.number != number]

    def next_deadline(self) -> float | None:
        """When to call `probes_to_send` or `on_timeout` next; None once there is a result."""
        if self.result:
            return None
        waiting = min((at for at, _ in self._wave.waiting), default=self._wave.last + self.round_trip.timeout)
        return min(waiting, self._began + MAX_SECONDS)

    def on_timeout(self, now: float) -> None:
        """Judges what is overdue, and goes on."""
        if self.result:
            return
        if now >= self._began + MAX_SECONDS:
            self._give_up(f"{MAX_SECONDS:.0f} s")
            return
        if self._wave.waiting or now < self._wave.last + self.round_trip.timeout:
            return
        for each in self._sent:
            each.lost = each.lost or (each.answered is None and now >= each.at + self.round_trip.timeout)
        if self.fallen is None:
            self.fallen = self._fall()
        self._go_on(now)

    # what was found so far

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.result is not None

    @property
    def floor(self) -> int | None:
        """The largest size proven since the search last began, bytes."""
        answered = (each.size for each in self._sent if each.answered is not None and each.answered >= self._restarted)
        passed = (size for size, at in self._passed if at >= self._restarted)
        return max((*answered, *passed), default=None)

    @property
    def probes(self) -> int:
        """Packets sent so far."""
        return len(self._sent)

    @property
    def rounds(self) -> list[Round]:
        """The rounds so far, the last of them perhaps still under way."""
        return [self._told(number) for number in range(1, self._round + 1)]

    # how it goes on

    def _on_proof(self, size: int, now: float) -> None:
        if self.result:
            if self.result.mtu is None or size > self.result.mtu:
                self.result = Result(Verdict.INEXACT, size, None, f"{size} answered after the search had ended")
        elif size >= self._wave.largest and (self._wave.largest or size >= self._sizes[-1]):
            self._go_on(now)  # the largest size under way: the others have nothing to add

    def _fall(self) -> int | None:
        floor = self.floor
        if self._in_force is None or floor is None or floor >= self._in_force or self._is_lossy(floor):
            return None
        here = [each for each in self._sent if each.round == self._round]
        lost = sum(each.lost for each in here if each.size == self._in_force)
        return floor if lost >= MAX_PROBES and any(each.answered is not None for each in here) else None

    def _go_on(self, now: float) -> None:
        floor = self.floor
        if floor is None:
            self._knock(now)
        elif floor >= self._sizes[-1]:
            text = f"{self._answered_text(floor)}; this machine sends nothing larger there"
            self.result = Result(Verdict.EXACT, floor, None, text)
        else:
            bound = self._bound(floor)
            between = self._between(floor, bound)
            if between:
                splits = self._splits(between, bound is None)
                self._begin_round([*splits, *self._doubtful(floor, ROUND_BYTES - sum(splits))], now)
            elif bound is not None:
                self._settle(floor, bound, now)

    def _climb(self, now: float) -> None:
        """The ladder, at the beginning and when the path has changed."""
        self._first_round, self._restarted, self._knocks = self._round, now, 1
        chosen = {self._sizes[0], self._sizes[-1]}
        copies = [] if self._in_force is None else [self._in_force] * (MAX_PROBES - 1)
        room = ROUND_BYTES - sum(copies)
        if self._in_force is not None and sum(chosen) > room:
            room = sum(chosen) + ROUND_BYTES // 2  # without rungs, who falls from a jumbo frame would fall to the floor
        for rung in (*self._likely, *self._rungs):
            at = bisect_right(self._sizes, rung) - 1
            if at < 0 or sum(chosen | {self._sizes[at]}) > room:
                continue
            # Where padding leaves few sizes, a neighbour of one that is tried anyway can wait.
            if rung in self._likely or chosen.isdisjoint(self._sizes[max(0, at - 1) : at + 2]):
                chosen.add(self._sizes[at])
        self._begin_round(chosen, now)
        self._wave.waiting += [(now + (i + 1) * COPY_GAP, size) for i, size in enumerate(copies)]

    def _knock(self, now: float) -> None:
        """Nothing has been answered: try the smallest size again, with more patience each time."""
        if self._knocks == MAX_PROBES:
            asked = sum(each.size == self._sizes[0] for each in self._recent())
            text = f"nothing answered, not even {self._sizes[0]} bytes sent {_times(asked)}"
            self.result = Result(Verdict.AWAY, None, None, text)
            return
        self._knocks += 1
        self.round_trip.on_silence()
        copies = [(now + i * COPY_GAP, self._sizes[0]) for i in range(2)]
        self._wave = _Wave(copies, now, self._wave.largest)

    def _settle(self, floor: int, bound: int, now: float) -> None:
        """Between `floor` and `bound` nothing is left to try: is `bound` lost for good, and does `floor` still pass?"""
        here = [each for each in self._sent if each.round == self._round]
        lost = sum(each.lost for each in here if each.size == bound)
        witnesses = [each for each in here if each.size == floor]
        seen = any(each.answered is not None for each in witnesses) or any(
            size >= floor and at >= self._round_began for size, at in self._passed
        )
        lossy = self._is_lossy(floor)
        needed = LOSSY_LOSSES if lossy else MAX_PROBES
        if lost >= needed and seen:
            text = f"{self._answered_text(floor)}; {bound} lost {_times(lost)} beside it"
            self.result = Result(Verdict.EXACT, floor, bound, text)
        elif lost >= needed and witnesses:
            self._climb(now)
        else:
            beside = 0 if seen else LOSSY_WITNESSES if lossy else 1
            self._send_proof(bound, needed - lost, floor, beside, now)

    def _send_proof(self, bound: int, copies: int, floor: int, beside: int, now: float) -> None:
        used = sum(each.size for each in self._sent if each.round == self._round)
        if used + copies * bound + beside * floor > ROUND_BYTES and used:
            lossy = self._is_lossy(floor)
            copies, beside = (LOSSY_LOSSES, LOSSY_WITNESSES) if lossy else (MAX_PROBES, 1)
            if not self._open_round(now):
                return
        # The smaller size between and after the last copies: the later it is seen to pass, the less the path can have
        # changed since; and not together with them, or a full queue drops just the second of two packets.
        ticks = max(copies, beside)
        due = [(now + tick * COPY_GAP, bound) for tick in range(copies)]
        due += [(now + (tick + 0.5) * COPY_GAP, floor) for tick in range(ticks - beside, ticks)]
        self._wave = _Wave(sorted(due), now, bound)

    def _begin_round(self, sizes: Iterable[int], now: float) -> None:
        if self._open_round(now):
            ordered = sorted(set(sizes), reverse=True)
            floor = self.floor
            gap = COPY_GAP if floor is not None and self._is_lossy(floor) else 0.0
            self._wave = _Wave([(now + i * gap, size) for i, size in enumerate(ordered)], now, ordered[0])

    def _open_round(self, now: float) -> bool:
        if self._round == MAX_ROUNDS:
            self._give_up(f"{MAX_ROUNDS} rounds")
            return False
        self._round += 1
        self._round_began = now
        return True

    def _splits(self, between: Sequence[int], unbounded: bool) -> list[int]:
        """Sizes for the next round: even splits, as few as will end the search in time.

        The smallest one joins them where the budget has room (or, after the ladder, is too small anyway): then a path
        whose MTU stands on the ladder, as most do, is settled in this very round. `unbounded`: the largest size
        was never tried.
        """
        done = self._round - self._first_round
        for rounds in count(max(1, TARGET_ROUNDS - done)):
            parts = _parts(len(between) + 1, rounds)
            chosen = _evenly(between, parts)
            if parts == 2 or sum(chosen) <= ROUND_BYTES:
                break
        fewer = _parts(len(between), rounds)
        while fewer > 2 and between[0] + sum(_evenly(between[1:], fewer)) > ROUND_BYTES:
            fewer -= 1
        beside = [between[0], *_evenly(between[1:], fewer)]
        expected = self.probes + 1 + (fewer - 1) * rounds + _PROOF
        affordable = expected <= TARGET_PROBES or (done == 1 and done + rounds > TARGET_ROUNDS)
        if rounds > 1 and affordable and sum(beside) <= ROUND_BYTES:
            chosen = beside
        return sorted({*chosen, between[-1]} if unbounded else chosen)

    def _bound(self, floor: int) -> int | None:
        """The smallest size above `floor` that was lost."""
        return min((each.size for each in self._recent() if each.lost and each.size > floor), default=None)

    def _doubtful(self, floor: int, room: int) -> list[int]:
        """Sizes above `floor` whose loss may mean nothing, since a size was lost that passes; at most `room` bytes."""
        if not self._is_lossy(floor):
            return []
        first, *others = sorted({each.size for each in self._recent() if each.lost and each.size > floor}) or [0]
        chosen: list[int] = []
        for size in (first, *reversed(others)):
            if size and sum(chosen) + size <= room:
                chosen.append(size)
        return chosen

    def _between(self, floor: int, bound: int | None) -> list[int]:
        end = len(self._sizes) if bound is None else bisect_left(self._sizes, bound)
        return self._sizes[bisect_right(self._sizes, floor) : end]

    def _is_lossy(self, floor: int) -> bool:
        """Whether a size was lost that passes."""
        return any(each.lost and each.answered is None and each.size <= floor for each in self._recent())

    def _recent(self) -> list[_Sent]:
        return [each for each in self._sent if each.round > self._first_round]

    def _give_up(self, after: str) -> None:
        floor = self.floor
        if floor is None:
            self.result = Result(Verdict.AWAY, None, None, f"nothing answered in {after}")
            return
        bound = self._bound(floor)
        more = f"{bound} was lost, but not often enough to be sure" if bound else "larger sizes were not tried"
        text = f"{self._answered_text(floor)}; {more} when the search ended after {after}"
        self.result = Result(Verdict.INEXACT, floor, bound, text)

    # in words

    def _told(self, number: int) -> Round:
        answered: dict[int, float] = {}
        lost: dict[int, int] = {}
        here = [each for each in self._sent if each.round == number]
        for each in here:
            if each.answered is not None:
                answered.setdefault(each.size, each.answered - each.at)
            elif each.lost:
                lost[each.size] = lost.get(each.size, 0) + 1
        return Round(number, answered, {size: times for size, times in lost.items() if size not in answered}, len(here))

    def _answered_text(self, size: int) -> str:
        trips = [each.answered - each.at for each in self._sent if each.size == size and each.answered is not None]
        return f"{size} answered in {milliseconds(trips[-1])}" if trips else f"{size} was seen to pass"


def listed(sizes: Sequence[int]) -> str:
    """Sizes as one says them: "1420, 1440 and 1492"."""
    *most, last = map(str, sizes)
    return f"{', '.join(most)} and {last}" if most else last


def milliseconds(seconds: float) -> str:
    """A round trip: "12 ms", "0.31 ms"."""
    value = seconds * 1000
    return f"{value:.0f} ms" if value >= 10 else f"{value:.2g} ms"


def _times(number: int) -> str:
    return {1: "once", 2: "twice", 3: "three times"}.get(number, f"{number} times")


def _parts(outcomes: int, rounds: int) -> int:
    """Into how many parts each of `rounds` rounds must divide so many outcomes to tell them all apart."""
    return next(parts for parts in count(2) if parts**rounds >= outcomes)


def _evenly(sizes: Sequence[int], parts: int) -> list[int]:
    """Those of `sizes` that divide what may be the answer (just below the first, or any of them) into equal parts."""
    outcomes = len(sizes) + 1
    return sorted({sizes[i * outcomes // parts - 1] for i in range(1, parts) if i * outcomes // parts})
