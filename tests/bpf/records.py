"""What comes out of the programs' ring buffer."""

from __future__ import annotations

import time
from collections.abc import Callable

from mssclamp.datapath import abi
from mssclamp.datapath.instance import Instance
from mssclamp.datapath.ring import RingReader

QUIET = 0.05
"""Seconds without a record after which no more are expected; they come within a millisecond."""


class Records:
    """Collects events until they are asked for."""

    def __init__(self, instance: Instance) -> None:
        self._records: list[abi.Event] = []
        self._reader = RingReader(
            instance.maps["clampd_events"], lambda raw: self._records.append(abi.Event.from_buffer_copy(raw))
        )
        self.settled()

    def close(self) -> None:
        """Ends the reader's thread."""
        self._reader.close()

    def settled(self, *kinds: abi.EventKind) -> list[abi.Event]:
        """All since the last time, once no more come; of these kinds, or of all."""
        seen = -1
        while seen != len(self._records):
            seen = len(self._records)
            time.sleep(QUIET)
        records, self._records[:] = list(self._records), []
        return [record for record in records if not kinds or record.kind in kinds]

    def after(self, action: Callable[[], object], *kinds: abi.EventKind) -> list[abi.Event]:
        """Those that an action causes."""
        self.settled()
        action()
        return self.settled(*kinds)


def head(event: abi.Event) -> bytes:
    """The packet's first bytes that an event carries."""
    return bytes(event.head)[: event.head_length]
