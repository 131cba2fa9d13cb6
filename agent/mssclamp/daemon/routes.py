"""Keeps `route_mtu`: brings the routes of devices to what is wanted, and remembers in the store what was written.

The order makes it exact over any crash: what is going to be written is kept first, then the route is changed, then
what no longer stands anywhere is forgotten. So a route with our MTU in it is always known as ours, and anything else is
somebody's own.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyroute2 import IPRoute

from mssclamp.daemon import clock
from mssclamp.datapath.links import Link, list_links
from mssclamp.datapath.routes import RouteSocket
from mssclamp.errors import DatapathError, StoreError
from mssclamp.pmtu.routes import Change, RoutePeer, Written, contested, listed, plan, route_text
from mssclamp.store.database import Store
from mssclamp.wire.route import Route, parse

log = logging.getLogger(__name__)

Goals = Mapping[str, tuple[RoutePeer, ...]]
"""The peers of each device that has `route_mtu` on, by the device's name."""

_WRITES = 3
_WINDOW = 60.0
"""So many times in so many seconds we write into a route whose MTU somebody takes out again; then we wait."""

_FAILURES = (DatapathError, StoreError, OSError, ValueError)
"""What keeps us from one device, and must not keep us from the next."""


@dataclass
class Report:
    """What one look at the devices did and what stood in the way, for people."""

    changed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Settled:
    """How a device was when there was nothing left to do, as a digest of routes and goals; and its problems."""

    digest: int
    problems: tuple[str, ...]


class RouteKeeper:
    """Writes MTUs into routes and takes them out again."""

    def __init__(self, store: Store) -> None:
        self._records = _Records(store)
        self._settled: dict[str, _Settled] = {}
        self._writes: dict[bytes, list[float]] = {}
        self.problems: tuple[str, ...] = ()
        """What stands in the way now, for people."""
        self.followed: frozenset[int] = frozenset()
        """ifindexes of the devices whose routes concern us."""

    def apply(self, goals: Goals, links: Mapping[str, Link], now: float) -> None:
        """Makes it so, and undoes what is wanted no more; `now`: seconds. What does not work is in `problems`."""
        report = Report()
        try:
            self._records.forget_devices_but({link.index for link in links.values()})
        except StoreError as error:
            report.problems.append(str(error))
        devices = [link for name, link in links.items() if name in goals or self._records.of(link.index)]
        self.followed = frozenset(link.index for link in devices)
        self._settled = {link.name: self._settled[link.name] for link in devices if link.name in self._settled}
        self._work([(link, goals.get(link.name, ())) for link in devices], now, report)
        for text in report.changed:
            log.info("%s", text)
        for problem in report.problems:
            if problem not in self.problems:
                log.warning("%s", problem)
        self.problems = tuple(report.problems)

    def undo(self, links: Iterable[Link]) -> Report:
        """Takes our MTUs out of these devices' routes."""
        report = Report()
        self._work([(link, ()) for link in links if self._records.of(link.index)], 0, report)
        return report

    def _work(self, devices: Sequence[tuple[Link, tuple[RoutePeer, ...]]], now: float, report: Report) -> None:
        if not devices:
            return
        with RouteSocket() as kernel:
            for link, peers in devices:
                try:
                    self._device(kernel, link, peers, now, report)
                except _FAILURES as error:
                    report.problems.append(f"{link.name}: route_mtu: {error}")

    def _device(
        self, kernel: RouteSocket, link: Link, peers: tuple[RoutePeer, ...], now: float, report: Report
    ) -> None:
        messages = kernel.of_device(link.index)
        digest = hash((link, peers, tuple(messages)))
        settled = self._settled.get(link.name)
        if settled is not None and settled.digest == digest:
            report.problems += settled.problems
            return
        known = self._records.of(link.index)
        routes = {(route.identity, route.mtu): route for route in map(parse, messages)}
        if not known.keys() <= {identity for identity, _ in routes}:
            # A listing may miss a route while its neighbours come and go, and what is forgotten stays as it is.
            routes |= {(route.identity, route.mtu): route for route in map(parse, kernel.of_device(link.index))}
        todo = plan(link.name, link.mtu, list(routes.values()), peers, known)
        problems = list(todo.problems)
        changes = _safe(kernel, link, todo.changes, problems)
        changes = self._keep(link, self._patient(link, changes, now, problems), problems)
        made = self._make(kernel, link, changes, report.changed, problems)
        report.problems += problems
        standing: dict[bytes, Iterable[int]] = {identity: (mtu,) for identity, mtu in todo.ours.items()}
        standing |= {each.route.identity: known.get(each.route.identity, ()) for each in todo.changes}  # if not made
        standing |= {each.route.identity: () if each.mtu is None else (each.mtu,) for each in made}
        self._records.forget_all_but(link.index, standing)
        if not todo.changes:
            self._settled[link.name] = _Settled(digest, tuple(problems))

    def _patient(self, link: Link, changes: Iterable[Change], now: float, problems: list[str]) -> list[Change]:
        """Without the writes into routes whose owner keeps taking the MTU out."""
        chosen: list[Change] = []
        waiting: list[str] = []
        for change in changes:
            identity = change.route.identity
            recent = [at for at in self._writes.get(identity, ()) if now - at < _WINDOW]
            if change.mtu is None:
                self._writes.pop(identity, None)  # our own doing
            elif change.route.mtu is None:
                if len(recent) >= _WRITES:
                    waiting.append(route_text(change.route))
                    continue
                self._writes[identity] = [*recent, now]
            chosen.append(change)
        if waiting:
            problems.append(
                f"{link.name}: somebody keeps taking the MTU out of {listed(waiting)}: route_mtu waits for a minute"
            )
        return chosen

    def _keep(self, link: Link, changes: list[Change], problems: list[str]) -> list[Change]:
        """Keeps what is going to be written; without that only what undoes may be done."""
        rows = [(change.route.identity, change.mtu) for change in changes if change.mtu is not None]
        try:
            self._records.add(link.index, rows)
        except StoreError as error:
            problems.append(f"{link.name}: route_mtu writes nothing that it cannot remember: {error}")
            return [change for change in changes if change.mtu is None]
        return changes

    def _make(
        self, kernel: RouteSocket, link: Link, changes: Iterable[Change], texts: list[str], problems: list[str]
    ) -> list[Change]:
        """Changes the routes; returns the changes that the kernel did not refuse."""
        made: list[Change] = []
        refused: dict[str, list[str]] = defaultdict(list)
        for change in changes:
            try:
                kernel.replace(change.result)
            except DatapathError as error:
                refused[str(error)].append(route_text(change.route))
            else:
                made.append(change)
                texts.append(f"{link.name}: {_change_text(change)}")
        problems += [f"{link.name}: route_mtu at {listed(names)}: {error}" for error, names in refused.items()]
        return made


def restore(store: Store, device: str | None) -> Report:
    """Takes our MTUs out of the routes of one device, or of all; for when no daemon runs."""
    with IPRoute() as netlink:
        links = [link for link in list_links(netlink) if device in (None, link.name)]
    return RouteKeeper(store).undo(links)


class _Records:
    """What the store knows of our writing, by device (ifindex). In memory only what is on disk too."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._boot = clock.boot_id()
        self._devices: dict[int, dict[bytes, frozenset[int]]] = {}
        for identity, mtus in store.routes(self._boot).items():
            self._devices.setdefault(_ifindex(identity), {})[identity] = mtus

    def of(self, ifindex: int) -> Written:
        """For one device."""
        return dict(self._devices.get(ifindex, {}))

    def add(self, ifindex: int, rows: Iterable[tuple[bytes, int]]) -> None:
        """Keeps MTUs that are going to be written. Raises StoreError if that cannot be."""
        known = self._devices.get(ifindex, {})
        fresh = [(identity, mtu) for identity, mtu in rows if mtu not in known.get(identity, ())]
        if not fresh:
            return
        self._store.add_routes(fresh, self._boot)
        known = self._devices.setdefault(ifindex, {})
        for identity, mtu in fresh:
            known[identity] = known.get(identity, frozenset()) | {mtu}

    def forget_all_but(self, ifindex: int, standing: Mapping[bytes, Iterable[int]]) -> None:
        """Drops of one device what stands in none of its routes. Raises StoreError."""
        known = self._devices.get(ifindex, {})
        left = {identity: mtus & set(standing.get(identity, ())) for identity, mtus in known.items()}
        stale = [(identity, mtu) for identity, mtus in known.items() for mtu in mtus - left[identity]]
        if stale:
            self._store.drop_routes(stale)
        self._devices[ifindex] = {identity: mtus for identity, mtus in left.items() if mtus}
        if not self._devices[ifindex]:
            del self._devices[ifindex]

    def forget_devices_but(self, present: set[int]) -> None:
        """A device's routes go with it. Raises StoreError."""
        for gone in self._devices.keys() - present:
            self.forget_all_but(gone, {})


def _safe(kernel: RouteSocket, link: Link, changes: Sequence[Change], problems: list[str]) -> list[Change]:
    """The changes that can only meet the routes that they mean."""
    places = {change.route.place for change in changes}
    crowded = contested(places, kernel.at(places)) if places else set()
    why = "another route has the same destination, table and metric"
    for undoing in (False, True):
        chosen = [each.route for each in changes if each.route.place in crowded and (each.mtu is None) is undoing]
        names = listed([route_text(route) for route in chosen])
        if chosen and undoing:
            problems.append(f"{link.name}: the MTU that route_mtu wrote into {names} stays there: {why}")
        elif chosen:
            problems.append(f"{link.name}: route_mtu leaves {names} alone: {why}")
    return [change for change in changes if change.route.place not in crowded]


def _ifindex(identity: bytes) -> int:
    """The output device of a route that is remembered; 0, which no device has, for what nobody can read."""
    try:
        return parse(identity).ifindex or 0
    except ValueError:
        return 0


def _change_text(change: Change) -> str:
    route: Route = change.route
    before = "" if route.mtu is None else f" (before: {route.mtu})"
    return f"route {route_text(route)} has {'no mtu' if change.mtu is None else f'mtu {change.mtu}'}{before}"
