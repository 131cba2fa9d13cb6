"""Filters on devices: the only place that talks tc.

clampd's filters are the ones at its priorities, with HANDLE, whose program bears one of our names. Everything else is
foreign and never touched; nor is a clsact qdisc that we did not create.

A device may play two roles: it is managed, or it carries outer packets (the underlay), or both.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.tcmsg import sched_bpf

from mssclamp.datapath import abi, pair
from mssclamp.datapath.bpf import Program
from mssclamp.datapath.instance import Instance
from mssclamp.datapath.links import Link, list_links
from mssclamp.errors import DatapathError, NotFoundError

Hook = Literal["ingress", "egress"]
Role = Literal["managed", "underlay"]

PRIORITY = 49
HANDLE = 1

PRIORITIES: dict[Role, int] = {"managed": PRIORITY, "underlay": PRIORITY + 1}

HOOKS: tuple[Hook, ...] = ("ingress", "egress")

_PARENTS: dict[Hook, int] = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
"""TC_H_MIN_INGRESS and TC_H_MIN_EGRESS under clsact's fixed handle."""

# pyroute2 (seen in 0.9.7) does not know the newer attributes of a bpf filter; TCA_BPF_ID is the program's id.
if "TCA_BPF_ID" not in dict(sched_bpf.options.nla_map):
    sched_bpf.options.nla_map += (
        ("TCA_BPF_FLAGS_GEN", "uint32"),
        ("TCA_BPF_TAG", "hex"),
        ("TCA_BPF_ID", "uint32"),
    )


@dataclass(frozen=True)
class Filter:
    """One tc filter as the kernel lists it."""

    hook: Hook
    priority: int
    handle: int
    kind: str
    name: str
    program_id: int | None
    ours: bool

    def plays(self, role: Role) -> bool:
        """Whether it sits where our programs for the role do."""
        return self.priority == PRIORITIES[role]


class Tc:
    """The tc hooks of this network namespace."""

    def __init__(self) -> None:
        self._netlink = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the netlink socket."""
        self._netlink.close()

    def links(self) -> list[Link]:
        """The devices of this namespace."""
        return list_links(self._netlink)

    def route_to(self, address: str) -> int | None:
        """The ifindex of the device that the routing table chooses for an address, or None."""
        try:
            (route, *_) = self._netlink.route("get", dst=address)
        except (NetlinkError, ValueError):
            return None
        index: int | None = route.get_attr("RTA_OIF")
        return index

    def filters(self, ifindex: int) -> list[Filter]:
        """Every filter on the device's clsact hooks, of ours and of others."""
        found: list[Filter] = []
        for hook, parent in _PARENTS.items():
            try:
                messages = list(self._netlink.get_filters(index=ifindex, parent=parent))
            except NetlinkError as error:
                if error.code in (errno.ENODEV, errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):
                    continue  # no such device, or no clsact on it
                raise
            found += [_filter(hook, message) for message in messages if message["handle"]]
        return found

    def has_clsact(self, ifindex: int) -> bool:
        """Whether the device has a clsact (or ingress) qdisc, whoever made it."""
        return any(
            qdisc.get_attr("TCA_KIND") in ("clsact", "ingress") for qdisc in self._netlink.get_qdiscs(index=ifindex)
        )

    def is_attached(self, link: Link, instance: Instance, role: Role = "managed") -> bool:
        """Whether both hooks of the device run this instance's programs for the role."""
        running = {(f.hook, f.program_id) for f in self.filters(link.index) if f.ours}
        wanted = programs_for(link, role)
        return all(
            name in instance.programs and (hook, instance.programs[name].id) in running for hook, name in wanted.items()
        )

    def attach(self, link: Link, instance: Instance, role: Role = "managed") -> None:
        """Puts the instance's programs for the role on both hooks, atomically in place of an older instance's.

        Raises DatapathError where something foreign sits in our place or the kernel refuses.
        """
        priority = PRIORITIES[role]
        for other in self.filters(link.index):
            if other.priority == priority and not other.ours:
                raise DatapathError(
                    f"{link.name} {other.hook}: priority {priority} is taken by a foreign {other.kind} filter "
                    f"{other.name!r}".replace(" ''", ""),
                    fix="move that filter to another priority",
                )
        try:
            if not self.has_clsact(link.index):
                # The note first: a crash in between leaves at worst a note about a qdisc that is not there.
                instance.note_qdisc(link.index, ours=True)
                try:
                    self._netlink.tc("add", "clsact", link.index)
                except NetlinkError as error:
                    if error.code != errno.EEXIST:
                        raise
                    instance.note_qdisc(link.index, ours=False)
            elif link.index not in instance.noted_devices():
                instance.note_qdisc(link.index, ours=False)
            for hook, name in programs_for(link, role).items():
                self._netlink.tc(
                    "replace-filter",
                    "bpf",
                    link.index,
                    handle=HANDLE,
                    parent=_PARENTS[hook],
                    prio=priority,
                    fd=instance.programs[name].fd,
                    name=name,
                    direct_action=True,
                )
        except NetlinkError as error:
            raise DatapathError(f"{link.name}: the kernel refuses our filters: {error}") from error

    def detach(
        self, link: Link, notes: Iterable[Instance], roles: Collection[Role] = ("managed", "underlay")
    ) -> list[str]:
        """Takes our filters for these roles off the device, and the qdisc if we made it and nobody else uses it.

        Returns what was removed, for people; empty where nothing of ours was there.
        """
        priorities = {PRIORITIES[role] for role in roles}
        removed: list[str] = []
        filters = self.filters(link.index)
        qdisc_is_ours = any(instance.qdisc_is_ours(link.index) for instance in notes)
        try:
            mine_to_go = [f for f in filters if f.ours and f.priority in priorities]
            for mine in mine_to_go:
                self._netlink.tc(
                    "del-filter",
                    "bpf",
                    link.index,
                    handle=mine.handle,
                    parent=_PARENTS[mine.hook],
                    prio=mine.priority,
                )
                removed.append(f"{link.name}: filter {mine.name} on {mine.hook}")
            if removed and qdisc_is_ours and len(mine_to_go) == len(filters):
                self._netlink.tc("del", "clsact", link.index)
                removed.append(f"{link.name}: qdisc clsact")
        except NetlinkError as error:
            if error.code not in (errno.ENODEV, errno.ENOENT, errno.EINVAL):  # gone with its device
                raise DatapathError(f"{link.name}: cannot take our filters off: {error}") from error
        return removed

    def ensure_pair(self) -> tuple[Link, Link]:
        """The private pair for answers: where orders go in, and where the builder sits."""
        pair.ensure(self._netlink)
        links = {link.name: link for link in self.links()}
        return links[pair.ORDERS], links[pair.BUILDER]

    def serves_anyone(self) -> bool:
        """Whether any device is managed by our filters; the private pair and the underlay's are there for those."""
        return any(
            f.ours and f.plays("managed")
            for link in self.links()
            if not pair.is_ours(link.name)
            for f in self.filters(link.index)
        )

    def remove_pair(self) -> bool:
        """Takes the private pair away; whether there was one."""
        return pair.remove(self._netlink)

    def attached_instances(self) -> list[Instance]:
        """The instances behind all filters of ours in this namespace. The caller closes them."""
        ids = [
            f.program_id
            for link in self.links()
            for f in self.filters(link.index)
            if f.ours and f.program_id is not None
        ]
        return Instance.find(ids)


def programs_for(link: Link, role: Role = "managed") -> dict[Hook, str]:
    """The names of the programs that fit this kind of device and role, by hook."""
    if link.name == pair.BUILDER:
        return {"ingress": "clampd_answer"}
    kind = ("l" if role == "managed" else "u") + ("2" if link.has_link_header else "3")
    return {"ingress": f"clampd_{kind}_in", "egress": f"clampd_{kind}_eg"}


def detach_all(device: str | None = None) -> list[str]:
    """Removes every trace of clampd from one device, or from all of this namespace; needs no daemon.

    Returns what was removed, for people. Raises NotFoundError for a device that is not there.
    """
    removed: list[str] = []
    with Tc() as tc:
        links = [link for link in tc.links() if device in (None, link.name)]
        if device is not None and not links:
            raise NotFoundError(f"there is no device {device!r} in this network namespace")
        instances = tc.attached_instances()
        try:
            for link in links:
                removed += tc.detach(link, instances)
            if not tc.serves_anyone():
                for link in tc.links():
                    removed += tc.detach(link, instances, ["underlay"])
                if tc.remove_pair():
                    removed.append(f"{pair.ORDERS}: the pair on which answers are built")
        finally:
            for instance in instances:
                instance.close()
    return removed


def _filter(hook: Hook, message: Any) -> Filter:
    kind = message.get_attr("TCA_KIND")
    name, program_id = "", None
    options = message.get_attr("TCA_OPTIONS")
    if kind == "bpf" and options is not None:
        name = options.get_attr("TCA_BPF_NAME") or ""
        program_id = options.get_attr("TCA_BPF_ID")
    priority = message["info"] >> 16
    ours = priority in PRIORITIES.values() and name in abi.PROGRAMS and _bears_our_name(program_id)
    return Filter(hook, priority, message["handle"], kind, name, program_id, ours)


def _bears_our_name(program_id: int | None) -> bool:
    """A filter's name is only a label; the program's own name tells whose it is."""
    if program_id is None:
        return False
    try:
        program = Program.by_id(program_id)
    except OSError:
        return False
    program.close()
    return program.name in abi.PROGRAMS
