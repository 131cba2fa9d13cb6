"""A kernel in memory: devices, filters, maps. What the daemon does to it needs no privileges, and can be looked at.

The real reconciler and the real `Instance` work on it; only maps, programs and tc are not real.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import pytest

from mssclamp.daemon import reconcile
from mssclamp.datapath import abi, instance, pair, sources
from mssclamp.datapath.attach import PRIORITIES, Filter, Hook, Role, programs_for
from mssclamp.datapath.instance import Instance
from mssclamp.datapath.links import ARPHRD_ETHER, Link
from mssclamp.errors import DatapathError

CPUS = 2
TUNNEL = 778  # ARPHRD_IPGRE


@dataclass(eq=False)
class FakeMap:
    """A descriptor of a map; an array if it has `entries`, whose values are all there from the start."""

    name: str
    value_size: int
    entries: int | None = None
    touched: Callable[[], object] = lambda: None
    values: dict[bytes, bytes] = field(default_factory=dict)
    closed: bool = False

    def get(self, key: bytes) -> bytes | None:
        assert not self.closed
        if self.entries is not None:
            index = int.from_bytes(key, sys.byteorder)
            return self.values.get(key, bytes(self.value_size)) if index < self.entries else None
        return self.values.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        assert not self.closed
        assert len(value) == self.value_size
        if self.entries is not None and int.from_bytes(key, sys.byteorder) >= self.entries:
            raise OSError(7, "Argument list too long")
        self.values[key] = value
        self.touched()

    def delete(self, key: bytes) -> None:
        assert not self.closed
        assert self.entries is None
        self.values.pop(key, None)
        self.touched()

    def __iter__(self) -> Iterator[bytes]:
        assert not self.closed
        return iter(list(self.values))

    def close(self) -> None:
        self.closed = True

    def another(self) -> FakeMap:
        """One more descriptor of the same map."""
        return replace(self, closed=False)


@dataclass(eq=False)
class FakeProgram:
    """A program, and what keeps its maps alive while a filter holds it."""

    name: str
    id: int
    maps: dict[str, FakeMap]

    def close(self) -> None:
        pass


class FakeRing:
    """A ring buffer into which nobody writes."""

    def __init__(self, ring: FakeMap, take: Callable[[bytes], object]) -> None:
        pass

    def close(self) -> None:
        pass


class FakeKernel:
    """Takes the places of `Tc` and of the loader."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}
        self.filters_of: dict[int, dict[tuple[Hook, Role], FakeProgram]] = {}
        self.foreign: dict[int, list[Filter]] = {}
        self.routes: dict[str, str] = {}
        self.refusals: dict[str, str] = {}
        self.loading_problem: str | None = None
        self.loaded: list[int] = []
        self.attachments: list[str] = []
        self.watch: Callable[[], object] = lambda: None
        """Called after every single change that a packet could see."""
        self.touched = ""
        """The map that was changed last."""
        self._next_id = 100
        self._next_ifindex = 10

    # What a test sets up.

    def add(self, name: str, mtu: int = 1476, hardware_type: int = TUNNEL, kind: str = "gre") -> Link:
        """A device comes up."""
        self._next_ifindex += 1
        link = Link(self._next_ifindex, name, mtu, hardware_type, kind)
        self._links[name] = link
        return link

    def add_ethernet(self, name: str, mtu: int = 1500) -> Link:
        """A device with a link header comes up."""
        return self.add(name, mtu, ARPHRD_ETHER, "veth")

    def change(self, name: str, **values: object) -> None:
        """A device changes."""
        self._links[name] = replace(self._links[name], **values)

    def remove(self, name: str) -> None:
        """A device goes, with what is attached to it."""
        self.filters_of.pop(self._links.pop(name).index, None)

    # What packets meet.

    def attached(self, name: str) -> set[str]:
        """The names of our programs on a device."""
        return {program.name for program in self.filters_of.get(self._links[name].index, {}).values()}

    def lookups(self, name: str) -> dict[tuple[str, str], bytes]:
        """What the program on each hook of a device finds under each of its prefixes: by hook and prefix."""
        found = {}
        link = self._links[name]
        for (hook, role), program in self.filters_of.get(link.index, {}).items():
            if role != "managed":
                continue
            held = Instance({}, program.maps)
            for (ifindex, network), index in held.prefixes().items():
                if ifindex == link.index:
                    found[hook, str(network)] = bytes(held.peer(index))
        return found

    def in_force(self, name: str, prefix: str) -> abi.Peer | None:
        """What the programs on a device find under a prefix; None if there are none, or no such prefix."""
        found = {value for (_, network), value in self.lookups(name).items() if network == prefix}
        assert len(found) <= 1, "the hooks differ"
        return abi.Peer.from_buffer_copy(found.pop()) if found else None

    # The loader's place.

    def load(self, max_peers: int) -> Instance:
        if self.loading_problem is not None:
            raise DatapathError(self.loading_problem)
        self.loaded.append(max_peers)
        sizes = {
            "clampd_meta": (ctypes.sizeof(abi.Meta), 1),
            "clampd_device": (ctypes.sizeof(abi.Device), None),
            "clampd_pfx4": (4, None),
            "clampd_pfx6": (4, None),
            "clampd_peer": (ctypes.sizeof(abi.Peer), max_peers),
            "clampd_count": (ctypes.sizeof(abi.Counters) * CPUS, max_peers),
            "clampd_reason": (8 * CPUS, len(abi.Reason)),
            "clampd_config": (ctypes.sizeof(abi.Config), 1),
            "clampd_seen": (8 * CPUS, 512),
            "clampd_acked": (ctypes.sizeof(abi.Acked), max_peers),
            "clampd_prober": (4, None),
            "clampd_near": (8, abi.NEAR // 64),
            "clampd_endpoint": (ctypes.sizeof(abi.Endpoint), None),
            "clampd_length": (ctypes.sizeof(abi.Length), None),
        }
        untouched = (8, None)  # by the agent
        maps = {
            name: FakeMap(name, *sizes.get(name, untouched), touched=partial(self._touch, name)) for name in abi.MAPS
        }
        meta = abi.Meta(abi.ABI, max_peers, tuple(sources.build_id()))
        maps["clampd_meta"].put(bytes(4), bytes(meta))
        programs = {}
        for name in abi.PROGRAMS:
            self._next_id += 1
            programs[name] = FakeProgram(name, self._next_id, maps)
        return Instance(programs, {name: held.another() for name, held in maps.items()})

    def _touch(self, name: str) -> None:
        self.touched = name
        self.watch()

    # Tc's place.

    def links(self) -> list[Link]:
        return list(self._links.values())

    def route_to(self, address: str) -> int | None:
        link = self._links.get(self.routes.get(address, ""))
        return link.index if link is not None else None

    def filters(self, ifindex: int) -> list[Filter]:
        ours = [
            Filter(hook, PRIORITIES[role], 1, "bpf", program.name, program.id, True)
            for (hook, role), program in self.filters_of.get(ifindex, {}).items()
        ]
        return ours + self.foreign.get(ifindex, [])

    def is_attached(self, link: Link, held: Instance, role: Role = "managed") -> bool:
        filters = self.filters_of.get(link.index, {})
        running = {hook: program.id for (hook, plays), program in filters.items() if plays == role}
        return running == {hook: held.programs[name].id for hook, name in programs_for(link, role).items()}

    def attach(self, link: Link, held: Instance, role: Role = "managed") -> None:
        if link.name in self.refusals:
            raise DatapathError(self.refusals[link.name])
        if link.index not in held.noted_devices():
            held.note_qdisc(link.index, ours=True)
        for hook, name in programs_for(link, role).items():
            self.filters_of.setdefault(link.index, {})[hook, role] = held.programs[name]
            self.watch()
        self.attachments.append(link.name)

    def detach(
        self, link: Link, notes: Iterable[Instance], roles: Collection[Role] = ("managed", "underlay")
    ) -> list[str]:
        del notes
        held = self.filters_of.get(link.index, {})
        gone = [key for key in held if key[1] in roles]
        for key in gone:
            del held[key]
        return [f"{link.name}: {hook}" for hook, _ in gone]

    def ensure_pair(self) -> tuple[Link, Link]:
        for name in (pair.ORDERS, pair.BUILDER):
            if name not in self._links:
                self.add_ethernet(name)
        return self._links[pair.ORDERS], self._links[pair.BUILDER]

    def remove_pair(self) -> bool:
        there = pair.ORDERS in self._links
        for name in (pair.ORDERS, pair.BUILDER):
            if name in self._links:
                self.remove(name)
        return there

    def attached_instances(self) -> list[Instance]:
        found: dict[int, Instance] = {}
        for hooks in self.filters_of.values():
            for program in hooks.values():
                maps = {name: held.another() for name, held in program.maps.items()}
                found.setdefault(id(program.maps), Instance({}, maps)).programs[program.name] = program
        return list(found.values())


@dataclass(frozen=True)
class Foreign:
    """Somebody else's filter."""

    hook: Literal["ingress", "egress"] = "ingress"
    name: str = "theirs"

    def filter(self) -> Filter:
        return Filter(self.hook, 10, 1, "bpf", self.name, 7, False)


def install(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    """A fresh kernel where the daemon looks for the real one."""
    kernel = FakeKernel()
    monkeypatch.setattr(reconcile.loader, "load", kernel.load)
    monkeypatch.setattr(reconcile, "RingReader", FakeRing)
    monkeypatch.setattr(instance, "possible_cpus", lambda: CPUS)
    return kernel
