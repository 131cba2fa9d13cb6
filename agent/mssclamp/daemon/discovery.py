"""WireGuard's peers, found by asking: which there are, and what became of them since.

No event tells of a peer that comes, goes, gets other AllowedIPs or moves to another endpoint, so the devices are asked
again and again; where they have many peers, seldom.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from mssclamp.daemon import clock
from mssclamp.datapath.links import Link
from mssclamp.datapath.wireguard import Peers, read_peers
from mssclamp.errors import DatapathError
from mssclamp.wire.wireguard import Network, WireGuardPeer

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between two readings of a device."""

_MANY_PEERS = 200
_INTERVAL_OF_MANY = 30.0
"""The same where this namespace has more peers than that."""

_PATIENCE = 1.0
"""Seconds that all devices together have for their answers: meanwhile the daemon does nothing else."""

_LONGEST_PAUSE = 64.0
"""Seconds until a device that does not tell its peers is asked again; before, twice as many from failure to failure."""


class Discovery:
    """The peers of the WireGuard devices of this namespace, as they were told last."""

    def __init__(self, read: Callable[[Link, float], Peers] = read_peers) -> None:
        """`read` asks a device, with the seconds that it has; raises DatapathError."""
        self._read = read
        self._links: dict[str, Link] = {}
        self._next: dict[str, float] = {}  # device: when to ask again
        self._asked: dict[str, float] = {}
        self._pause: dict[str, float] = {}  # device: how long after the last failure
        self.peers: dict[str, Peers] = {}
        """By device. One that has failed to answer keeps what it told before."""
        self.problems: dict[str, str] = {}
        """By device."""
        self._has_news = False
        self.readings = 0
        """How often a device was asked."""

    def look(self, links: Iterable[Link]) -> bool:
        """Asks those devices whose time has come, or that are new or different.

        Returns whether there is anything new: traffic and handshakes are not.
        """
        wanted = {link.name: link for link in links}
        known = dict(self.peers)
        for name, old in self._links.items():
            if wanted.get(name) != old:
                self._next.pop(name, None)
                self._pause.pop(name, None)
            if name not in wanted or wanted[name].index != old.index:
                self.peers.pop(name, None)
                self.problems.pop(name, None)
        self._links = wanted
        began = _now()
        for link in wanted.values():
            patience = began + _PATIENCE - _now()
            if began >= self._next.get(link.name, began) and patience > 0:  # else next time: who used it up pauses then
                self._ask(link, patience)
        news, self._has_news = self._has_news, False
        return news or self.peers != known

    def refresh(self, device: str) -> None:
        """Asks one device out of turn, though not twice in a second; `look` tells if there is anything new.

        One that has failed to answer has to wait for its turn: it may hold everybody up.
        """
        link = self._links.get(device)
        if link is None or device in self._pause or _now() - self._asked.get(device, float("-inf")) < 1:
            return
        known = self.peers.get(device)
        self._ask(link, _PATIENCE)
        self._has_news = self._has_news or self.peers.get(device) != known

    def peer(self, device: str, public_key: bytes | None) -> WireGuardPeer | None:
        """What was last told of a peer; None of one that has no key."""
        return None if public_key is None else self.peers.get(device, {}).get(public_key)

    def holder(self, device: str, public_key: bytes | None, prefixes: Sequence[Network]) -> WireGuardPeer | None:
        """What was last told of a peer: by its key or, if it is declared without one, by what its AllowedIPs hold."""
        if public_key is not None:
            return self.peer(device, public_key)
        held = (
            (network.prefixlen, index, each)
            for index, each in enumerate(self.peers.get(device, {}).values())
            for network in each.allowed
            if prefixes and network.version == prefixes[0].version and prefixes[0].network_address in network
        )
        return max(held, default=(0, 0, None))[2]

    def _ask(self, link: Link, patience: float) -> None:
        self._asked[link.name] = _now()
        self.readings += 1
        try:
            self.peers[link.name] = self._read(link, patience)
        except DatapathError as error:
            pause = min(2 * self._pause.get(link.name, INTERVAL / 2), _LONGEST_PAUSE)
            self._next[link.name], self._pause[link.name] = _now() + pause, pause
            if self.problems.get(link.name) != str(error):
                log.warning("%s", error)
            self.problems[link.name] = str(error)
            return
        if self.problems.pop(link.name, None) is not None:
            log.info("%s: its peers are told again", link.name)
        self._pause.pop(link.name, None)
        many = sum(map(len, self.peers.values())) > _MANY_PEERS
        self._next[link.name] = _now() + (_INTERVAL_OF_MANY if many else INTERVAL)


def _now() -> float:
    return clock.boot_ns() / 1e9
