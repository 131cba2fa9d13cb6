"""What the finder has done about one peer: asked of devices, of the kernel, of the store."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from mssclamp.daemon import clock, facts
from mssclamp.daemon.discovery import Discovery
from mssclamp.daemon.finder import Obstacle
from mssclamp.daemon.outer import OuterWatch, SegmentWatch, key_of
from mssclamp.daemon.policy import Policy
from mssclamp.daemon.reconcile import Reconciler
from mssclamp.daemon.stalled import Segment
from mssclamp.daemon.underlay import Underlay
from mssclamp.datapath.answers import order_answer
from mssclamp.datapath.links import Link
from mssclamp.errors import StoreError
from mssclamp.pmtu.table import Peer
from mssclamp.store.database import Store
from mssclamp.wire.mtu import IPV6_MIN_MTU

log = logging.getLogger(__name__)

SESSION = 180.0
"""Seconds after its handshake for which a WireGuard session lives (REJECT_AFTER_TIME of the white paper, section 6.1):
a packet after that causes a handshake."""


class Hands:
    """Everything of `finder.Host` but `act` and `tell`, which are the daemon's own."""

    def __init__(
        self, policy: Policy, reconciler: Reconciler, discovery: Discovery, underlay: Underlay, store: Store
    ) -> None:
        self._policy = policy
        self._reconciler = reconciler
        self._discovery = discovery
        self._underlay = underlay
        self._store = store
        self.links: Mapping[str, Link] = {}
        """The devices as they were last, by name."""

    def keep(self, peer: Peer) -> None:
        """What was learned is to outlive a restart."""
        try:
            self._store.set_learned(peer.facts.id, peer.learned)
        except StoreError as error:
            log.error("%s", error)

    def obstacle(self, peer: Peer) -> Obstacle | None:
        """Why the peer must not be probed now, if so."""
        device = peer.facts.device
        if not peer.facts.probe:
            return Obstacle("its [[peer]] says probe = false")
        if not self._policy.probes(device):
            return Obstacle(f"the [[device]] of {device} says probe = false")
        if self._policy.is_detached(device):
            return Obstacle(f"clampd is kept off {device}", f"`clampctl attach {device}`")
        return None

    def is_asleep(self, peer: Peer) -> bool:
        """Whether a packet to it would cause a WireGuard handshake; asks again where what is known is too old."""
        link = self.links.get(peer.facts.device)
        if link is None or not link.is_wireguard or self._has_session(peer):
            return False
        self._discovery.refresh(link.name)
        return not self._has_session(peer)

    def _has_session(self, peer: Peer) -> bool:
        told = self._discovery.holder(peer.facts.device, facts.public_key(peer.facts), peer.facts.prefixes)
        if told is None or told.last_handshake is None:
            return False
        return 0 <= clock.unix() - told.last_handshake <= SESSION  # below 0: somebody has set the clock

    def large_packets(self, peer: Peer) -> int:
        """How many went to it so far."""
        return int(self._reconciler.counters(peer.facts.id).large)

    def outer(self, peer: Peer) -> OuterWatch | None:
        """Who sees its outer packets leave; None unless all devices that may carry them have our programs."""
        way = None if peer.facts.outer is None else self._underlay.way(peer.facts.outer)
        if peer.facts.outer is None or way is None or not way.devices:
            return None
        key = key_of(peer.facts.outer)
        carrying = {link.index for link in self.links.values() if self._reconciler.carries(link.name)}
        if not way.devices <= carrying or not self._reconciler.knows(key):
            return None
        return OuterWatch(self._reconciler, key)

    def room(self, peer: Peer) -> int | None:
        """The largest outer packet that this machine's own devices carry to the peer's endpoint, bytes."""
        way = None if peer.facts.outer is None else self._underlay.way(peer.facts.outer)
        return None if way is None else way.mtu

    def segments(self, peer: Peer) -> SegmentWatch:
        """Who sees its large segments acknowledged."""
        link = self.links.get(peer.facts.device)
        return SegmentWatch(
            self._reconciler,
            peer.facts.id,
            lambda size: size if link is None else peer.facts.as_sent(size, link.mtu),
        )

    def answer_stalled(self, peer: Peer, segments: Sequence[Segment]) -> None:
        """Tells the senders of these segments what the peer's MTU is now."""
        if peer.value.mtu is None or not self._policy.answers(peer) or not self._policy.is_enforced(peer):
            return
        for segment in segments:
            mtu = peer.value.mtu if segment.family == 4 else max(peer.value.mtu, IPV6_MIN_MTU)
            if segment.size > mtu:
                try:
                    order_answer(segment.ifindex, segment.family, segment.size, segment.link, segment.head, mtu)
                except OSError as error:  # the pair is away for the moment: they will hear at their next packet
                    log.debug("no answer for a stalled flow: %s", error)
