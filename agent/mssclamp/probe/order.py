"""What the engine is asked to do, and what it tells.

Sizes are inner IP packets in bytes unless they are called outer, times are seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from mssclamp.pmtu.check import Check
from mssclamp.pmtu.search import Result, Round, Search
from mssclamp.pmtu.table import Address

Method = Literal["echo", "tcp"]


class Outer(Protocol):
    """What the underlay's egress program sees of the probes' outer packets. Called in the engine's thread."""

    def open(self, lengths: Collection[int]) -> None:
        """Outer packets of these lengths are probes from now on."""

    def close(self, lengths: Collection[int]) -> None:
        """They are no longer."""

    def whole(self, length: int) -> int | None:
        """How many probes of this outer length left whole since it was opened; None if that cannot be told."""

    def fragments(self) -> int | None:
        """How many fragments left to this endpoint, ever; None if that cannot be told."""


class Segments(Protocol):
    """What is seen of the peer's own TCP traffic. Called in the engine's thread."""

    def begin(self) -> None:
        """Segments that are sent from now on count."""

    def end(self) -> None:
        """None counts any more."""

    def passed(self) -> int | None:
        """The largest size that was acknowledged since."""


@dataclass(frozen=True)
class Order:
    """One peer's path to be looked at by `make()`'s search or check, through `device`.

    `addresses`: inner ones that may answer, the best first. `outer_length`: from a probe's size to that of the packet
    that carries it. `outer`, `segments`: None where nobody watches. `urgent`: before all others, and at once.
    `tcp`: may TCP be tried? `through_tunnel`: an ICMP "too big" that quotes a probe proves that it came out at the far
    end.
    """

    peer: str
    device: str
    addresses: tuple[Address, ...]
    make: Callable[[], Search | Check]
    outer_length: Callable[[int], int]
    outer: Outer | None
    segments: Segments | None = None
    urgent: bool = False
    tcp: bool = False
    through_tunnel: bool = False


@dataclass(frozen=True)
class Chose:
    """A search begins. `rtt`: of the small probe that chose the address; None where it answered another time."""

    order: Order
    address: Address
    method: Method
    rtt: float | None


@dataclass(frozen=True)
class RoundEnded:
    """One round is over (they count from 1 again where a search had to begin again)."""

    order: Order
    round: Round


@dataclass(frozen=True)
class Fell:
    """The size in force passes no more, `size` does; the search goes on."""

    order: Order
    size: int
    text: str


@dataclass(frozen=True)
class Ended:
    """The last word about an order.

    `result` is None where nothing was learned: no address ever answered, this machine cannot send, or the probes left
    it in a way that proves nothing (then `held` says how). `text` says in words what is so. `rtt`: the smallest seen.
    `rounds` and `probes`: all of them.
    """

    order: Order
    result: Result | None
    rtt: float | None
    address: Address | None
    method: Method | None
    rounds: int
    probes: int
    held: str | None
    text: str


News = Chose | RoundEnded | Fell | Ended
