"""What the programs see of one peer's packets, for the prober's thread: whether outer packets leave whole, and whether
large segments are acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from mssclamp.daemon import clock
from mssclamp.datapath import abi
from mssclamp.pmtu.table import Outer

if TYPE_CHECKING:
    from mssclamp.daemon.reconcile import Reconciler


def key_of(outer: Outer) -> abi.EndpointKey:
    """As the kernel's map has it."""
    return abi.endpoint_key(outer.address, outer.port, outer.protocol)


class OuterWatch:
    """`probe.order.Outer` for one endpoint. Where the programs are gone, nothing can be told.

    Several peers may have one endpoint (two devices, or tunnels told apart by a key): a length is under probe as long
    as one of them has it so.
    """

    def __init__(self, reconciler: Reconciler, key: abi.EndpointKey) -> None:
        self._reconciler = reconciler
        self._key = key
        self._before: dict[int, int] = {}  # by length: what had left whole when we came

    def open(self, lengths: Collection[int]) -> None:
        """Outer packets of these lengths are probes from now on."""
        with self._reconciler.held() as instance:
            if instance is None:
                return
            users = self._reconciler.under_probe(self._key)
            for length in lengths:
                if not users[length]:
                    instance.open_length(self._key, length)
                self._before[length] = instance.left_whole(self._key, length)
                users[length] += 1
            instance.set_probing(self._key, probing=True)

    def close(self, lengths: Collection[int]) -> None:
        """They are no longer."""
        with self._reconciler.held() as instance:
            users = self._reconciler.under_probe(self._key)
            closed = [length for length in lengths if self._before.pop(length, None) is not None]
            users.subtract(closed)
            if instance is None:
                return
            if not +users:
                instance.set_probing(self._key, probing=False)
            for length in closed:
                if not users[length]:
                    instance.close_length(self._key, length)

    def whole(self, length: int) -> int | None:
        """How many probes of this outer length left whole since it was opened."""
        with self._reconciler.held() as instance:
            if instance is None:
                return None
            return instance.left_whole(self._key, length) - self._before.get(length, 0)

    def fragments(self) -> int | None:
        """How many packets left to this endpoint in fragments, ever."""
        with self._reconciler.held() as instance:
            return None if instance is None else instance.fragments(self._key)


class SegmentWatch:
    """`probe.order.Segments` for one peer. `as_sent`: from a packet's size to the one that it has on its way."""

    def __init__(self, reconciler: Reconciler, peer: str, as_sent: Callable[[int], int]) -> None:
        self._reconciler = reconciler
        self._peer = peer
        self._as_sent = as_sent

    def begin(self) -> None:
        """Segments that are sent from now on count."""
        self._reconciler.suspect(self._peer, clock.boot_ns())

    def end(self) -> None:
        """None counts any more."""
        self._reconciler.suspect(self._peer, 0)

    def passed(self) -> int | None:
        """The largest size that was acknowledged since, bytes."""
        size = self._reconciler.acked(self._peer)
        return self._as_sent(size) if size else None
