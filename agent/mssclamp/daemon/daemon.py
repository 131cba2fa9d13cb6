"""The daemon's state and what may be done to it: configuration, table, modes and store over one reconciler.

Every change ends in `reconcile()`, which looks at what there is and makes it what it should be.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

from mssclamp import __version__
from mssclamp.config import Config
from mssclamp.control import protocol
from mssclamp.daemon import clock, facts, snapshot
from mssclamp.daemon.discovery import Discovery
from mssclamp.daemon.events import EventLog
from mssclamp.daemon.finder import Finder
from mssclamp.daemon.hands import Hands
from mssclamp.daemon.policy import Policy
from mssclamp.daemon.reconcile import Rates, Reconciler, Row, Wanted
from mssclamp.daemon.resolve import Resolved, resolve
from mssclamp.daemon.routes import Goals, RouteKeeper
from mssclamp.daemon.shadow import Hook, Sample, ShadowWatch
from mssclamp.daemon.stalled import Segment
from mssclamp.daemon.underlay import Underlay, carriers, endpoint, nested
from mssclamp.datapath import abi
from mssclamp.datapath.attach import HOOKS, Tc
from mssclamp.datapath.links import Link
from mssclamp.errors import ConflictError, DatapathError, NotFoundError
from mssclamp.pmtu.modes import EVERY_DEVICE, NEVER, Mode, Modes, scopes_text
from mssclamp.pmtu.routes import RoutePeer
from mssclamp.pmtu.table import Address, Change, Peer, PeerFacts, Table
from mssclamp.probe.engine import Chose, Engine
from mssclamp.store.database import Store
from mssclamp.wire.mtu import mss_for_mtu

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTENDANCE = 15 * 10**9
"""Nanoseconds after our last sign of life until the programs do without us."""

_TRAFFIC = 1024
"""Bytes to and from a WireGuard peer between two looks at it, above which it is not only keeping its session."""

_NAMED = 8
"""Peers named in one sentence at most."""


class Daemon:
    """All of it but sockets and signals.

    `load_config` reads the configuration again for `reload()`; `post` has a call made in the daemon's thread.
    """

    def __init__(
        self,
        config: Config,
        load_config: Callable[[], Config],
        store: Store,
        tc: Tc,
        post: Callable[[Callable[[], None]], object],
        discovery: Discovery | None = None,
        underlay: Underlay | None = None,
    ) -> None:
        self._policy = Policy(config, Modes(store.modes(), store.trials(clock.boot_id())), store.detached())
        self._load_config = load_config
        self._store = store
        self._tc = tc
        self._discovery = discovery or Discovery()
        self._misfits: list[str] = []  # sentences about peers
        self._reconciler = Reconciler(tc, lambda event: post(lambda: self._on_event(event)))
        self._table = Table({peer: mtu for peer, (mtu, _) in store.pins().items()}, store.learned())
        self._underlay = underlay or Underlay()
        self._hands = Hands(self._policy, self._reconciler, self._discovery, self._underlay, store)
        self._engine = Engine(
            lambda news: (
                None  # whom it probes is told at the end too
                if isinstance(news, Chose)
                else post(lambda: self._finder.on_news(news, clock.boot(), clock.unix()))
            ),
            self._reconciler.allow_prober,
            self._reconciler.forget_prober,
            config.rate.probes,
        )
        self._finder = Finder(self._table, self._engine, self, self._hands, config.mtu.recheck, config.mtu.raise_)
        self._traffic: dict[str, int] = {}  # bytes to and from a peer, as told last
        self._readings = 0
        self._links: dict[str, Link] = {}
        self._managed: list[str] = []
        self._shadows = ShadowWatch()
        self._goal: Wanted | None = None  # None: to be derived again
        self._moved: dict[str, str] = {}  # peers whose path is another one now, and why
        self._routes = RouteKeeper(store)
        self._route_goals: Goals = {}
        self._problems: dict[str, str] = {}
        self._loading_failed: str | None = None
        self._began = clock.boot_ns()
        self.events = EventLog(clock.unix())

    def start(self) -> None:
        """Adopts what an earlier daemon left, and makes it what it should be."""
        for sentence in self._policy.config.not_yet:
            log.warning("%s", sentence)
        self._reconciler.adopt()
        self.reconcile()

    def close(self) -> None:
        """Stops; what is attached stays in force."""
        self._engine.close()
        self._reconciler.attend(0)
        self._reconciler.close()

    # -- the one direction: from what is wanted to the kernel ---------------------------------------------

    def reconcile(self) -> None:
        """Looks at the devices, works out what should be, writes it. Never raises for what the kernel refuses."""
        self._reach_goal()
        # Only now: where the programs do not see a probe leave, fragments would count as proof.
        moved, self._moved = self._moved, {}
        for peer_id, why in moved.items():
            if peer_id in self._table.peers:
                self._finder.on_other_path(self._table.peers[peer_id], why, clock.boot(), clock.unix())

    def _reach_goal(self) -> None:
        self._reconciler.attend(clock.boot_ns() + _ATTENDANCE)
        self._expire_trials()
        links = {link.name: link for link in self._tc.links()}
        # Not of the links alone: a user-space WireGuard's API socket, by which we know it, comes after its device.
        managed = [link.name for link in links.values() if self._policy.manages(link)]
        changed = links != self._links or managed != self._managed
        self._links, self._managed = links, managed  # also where equal: the links' packet counts are newer
        self._hands.links = links
        if self._discover() or changed or self._goal is None:
            self._goal = self._derive_goal()
        goal = self._goal
        self._routes.apply(self._route_goals, self._links, clock.boot_ns() / 1e9)
        try:
            outcome = self._reconciler.apply(goal, self._links, clock.boot_ns() / 1e9)
        except DatapathError as error:
            if self._loading_failed != str(error):
                log.error("%s", error)
            self._loading_failed = str(error)
            return
        self._loading_failed = None
        for device in outcome.attached:
            log.info("attached to %s", device)
            self._event("device-attached", details={"device": device})
        for device in outcome.restored:
            log.warning("%s: somebody had taken clampd's filters off; they are on again", device)
            self._event("device-attached", details={"device": device, "why": "somebody had taken the filters off"})
        for device in outcome.detached:
            log.info("no longer attached to %s", device)
            self._event("device-detached", details={"device": device})
        for device, problem in outcome.problems.items():
            if self._problems.get(device) != problem:
                log.warning("%s", problem)
        self._problems = dict(outcome.problems)
        self._watch_shadows(self._links.values())

    def _derive_goal(self) -> Wanted:
        """What the kernel's half should be, from everything that has a say in it."""
        gathered = facts.gather(self._policy.config, self._links, self._discovery.peers)
        for sentence in gathered.problems:
            if sentence not in self._misfits:
                log.warning("%s", sentence)
        self._misfits = gathered.problems
        self._update_table(gathered.facts)
        devices = [name for name in self._managed if not self._policy.is_detached(name)]
        self._route_goals = self._derive_route_goals(devices)
        peers = [peer for peer in self._table.peers.values() if peer.facts.device in devices]
        carrying = carriers(peers, self._underlay, self._links.values(), self._policy)
        return Wanted(
            self._rows(set(devices)),
            devices,
            self._rates(),
            stay_loaded=not self._policy.detached,
            underlay=sorted({name for _, names in carrying for name in names}),
            endpoints=dict(endpoint(peer, self._links[peer.facts.device], self._policy) for peer, _ in carrying),
            large_gap=self._policy.config.mtu.recheck,
            expects_answers=any(
                self._policy.may_answer(peer) and self._policy.enforce_until(peer)
                for peer in self._table.peers.values()
            ),
        )

    def _update_table(self, found: Sequence[PeerFacts]) -> None:
        """Takes what is said about peers; those whose path is another one now are looked at."""
        mtus = {link.name: link.mtu for link in self._links.values()}
        before = {peer_id: (peer.facts.outer, self._table.limit(peer)) for peer_id, peer in self._table.peers.items()}
        self._table.min_outer = self._policy.config.mtu.min_outer
        self._tell(self._table.update(found, mtus, clock.unix()))
        self._finder.update(self._policy.config.mtu.recheck, self._policy.config.mtu.raise_)
        self._look_at_underlay()
        within = nested(
            self._table.peers.values(), self._underlay, {link.name: link.index for link in self._links.values()}
        )
        if within != self._table.within:
            self._table.within = within
            self._tell(self._table.revalue(clock.unix()))
        for peer_id, peer in self._table.peers.items():
            outer, limit = peer.facts.outer, self._table.limit(peer)
            if peer_id not in before or outer is None:
                continue
            old_outer, old_limit = before[peer_id]
            if old_outer is not None and old_outer != outer:
                self._path_changed(peer, f"its endpoint is {peer.facts.endpoint} now")
            elif old_limit not in (None, limit):
                self._path_changed(peer, f"the MTU of {peer.facts.device} is {limit} now")

    def _look_at_underlay(self) -> bool:
        """Asks for the ways to all endpoints; peers whose way is another one now are looked at. Whether any is."""
        peers = [peer for peer in self._table.peers.values() if peer.facts.outer is not None]
        outers = [peer.facts.outer for peer in peers if peer.facts.outer is not None]
        moved = self._underlay.look(outers, self._links.values(), clock.boot())
        for peer, outer in zip(peers, outers, strict=True):
            if (outer.address, outer.mark) in moved:
                self._path_changed(peer, f"packets to {outer.address} leave by another way now")
        return bool(moved)

    def _path_changed(self, peer: Peer, why: str) -> None:
        self._moved[peer.facts.id] = why

    def look_at_peers(self) -> None:
        """Asks WireGuard's devices for their peers if it is time to, and acts if something became different."""
        self._reconciler.attend(clock.boot_ns() + _ATTENDANCE)
        managed = [name for name, link in self._links.items() if self._policy.manages(link)]
        moved = self._underlay.is_due(clock.boot()) and self._look_at_underlay()
        if managed != self._managed or self._discover() or moved:
            self._changed_goal()
        if self._discovery.readings != self._readings:
            self._readings = self._discovery.readings
            self._look_for_traffic()
        now, unix = clock.boot(), clock.unix()
        for change in self._table.expire_hints(unix):
            self.act(self._table.peers[change.peer], [change])
        self._finder.tick(now, unix)

    def _look_for_traffic(self) -> None:
        """The first packets to and from a WireGuard peer are a reason to find out what fits."""
        for peer in self._table.peers.values():
            if peer.learned is not None:
                continue
            told = self._discovery.peer(peer.facts.device, facts.public_key(peer.facts))
            if told is None:
                continue
            total = told.received + told.sent
            before = self._traffic.get(peer.facts.id, total)
            self._traffic[peer.facts.id] = total
            if total - before >= _TRAFFIC:
                self._finder.on_traffic(peer, clock.boot(), clock.unix())

    def _discover(self) -> bool:
        return self._discovery.look(self._links[name] for name in self._managed if self._links[name].is_wireguard)

    def _changed_goal(self) -> None:
        """Somebody said something: derive the goal anew, and reach it."""
        self._goal = None
        self.reconcile()

    @property
    def has_problems(self) -> bool:
        """Whether trying again may help."""
        return bool(self._problems or self._loading_failed)

    @property
    def routed_devices(self) -> frozenset[int]:
        """ifindexes of the devices whose routes concern us."""
        return self._routes.followed

    def seconds_to_deadline(self) -> float | None:
        """How long until a trial ends."""
        deadline = self._policy.modes.next_deadline()
        return None if deadline is None else max(0.0, (deadline - clock.boot_ns()) / 1e9)

    def _rows(self, devices: set[str]) -> dict[str, Row]:
        return {peer_id: self._row(peer, devices) for peer_id, peer in self._table.peers.items()}

    def _row(self, peer: Peer, devices: Container[str]) -> Row:
        facts, mtu = peer.facts, peer.value.mtu
        if facts.device not in devices or mtu is None:
            return Row(peer=facts.id)
        return Row(
            peer=facts.id,
            ifindex=self._links[facts.device].index,
            prefixes=facts.prefixes,
            mtu=mtu,
            mss4=mss_for_mtu(mtu, 4),
            mss6=mss_for_mtu(mtu, 6),
            enforce_until=self._policy.enforce_until(peer),
            clamp=self._policy.clamps(peer),
            answer=self._policy.answers(peer),
        )

    def _derive_route_goals(self, devices: Sequence[str]) -> Goals:
        """Who may be written into routes: peers with evidence that are enforced now."""
        goals: dict[str, list[RoutePeer]] = {name: [] for name in devices if self._policy.writes_routes(name)}
        for peer in self._table.peers.values():
            if peer.facts.device in goals:
                acts = peer.value.has_evidence and self._policy.is_enforced(peer)
                mtu = peer.value.mtu if acts else None
                goals[peer.facts.device].append(RoutePeer(peer.facts.name, peer.facts.prefixes, mtu))
        return {name: tuple(peers) for name, peers in goals.items()}

    def _watch_shadows(self, links: Iterable[Link]) -> None:
        samples: dict[tuple[int, Hook], Sample] = {}
        for link in links:
            if self._reconciler.is_attached(link.name):
                moved: dict[Hook, int] = {"ingress": link.received, "egress": link.sent}
                for hook, packets in moved.items():
                    seen = self._reconciler.packets_seen(link, egress=hook == "egress")
                    samples[link.index, hook] = Sample(packets, seen)
        self._shadows.look(clock.boot_ns() / 1e9, samples)

    def _rates(self) -> Rates:
        rate = self._policy.config.rate
        return Rates(rate.too_big_per_flow, rate.too_big_per_sender, rate.too_big_per_peer)

    def _expire_trials(self) -> None:
        deadline = self._policy.modes.next_deadline()
        now = clock.boot_ns()
        if deadline is None or deadline > now:
            return
        self._goal = None
        for scope in self._change_modes(lambda modes: modes.expire(now)):
            log.warning("the trial on %s is over: what held before holds again", scopes_text([scope]))
            device = _device(scope)
            mode = self._policy.mode() if device is None else self._policy.device_mode(device)
            self._event("mode-changed", details={"device": device, "mode": mode, "why": "the trial is over"})

    # -- what can be asked ----------------------------------------------------------------------------------

    def peers(
        self, device: str | None, state: str | None, limit: int | None, after: str | None
    ) -> protocol.PeersDocument:
        """The table, in the order of ids; `limit` rows after the id `after`."""
        chosen = [
            peer
            for peer_id, peer in sorted(self._table.peers.items())
            if device in (None, peer.facts.device)
            and state in (None, peer.value.state)
            and (after is None or peer_id > after)
        ]
        page = chosen if limit is None else chosen[:limit]
        cut = page[-1].facts.id if page and len(page) < len(chosen) else None
        return protocol.PeersDocument(peers=[self._peer(peer) for peer in page], next=cut)

    def peer(self, reference: str, device: str | None) -> protocol.PeerDocument:
        """One peer with its evidence; for an address also what packets meet."""
        found = self.resolve(reference, device)
        return protocol.PeerDocument(
            peer=self._peer(found.peer, with_evidence=True),
            address=snapshot.address_document(
                found,
                enforced=self._policy.is_enforced(found.peer),
                clamped=self._policy.clamps(found.peer),
                answered=self._policy.answers(found.peer),
            ),
        )

    def resolve(self, reference: str, device: str | None) -> Resolved:
        """The peer that a reference means."""
        names = {link.index: link.name for link in self._links.values()}

        def route(address: Address) -> str | None:
            return names.get(self._tc.route_to(str(address)) or 0)

        return resolve(reference, device, self._table.peers, route)

    def status(self) -> protocol.Status:
        """Everything in one screen."""
        self._watch_shadows(self._tc.links())
        states: dict[str, int] = {}
        for peer in self._table.peers.values():
            states[peer.value.state] = states.get(peer.value.state, 0) + 1
        now = clock.boot_ns()
        problems = [self._loading_failed] if self._loading_failed else []
        return protocol.Status(
            version=__version__,
            pid=os.getpid(),
            mode=self._policy.mode(),
            uptime=round((now - self._began) / 1e9, 1),
            devices=self._devices(),
            peers=states,
            detached=sorted(self._policy.detached),
            trials=[
                protocol.Trial(
                    device=_device(scope),
                    until=snapshot.instant(clock.unix() + (until - now) / 1e9),
                    seconds_left=round(max(0, until - now) / 1e9, 1),
                )
                for scope, until in sorted(self._policy.modes.trials.items())
            ],
            reasons={reason.name.lower(): count for reason, count in self._reconciler.reasons().items()},
            problems=problems + self._misfits + list(self._routes.problems) + list(self._policy.config.not_yet),
        )

    # -- what can be done -----------------------------------------------------------------------------------

    def pin(self, reference: str, device: str | None, mtu: int) -> protocol.PeerDocument:
        """Puts the operator's value in force and keeps it."""
        peer = self.resolve(reference, device).peer
        self._table.check_pin(peer, mtu)
        self._store.set_pin(peer.facts.id, mtu, clock.unix())
        self._tell(self._table.pin(peer, mtu, clock.unix()))
        return self._changed(peer)

    def unpin(self, reference: str, device: str | None) -> protocol.PeerDocument:
        """Drops clampctl's pin."""
        peer = self.resolve(reference, device).peer
        if peer.pin is None:
            raise ConflictError(
                f"{peer.facts.id} is not pinned by clampctl",
                fix="its mtu stands in the configuration" if peer.facts.mtu is not None else None,
            )
        self._store.set_pin(peer.facts.id, None, clock.unix())
        self._tell(self._table.unpin(peer, clock.unix()))
        return self._changed(peer)

    def probe(self, reference: str, device: str | None) -> protocol.PeerDocument:
        """Begins a search; its rounds are events. Raises ConflictError where the peer cannot be probed."""
        peer = self.resolve(reference, device).peer
        self._finder.probe(peer, clock.unix())
        return protocol.PeerDocument(peer=self._peer(peer, with_evidence=True))

    def forget(self, reference: str, device: str | None) -> protocol.PeerDocument:
        """Drops what was learned, and begins a search if that may be."""
        peer = self.resolve(reference, device).peer
        self._finder.forget(peer, clock.boot(), clock.unix())
        return protocol.PeerDocument(peer=self._peer(peer, with_evidence=True))

    def set_mode(self, mode: Mode, device: str | None, seconds: float | None) -> protocol.Done:
        """Enforces or observes, one device or all, for good or for a time."""
        self._require_device(device)
        where = device or "all devices"
        if seconds is not None:
            until = clock.boot_ns() + int(seconds * 1e9)
            self._change_modes(lambda modes: modes.start_trial(device, until))
            text = f"{where}: enforcing for {seconds:g} s, then as before unless `clampctl confirm` follows"
        else:
            self._change_modes(lambda modes: modes.set(mode, device))
            text = f"{where}: {'enforcing' if mode == 'enforce' else 'observing'}"
        self._event("mode-changed", details={"device": device, "mode": mode, "why": "clampctl", "seconds": seconds})
        self._changed_goal()
        kept = [
            peer.facts.name
            for peer in self._table.peers.values()
            if mode == "enforce" and device in (None, peer.facts.device) and self._policy.enforce_until(peer) == NEVER
        ]
        if kept:
            more = f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
            names = ", ".join(sorted(kept)[:_NAMED])
            text += f"; still observed, as was said of them or of their device alone: {names}{more}"
        return protocol.Done(text=text, problems=self._all_problems())

    def confirm(self) -> protocol.Done:
        """Makes the trials under way permanent."""
        self._expire_trials()
        scopes = self._change_modes(lambda modes: modes.confirm(clock.boot_ns()))
        for scope in scopes:
            self._event("mode-changed", details={"device": _device(scope), "mode": "enforce", "why": "confirmed"})
        self._changed_goal()
        return protocol.Done(text=f"{scopes_text(scopes)}: enforcing for good", problems=self._all_problems())

    def attach(self, device: str | None) -> protocol.Done:
        """Lets clampd back on what `detach` kept it off."""
        self._require_device(device)
        if device is not None and EVERY_DEVICE in self._policy.detached:
            raise ConflictError(
                "clampd is detached from everything", fix="`clampctl attach` lets it back, then detach the rest"
            )
        self._store.set_detached(device or EVERY_DEVICE, False)
        self._policy.detached = self._store.detached()
        self._reconciler.forgive(self._links[device].index if device is not None and device in self._links else None)
        self._changed_goal()
        attached = [
            name for name in sorted(self._links) if self._reconciler.is_attached(name) and device in (None, name)
        ]
        text = f"attached: {', '.join(attached)}" if attached else "kept off no longer; nothing to attach to now"
        return protocol.Done(text=text, problems=self._all_problems())

    def detach(self, device: str | None) -> protocol.Done:
        """Takes the programs off and keeps them off, over restarts too."""
        self._require_device(device)
        before = {name for name in self._links if self._reconciler.is_attached(name)}
        self._store.set_detached(device or EVERY_DEVICE, True)
        self._policy.detached = self._store.detached()
        self._changed_goal()
        gone = sorted(name for name in before if not self._reconciler.is_attached(name))
        text = f"detached: {', '.join(gone)}" if gone else "nothing was attached"
        return protocol.Done(
            text=f"{text}; kept off until `clampctl attach{f' {device}' if device else ''}`",
            problems=list(self._routes.problems),
        )

    def reload(self) -> protocol.Done:
        """Reads the configuration again. Raises ConfigError and leaves everything as it was if it is bad."""
        fresh = self._load_config()
        restart = [
            key
            for key in ("run_dir", "state_dir", "metrics_listen")
            if getattr(fresh, key) != getattr(self._policy.config, key)
        ]
        self._policy.config = fresh
        self._engine.set_rate(fresh.rate.probes)
        self._changed_goal()
        for sentence in fresh.not_yet:
            log.warning("%s", sentence)
        text = "the configuration was read again"
        if restart:
            text += f"; {', '.join(restart)} take effect when clampd starts again"
        log.info("%s", text)
        return protocol.Done(text=text, problems=self._all_problems())

    # -- what the kernel tells ------------------------------------------------------------------------------

    def _on_event(self, event: abi.Event) -> None:
        peer = self._table.peers.get(self._reconciler.peer_at(event.peer) or "")
        if peer is None:  # forgotten meanwhile
            return
        now, unix = clock.boot(), clock.unix()
        head = bytes(event.head)[: event.head_length]
        segment = Segment(event.ifindex, event.family, event.size, event.link, head)
        details = {"size": event.size, "mtu": event.mtu, "family": event.family}
        match abi.EventKind(event.kind):
            case abi.EventKind.OVERSIZE:
                self._event("hint", peer.facts.id, {"hint": "oversize"} | details)
                self._finder.on_large(peer, segment, now, unix)
            case abi.EventKind.OVERSIZE_DF_CLEAR:
                self._event("hint", peer.facts.id, {"hint": "oversize-df-clear"} | details)
                self._finder.on_large(peer, segment, now, unix)
            case abi.EventKind.SUPPRESSED:
                self._event("suppressed", peer.facts.id, {"why": "over the rate limit of answers"} | details)
            case abi.EventKind.LARGE:
                self._finder.on_large(peer, segment, now, unix)
            case abi.EventKind.RESENT:
                self._event("hint", peer.facts.id, {"hint": "resent"} | details)
                self._finder.on_resent(peer, segment, now, unix)
            case abi.EventKind.UNDERLAY_ICMP:
                self._on_underlay_icmp(peer, segment, event.mtu, bool(event.flags & abi.EVENT_SEEN))

    def _on_underlay_icmp(self, peer: Peer, message: Segment, quoted: int, seen: bool) -> None:
        """A "too big" about an outer packet of `quoted` bytes. `message.size`: the MTU that it names."""
        named = message.size
        details = {"hint": "icmp", "from": str(message.source), "mtu": named, "size": quoted, "proven": seen}
        room = max(named, self._policy.config.mtu.min_outer) - (peer.facts.overhead or 0)
        if not 0 < named < quoted or peer.facts.overhead is None or room <= 0:
            # RFC 1191, section 5: very old routers name none; and no message may raise anything.
            peer.tally.hints += 1
            peer.tally.hints_refuted += 1
            self._event("hint", peer.facts.id, details | {"refuted": True})
            return
        self._event("hint", peer.facts.id, details)
        limit = self._table.limit(peer) or room
        size = next(size for size in range(room, 0, -1) if peer.facts.as_sent(size, limit) <= room)
        self._finder.on_too_big(peer, size, seen, clock.boot(), clock.unix())

    # -- what the finder asks of us -------------------------------------------------------------------------

    def act(self, peer: Peer, changes: Sequence[Change]) -> None:
        """Puts the peer's value in force at once, then tells."""
        if self._goal is not None and peer.facts.id in self._goal.rows:
            row = self._row(peer, self._goal.devices)
            self._goal.rows[peer.facts.id] = row
            try:
                self._reconciler.put(row)
                self._put_endpoint(peer, self._goal)
            except DatapathError as error:
                log.error("%s", error)
                self._goal = None
        self._tell(changes)
        if changes and (self._policy.writes_routes(peer.facts.device) or self._table.within):
            self._tell(self._table.revalue(clock.unix()))
            self._changed_goal()

    def _put_endpoint(self, peer: Peer, goal: Wanted) -> None:
        """Whether ICMP about it is taken depends on what is known of it."""
        link = self._links.get(peer.facts.device)
        if peer.facts.outer is None or link is None:
            return
        key, value = endpoint(peer, link, self._policy)
        if goal.endpoints.get(key, ("",))[0] == peer.facts.id:
            goal.endpoints[key] = value
            self._reconciler.put_endpoint(key, value)

    def tell(self, event: protocol.EventName, peer: str, details: Mapping[str, object]) -> None:
        """An event."""
        self._event(event, peer, details)

    # -- small print ----------------------------------------------------------------------------------------

    def _changed(self, peer: Peer) -> protocol.PeerDocument:
        self._changed_goal()
        return protocol.PeerDocument(peer=self._peer(peer, with_evidence=True))

    def _peer(self, peer: Peer, *, with_evidence: bool = False) -> protocol.Peer:
        counters = self._reconciler.counters(peer.facts.id)
        told = self._discovery.peer(peer.facts.device, facts.public_key(peer.facts))
        return snapshot.peer_document(
            peer,
            counters,
            self._policy.is_enforced(peer),
            last_handshake=None if told is None else told.last_handshake,
            with_evidence=with_evidence,
        )

    def _devices(self) -> list[protocol.Device]:
        named = {peer.facts.device for peer in self._table.peers.values()}
        present = {link.name: link for link in self._links.values() if self._policy.manages(link)}
        managed = [self._device_document(name, present.get(name)) for name in sorted(named | set(present))]
        carrying = [
            self._device_document(link.name, link, role="underlay")
            for link in sorted(self._links.values(), key=lambda link: link.name)
            if self._reconciler.carries(link.name) and link.name not in present
        ]
        return managed + carrying

    def _device_document(
        self, name: str, link: Link | None, role: Literal["managed", "underlay"] = "managed"
    ) -> protocol.Device:
        mode = self._policy.device_mode(name)
        if link is None:
            return protocol.Device(
                name=name, kind="", mtu=None, mode=mode, attached=False, problem="there is no such device now"
            )
        problem = self._problems.get(name) or self._discovery.problems.get(name)
        if problem is None and self._policy.is_detached(name):
            problem = "kept off by `clampctl detach`"
        shadowed = [hook for hook in HOOKS if self._shadows.is_shadowed(link.index, hook)]
        if problem is None and shadowed:
            problem = (
                f"shadowed on {' and '.join(shadowed)}: its packets go past clampd's program (hardware offload, or a "
                "foreign filter before it)"
            )
        attached = self._reconciler.is_attached(name) if role == "managed" else self._reconciler.carries(name)
        programs = [snapshot.program(each, each.hook in shadowed) for each in self._reconciler.filters(link)]
        return protocol.Device(
            name=name,
            kind=link.kind or "device",
            mtu=link.mtu,
            mode=mode,
            role=role,
            attached=attached,
            programs=programs,
            problem=problem,
        )

    def _require_device(self, device: str | None) -> None:
        if device is None or device in self._links or device in {p.facts.device for p in self._table.peers.values()}:
            return
        raise NotFoundError(
            f"there is no device {device!r}", fix=f"clampd knows {', '.join(sorted(self._managed_names())) or 'none'}"
        )

    def _managed_names(self) -> Sequence[str]:
        return [device.name for device in self._devices()]

    def _all_problems(self) -> list[str]:
        failed = [self._loading_failed] if self._loading_failed else []
        return [*failed, *self._problems.values(), *self._routes.problems]

    def _change_modes(self, change: Callable[[Modes], T]) -> T:
        """Changes the modes, but only if they can be kept."""
        fresh = Modes(dict(self._policy.modes.chosen), dict(self._policy.modes.trials))
        result = change(fresh)
        self._store.replace_modes(fresh.chosen, fresh.trials, clock.boot_id())
        self._policy.modes = fresh
        return result

    def _tell(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._event(change.event, change.peer, change.details)

    def _event(
        self, event: protocol.EventName, peer: str | None = None, details: Mapping[str, object] | None = None
    ) -> None:
        self.events.add(snapshot.instant(clock.unix()), event, peer, details)


def _device(scope: str) -> str | None:
    return None if scope == EVERY_DEVICE else scope
