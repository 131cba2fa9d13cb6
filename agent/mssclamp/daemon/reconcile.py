"""The only writer of the kernel's half: brings programs, maps and filters to what is wanted, whatever they are now.

Called again and again with everything that is wanted; what is so already costs nothing. Order matters: what a packet
may look up is written before what leads to it, and programs are attached after their maps are full, so that at no
moment a packet meets less than before or than wanted.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pyroute2.netlink.exceptions import NetlinkError

from mssclamp.datapath import abi, loader, pair, sources
from mssclamp.datapath.attach import Filter, Role, Tc, programs_for
from mssclamp.datapath.instance import Instance, Network
from mssclamp.datapath.links import Link
from mssclamp.datapath.ring import RingReader
from mssclamp.errors import DatapathError

log = logging.getLogger(__name__)

_MIN_ROOM = 1024

_LOSSES = 3
_LOSS_WINDOW = 60.0
"""So many losses of our filters in so many seconds: whoever does it means it."""

_ROLES: tuple[Role, ...] = ("managed", "underlay")


@dataclass(frozen=True)
class Row:
    """What the kernel is to know of one peer. One whose device is away has no prefixes: it keeps its counters."""

    peer: str
    ifindex: int = 0
    prefixes: tuple[Network, ...] = ()
    mtu: int = 0
    mss4: int = 0
    mss6: int = 0
    enforce_until: int = 0
    clamp: bool = False
    answer: bool = False

    @property
    def large(self) -> int:
        """Sizes above this are large ones for the peer, bytes."""
        return abi.large_limit(self.mtu)

    def in_kernel(self) -> bytes:
        """As the map holds it."""
        flags = (abi.PEER_CLAMP if self.clamp else 0) | (abi.PEER_ANSWER if self.answer else 0)
        return bytes(abi.Peer(self.enforce_until, self.mtu, self.mss4, self.mss6, flags))


@dataclass(frozen=True)
class Rates:
    """Answers a second at most."""

    per_flow: int
    per_sender: int
    per_peer: int


@dataclass(frozen=True)
class Wanted:
    """How the kernel's half should be. `stay_loaded`: keep programs at hand for devices that may come back.

    `underlay`: devices that carry outer packets; `endpoints`: where they go, as the kernel's map has it, with the peer,
    the flags and our own port (0: not known). `large_gap`: seconds from one word of a peer's large packets to the next.
    `expects_answers`: a verdict may make them needed at any moment.
    """

    rows: dict[str, Row]
    devices: Sequence[str]
    rates: Rates
    stay_loaded: bool
    underlay: Sequence[str] = ()
    endpoints: dict[bytes, tuple[str, int, int]] = field(default_factory=dict)
    large_gap: float = 30.0
    expects_answers: bool = False

    @property
    def may_answer(self) -> bool:
        """Whether answers are made, or may have to be at any moment."""
        return self.expects_answers or any(row.answer for row in self.rows.values())

    @property
    def smallest_large(self) -> int:
        """Packets up to this many bytes are of no interest to any peer."""
        return min((row.large for row in self.rows.values() if row.mtu), default=abi.LARGE_AT_MOST)


@dataclass(frozen=True)
class Outcome:
    """What one pass did: names of devices, and problems by device for those it could not serve."""

    attached: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    """Devices where somebody else had taken our filters off."""
    detached: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


class Reconciler:
    """Owns the instance in force, and what it holds."""

    def __init__(self, tc: Tc, on_event: Callable[[abi.Event], object]) -> None:
        """`on_event` is called in a thread of its own with every record of the ring buffer."""
        self._tc = tc
        self._on_event = on_event
        self._build = sources.build_id()  # once: a package that is upgraded under us is the next daemon's
        self._instance: Instance | None = None
        self._ring: RingReader | None = None
        self._config: bytes | None = None
        self._lock = threading.RLock()  # over the instance, against the prober's thread
        self._cookies: set[int] = set()
        self._suspects: set[str] = set()
        self._under_probe: dict[bytes, Counter[int]] = {}
        self._attended_until = 0
        self._endpoints: dict[bytes, tuple[int, int, int]] = {}
        self._index_of: dict[str, int] = {}
        self._peer_at: dict[int, str] = {}
        self._peers: dict[int, bytes] = {}
        self._prefixes: dict[tuple[int, Network], int] = {}
        self._written: Wanted | None = None
        self._attached: dict[str, int] = {}  # device: ifindex
        self._carrying: dict[str, int] = {}  # the same of the underlay
        self._losses: dict[tuple[int, Role], list[float]] = {}  # when somebody took our filters off
        self._given_up: set[tuple[int, Role]] = set()

    def adopt(self) -> None:
        """Takes up what an earlier daemon left attached, so that nothing changes until something has to."""
        found = self._tc.attached_instances()
        if not found:
            return
        # Several: a replacement was cut short. Any will do as the one to replace; notes are read from all.
        instance, *others = found
        for other in others:
            for ifindex in other.noted_devices():
                if other.qdisc_is_ours(ifindex):
                    instance.note_qdisc(ifindex, ours=True)
            other.close()
        self._instance = instance
        if self._is_current():
            self._listen()
        if instance.meta().abi == abi.ABI:
            self._prefixes = instance.prefixes()
            self._endpoints = {bytes(key): (-1, 0, 0) for key in instance.endpoints()}  # to be written anew
            for key in instance.endpoints():
                instance.set_probing(key, probing=False)  # whoever was at it is no more
            instance.close_all_lengths()
            self._peers = {index: bytes(instance.peer(index)) for index in set(self._prefixes.values())}
            for index in self._peers:
                instance.forget_bursts(index)  # we have heard of nothing: each peer's first large packet is news
        log.info("adopted what is attached: %s", "this version" if self._is_current() else "another version")

    def close(self) -> None:
        """Lets go; what is attached stays in force."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        with self._lock:
            if self._instance is not None:
                self._instance.close()
                self._instance = None

    def apply(self, wanted: Wanted, links: Mapping[str, Link], now: float) -> Outcome:
        """Makes it so: the rows in the maps, programs on the wanted devices among `links` and on no other.

        `now`: seconds. Raises DatapathError if the programs cannot be loaded or their maps not be written; devices that
        refuse are problems in the outcome.
        """
        try:
            return self._apply(wanted, links, now)
        except (OSError, NetlinkError) as error:
            self._written = None  # how far it got is not known: compare everything again next time
            raise DatapathError(f"the kernel refuses: {error}") from error

    def _apply(self, wanted: Wanted, links: Mapping[str, Link], now: float) -> Outcome:
        devices = [links[name] for name in wanted.devices if name in links]
        problems = {
            link.name: f"clampd does not know where packets of this kind of device begin ({link.hardware_type})"
            for link in devices
            if not link.is_supported
        }
        devices = [link for link in devices if link.is_supported]
        carrying = [links[name] for name in wanted.underlay if name in links and links[name].is_supported]
        if not devices:
            carrying = []
        if devices or (wanted.stay_loaded and self._instance is None):
            # Also before there is a device: what comes up at boot must not wait for the compiler.
            self._ensure_instance(wanted, devices, carrying)
        if self._instance is not None and wanted is not self._written:
            self._write(list(wanted.rows.values()))
            self._write_endpoints(wanted)
            self._written = wanted
        if devices:
            problems |= self._prepare_answers(wanted, links)
        devices, lost, given_up = self._serve(devices, "managed", self._attached, now)
        carrying, _, refused = self._serve(carrying, "underlay", self._carrying, now)
        problems |= given_up | refused
        self._detach(
            links.values(), {"managed": {link.name for link in devices}, "underlay": {link.name for link in carrying}}
        )
        self._carrying = {link.name: link.index for link in carrying if link.name not in refused}
        if not devices and not wanted.stay_loaded and self._instance is not None:
            self._tc.remove_pair()
            self.close()
            self._written = None
            self._forget_written()
        attached = {link.name: link.index for link in devices if link.name not in problems}
        outcome = Outcome(
            attached=tuple(sorted(attached.keys() - self._attached.keys())),
            restored=tuple(sorted(lost & attached.keys())),
            detached=tuple(sorted(self._attached.keys() - attached.keys())),
            problems=problems,
        )
        self._attached = attached
        return outcome

    # -- what is known of the kernel ----------------------------------------------------------------------

    def counters(self, peer: str) -> abi.Counters:
        """One peer's counters."""
        index = self._index_of.get(peer)
        if self._instance is None or index is None:
            return abi.Counters()
        return self._instance.counters(index)

    def peer_at(self, index: int) -> str | None:
        """The peer with this index in the arrays."""
        return self._peer_at.get(index)

    def carries(self, name: str) -> bool:
        """Whether the last pass left our programs for outer packets on the device."""
        return name in self._carrying

    def knows(self, key: abi.EndpointKey) -> bool:
        """Whether the programs look for outer packets to this endpoint."""
        return bytes(key) in self._endpoints

    def packets_seen(self, link: Link, *, egress: bool) -> int:
        """Packets that our program on this hook of the device has seen."""
        return self._instance.packets_seen(link.index, egress=egress) if self._instance is not None else 0

    def forgive(self, ifindex: int | None) -> None:
        """Tries again where somebody kept taking our filters off; None: everywhere."""
        for key in list(self._given_up):
            if ifindex in (None, key[0]):
                self._given_up.discard(key)
                self._losses.pop(key, None)

    def reasons(self) -> Mapping[abi.Reason, int]:
        """Packets by named reason."""
        return self._instance.reasons() if self._instance is not None else {}

    def filters(self, link: Link) -> list[Filter]:
        """What is on the device's hooks now."""
        return self._tc.filters(link.index)

    def is_attached(self, name: str) -> bool:
        """Whether the last pass left our programs on the device."""
        return name in self._attached

    # -- what cannot wait for a pass ------------------------------------------------------------------------

    def put(self, row: Row) -> None:
        """Puts one peer's values in force at once; the next pass finds it so. Raises DatapathError."""
        index = self._index_of.get(row.peer)
        value = row.in_kernel()
        if self._instance is None or index is None or self._peers.get(index) in (None, value):
            return
        try:
            if self._config is not None and row.mtu:
                known = abi.Config.from_buffer_copy(self._config)
                self._change_config(small_packet=min(row.large, known.small_packet))
            self._instance.put_peer(index, abi.Peer.from_buffer_copy(value))
        except OSError as error:
            raise DatapathError(f"the kernel refuses: {error}") from error
        self._peers[index] = value

    def put_endpoint(self, key: bytes, value: tuple[str, int, int]) -> None:
        """The same for an endpoint of `Wanted.endpoints`. Raises DatapathError."""
        peer, flags, source = value
        fresh = self._index_of.get(peer, -1), flags, source
        if self._instance is None or fresh[0] < 0 or self._endpoints.get(key) in (None, fresh):
            return
        try:
            self._write_endpoint(self._instance, key, fresh)
        except OSError as error:
            raise DatapathError(f"the kernel refuses: {error}") from error
        self._endpoints[key] = fresh

    def _write_endpoint(self, instance: Instance, key: bytes, value: tuple[int, int, int]) -> None:
        index, flags, source = value
        with self._lock:  # the prober's thread changes flags
            instance.put_endpoint(
                abi.EndpointKey.from_buffer_copy(key), abi.Endpoint(index, flags, tuple(source.to_bytes(2, "big")))
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[Instance | None]:
        """The instance in force, which stays so meanwhile; for the prober's thread too."""
        with self._lock:
            yield self._instance

    def under_probe(self, key: abi.EndpointKey) -> Counter[int]:
        """How many are at each length of outer packets to this endpoint; to be read and changed while it is `held`."""
        for idle in [each for each, users in self._under_probe.items() if not +users]:
            del self._under_probe[idle]
        return self._under_probe.setdefault(bytes(key), Counter())

    def attend(self, until: int) -> None:
        """The programs may count on us until then (CLOCK_BOOTTIME ns)."""
        self._attended_until = until
        self._change_config()

    def suspect(self, peer: str, since: int) -> None:
        """From now on the peer's acknowledged segments are noted, if sent after `since` (boot-time ns); 0 ends it."""
        with self._lock:
            index = self._index_of.get(peer)
            (self._suspects.add if since else self._suspects.discard)(peer)
            if self._instance is not None and index is not None:
                self._instance.suspect(index, since)
            self._change_config()

    def acked(self, peer: str) -> int:
        """The largest segment to a suspect that arrived since, bytes; 0 if none did."""
        with self._lock:
            index = self._index_of.get(peer)
            return 0 if self._instance is None or index is None else int(self._instance.acked(index).size)

    def allow_prober(self, cookie: int) -> None:
        """The packets of the socket with this cookie pass, whatever their size."""
        with self._lock:
            self._cookies.add(cookie)
            if self._instance is not None:
                self._instance.allow_prober(cookie)

    def forget_prober(self, cookie: int) -> None:
        """The opposite."""
        with self._lock:
            self._cookies.discard(cookie)
            if self._instance is not None:
                self._instance.forget_prober(cookie)

    # -- the steps ----------------------------------------------------------------------------------------

    def _is_current(self) -> bool:
        """Whether the instance in force is of this version of the programs."""
        if self._instance is None or not set(abi.MAPS) <= set(self._instance.maps):
            return False
        meta = self._instance.meta()
        return meta.abi == abi.ABI and bytes(meta.build) == self._build

    def _listen(self) -> None:
        """Moves the ear to the instance in force."""
        if self._ring is not None:
            self._ring.close()
        assert self._instance is not None
        events = self._instance.maps["clampd_events"]
        self._ring = RingReader(events, lambda record: self._on_event(abi.Event.from_buffer_copy(record)))

    def _ensure_instance(self, wanted: Wanted, devices: Sequence[Link], carrying: Sequence[Link]) -> None:
        rows = list(wanted.rows.values())
        needed = {name for link in devices for name in programs_for(link).values()}
        needed |= {name for link in carrying for name in programs_for(link, "underlay").values()}
        if wanted.may_answer:
            needed.add("clampd_answer")
        newcomers = sum(row.peer not in self._index_of for row in rows)
        if (
            self._instance is not None
            and self._is_current()
            and needed <= set(self._instance.programs)
            and newcomers + len(self._peers) <= self._instance.meta().max_peers
        ):
            return
        if sources.build_id() != self._build:
            raise DatapathError("the programs' sources are not those that clampd started with", fix="restart clampd")
        old = self._instance
        new = loader.load(_room_for(len(rows)))
        counters: dict[str, abi.Counters] = {}
        if old is not None:
            for ifindex in old.noted_devices():
                new.note_qdisc(ifindex, ours=old.qdisc_is_ours(ifindex))
            if old.meta().abi == abi.ABI:
                self._assign_indexes(rows)
                counters = {peer: old.counters(index) for peer, index in self._index_of.items()}
                new.add_reasons(old.reasons())
        with self._lock:
            self._instance = new
            for cookie in self._cookies:
                new.allow_prober(cookie)
        self._forget_written()
        self._write(rows)
        self._write_endpoints(wanted)
        self._prepare_answers(wanted, {link.name: link for link in self._tc.links()})
        self._listen()
        for row in rows:
            if row.peer in counters:
                new.set_counters(self._index_of[row.peer], counters[row.peer])
        if old is not None:
            # One atomic replacement per hook. Until its turn a hook runs the old program with the old maps.
            for link in self._tc.links():
                if not link.is_supported:
                    continue
                roles = {role for f in self._tc.filters(link.index) if f.ours for role in _ROLES if f.plays(role)}
                for role in roles:
                    with contextlib.suppress(DatapathError):  # told by the pass that follows
                        self._tc.attach(link, new, role)
            old.close()
            log.info("replaced the programs that were attached")

    def _forget_written(self) -> None:
        self._index_of, self._peers, self._prefixes, self._endpoints, self._config = {}, {}, {}, {}, None

    def _write(self, rows: Sequence[Row]) -> None:
        instance = self._instance
        assert instance is not None
        self._assign_indexes(rows)
        wanted_prefixes: dict[tuple[int, Network], int] = {}
        wanted_peers: dict[int, bytes] = {}
        for row in rows:
            index = self._index_of[row.peer]
            wanted_peers[index] = row.in_kernel()
            for network in row.prefixes:
                wanted_prefixes[row.ifindex, network] = index
        for index, value in wanted_peers.items():
            if self._peers.get(index) != value:
                instance.put_peer(index, abi.Peer.from_buffer_copy(value))
        for (ifindex, network), index in wanted_prefixes.items():
            if self._prefixes.get((ifindex, network)) != index:
                instance.put_prefix(ifindex, network, index)
        for ifindex, network in self._prefixes.keys() - wanted_prefixes.keys():
            instance.delete_prefix(ifindex, network)
        for index in self._peers.keys() - wanted_peers.keys():
            instance.put_peer(index, abi.Peer())
            instance.set_counters(index, abi.Counters())
        self._peers, self._prefixes = wanted_peers, wanted_prefixes

    def _write_endpoints(self, wanted: Wanted) -> None:
        """After the peers, whose indexes they name."""
        instance = self._instance
        assert instance is not None
        endpoints = {
            key: (self._index_of[peer], flags, source)
            for key, (peer, flags, source) in wanted.endpoints.items()
            if peer in self._index_of
        }
        if endpoints != self._endpoints:
            for raw, value in endpoints.items():
                if self._endpoints.get(raw) != value:
                    self._write_endpoint(instance, raw, value)
            instance.set_near({abi.near_index(abi.EndpointKey.from_buffer_copy(raw).ip) for raw in endpoints})
        for raw in self._endpoints.keys() - endpoints.keys():
            instance.delete_endpoint(abi.EndpointKey.from_buffer_copy(raw))
        self._endpoints = endpoints

    def _assign_indexes(self, rows: Sequence[Row]) -> None:
        """A peer keeps its index, over restarts too: there the prefixes in the kernel tell which it had."""
        present = {row.peer for row in rows}
        self._index_of = {peer: index for peer, index in self._index_of.items() if peer in present}
        taken = set(self._index_of.values())
        newcomers = [row for row in rows if row.peer not in self._index_of]
        claimants: dict[int, set[str]] = {}
        for row in rows if newcomers else ():
            for network in row.prefixes:
                index = self._prefixes.get((row.ifindex, network))
                if index is not None:
                    claimants.setdefault(index, set()).add(row.peer)
        for row in newcomers:
            for network in row.prefixes:
                index = self._prefixes.get((row.ifindex, network))
                # Where another peer's prefix leads there too, its packets would meet our limits until that is moved.
                if index is not None and index not in taken and claimants[index] == {row.peer}:
                    self._index_of[row.peer] = index
                    taken.add(index)
                    break
        free = (index for index in range(len(rows) + len(taken) + len(self._peers) + 1)
                if index not in taken and index not in self._peers)  # fmt: skip
        for row in newcomers:
            if row.peer not in self._index_of:
                self._index_of[row.peer] = next(free)
        self._peer_at = {index: peer for peer, index in self._index_of.items()}

    def _prepare_answers(self, wanted: Wanted, links: Mapping[str, Link]) -> dict[str, str]:
        """Before a device's program may order answers, there is somebody to build them. Returns problems."""
        assert self._instance is not None
        config = abi.Config(
            builder=0,
            per_sender=wanted.rates.per_sender,
            per_peer=wanted.rates.per_peer,
            small_packet=wanted.smallest_large,
            flow_gap=10**9 // max(1, wanted.rates.per_flow),
            large_gap=int(wanted.large_gap * 1e9),
        )
        problems: dict[str, str] = {}
        if wanted.may_answer:
            try:
                orders, builder = links.get(pair.ORDERS), links.get(pair.BUILDER)
                if orders is None or builder is None:
                    orders, builder = self._tc.ensure_pair()
                if not self._tc.is_attached(builder, self._instance):
                    self._tc.attach(builder, self._instance)
                config.builder = orders.index
            except DatapathError as error:
                problems[pair.ORDERS] = str(error)
        self._put_config(config)
        return problems

    def _put_config(self, config: abi.Config) -> None:
        with self._lock:
            # Here alone: the prober's thread has a say in it.
            config.suspects, config.attended_until = len(self._suspects), self._attended_until
            if self._instance is not None and bytes(config) != self._config:
                self._instance.put_config(config)
                self._config = bytes(config)

    def _change_config(self, **values: int) -> None:
        """Other values for some of it, if there is any yet."""
        with self._lock:
            if self._config is None:
                return
            config = abi.Config.from_buffer_copy(self._config)
            for name, value in values.items():
                setattr(config, name, value)
            self._put_config(config)

    def _serve(
        self, links: Sequence[Link], role: Role, before: Mapping[str, int], now: float
    ) -> tuple[list[Link], set[str], dict[str, str]]:
        """Attaches where it is not so yet, but not where somebody keeps taking our filters off.

        Returns the devices that are to carry our programs, names of those where somebody had taken them off, and
        problems by name.
        """
        served: list[Link] = []
        lost: set[str] = set()
        problems: dict[str, str] = {}
        for link in links:
            assert self._instance is not None
            key = link.index, role
            attached = self._tc.is_attached(link, self._instance, role)
            if before.get(link.name) == link.index and not attached:
                lost.add(link.name)
                recent = [at for at in self._losses.get(key, []) if now - at < _LOSS_WINDOW]
                self._losses[key] = [*recent, now]
                if len(recent) + 1 >= _LOSSES:
                    self._given_up.add(key)
            if key in self._given_up:
                problems[link.name] = (
                    f"{link.name}: somebody took clampd's filters off {_LOSSES} times in a minute, so they stay off; "
                    f"`clampctl attach {link.name}` tries again"
                )
                continue
            served.append(link)
            try:
                if not attached:
                    self._tc.attach(link, self._instance, role)
            except DatapathError as error:
                problems[link.name] = str(error)
        return served, lost, problems

    def _detach(self, links: Iterable[Link], wanted: Mapping[Role, set[str]]) -> None:
        """Takes our filters off every device where they are not wanted, and forgets devices that are gone."""
        if self._instance is None:
            return
        present = {link.index: link for link in links}
        for ifindex in self._instance.noted_devices():
            link = present.get(ifindex)
            if link is None:
                self._instance.forget_device(ifindex)
            elif not pair.is_ours(link.name):
                roles = [role for role in _ROLES if link.name not in wanted[role]]
                if roles:
                    self._tc.detach(link, [self._instance], roles)
                if len(roles) == len(_ROLES):
                    self._instance.forget_device(ifindex)


def _room_for(peers: int) -> int:
    """Twice what is needed, as a power of two: so that growing replaces the programs seldom."""
    room = _MIN_ROOM
    while room < 2 * peers:
        room *= 2
    return room
