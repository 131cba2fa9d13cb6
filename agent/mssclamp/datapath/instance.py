"""One loaded set of programs and maps: the kernel's half of the agent."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Self

from mssclamp.datapath import abi
from mssclamp.datapath.bpf import Map, Program, possible_cpus

Network = IPv4Network | IPv6Network

_INDEX = struct.Struct("=I")
_COOKIE = struct.Struct("=Q")

_SEEN_PLACES = 512

_LARGEST = [name for name, _ in abi.Counters._fields_].index("largest")


@dataclass
class Instance:
    """Programs by name and the maps that they share.

    An instance that was adopted from attached filters may hold fewer programs than a freshly loaded one.
    """

    programs: dict[str, Program]
    maps: dict[str, Map]

    @classmethod
    def find(cls, program_ids: Iterable[int]) -> list[Self]:
        """The instances behind attached programs of ours. More than one means a replacement was interrupted."""
        found: dict[int, Self] = {}
        for program_id in sorted(set(program_ids)):
            single = cls({}, {})
            try:
                program = Program.by_id(program_id)
                single.programs[program.name] = program
                for map_id in program.map_ids():
                    held = Map.by_id(map_id)
                    single.maps[held.name] = held
            except OSError:  # gone meanwhile
                single.close()
                continue
            meta = single.maps.get("clampd_meta")
            if meta is None:
                single.close()
            elif meta.id not in found:
                found[meta.id] = single
            else:
                found[meta.id].programs |= single.programs
                cls({}, single.maps).close()
        return list(found.values())

    def close(self) -> None:
        """Lets go of everything; what is attached stays in force."""
        for held in (*self.programs.values(), *self.maps.values()):
            held.close()

    def meta(self) -> abi.Meta:
        """Which programs these are."""
        raw = self.maps["clampd_meta"].get(bytes(4))
        return abi.Meta.from_buffer_copy(raw) if raw else abi.Meta()

    # -- peers ------------------------------------------------------------------------------------------

    def put_peer(self, index: int, peer: abi.Peer) -> None:
        """What is in force for the peer at `index`."""
        self.maps["clampd_peer"].put(_INDEX.pack(index), bytes(peer))

    def peer(self, index: int) -> abi.Peer:
        """What is in force for the peer at `index`."""
        raw = self.maps["clampd_peer"].get(_INDEX.pack(index))
        return abi.Peer.from_buffer_copy(raw) if raw else abi.Peer()

    def put_prefix(self, ifindex: int, network: Network, index: int) -> None:
        """Leads addresses of `network` on this device to the peer at `index`."""
        name, key = _prefix_key(ifindex, network)
        self.maps[name].put(key, _INDEX.pack(index))

    def delete_prefix(self, ifindex: int, network: Network) -> None:
        """The opposite."""
        name, key = _prefix_key(ifindex, network)
        self.maps[name].delete(key)

    def prefixes(self) -> dict[tuple[int, Network], int]:
        """All (ifindex, prefix) with the index of their peer."""
        found: dict[tuple[int, Network], int] = {}
        for raw, value in _items(self.maps["clampd_pfx4"]):
            key4 = abi.Prefix4.from_buffer_copy(raw)
            network4 = IPv4Network((bytes(key4.address), key4.prefixlen - 32))
            found[key4.ifindex, network4] = _INDEX.unpack(value)[0]
        for raw, value in _items(self.maps["clampd_pfx6"]):
            key6 = abi.Prefix6.from_buffer_copy(raw)
            network6 = IPv6Network((bytes(key6.address), key6.prefixlen - 32))
            found[key6.ifindex, network6] = _INDEX.unpack(value)[0]
        return found

    # -- counters ---------------------------------------------------------------------------------------

    def counters(self, index: int) -> abi.Counters:
        """One peer's counters, all CPUs together."""
        raw = self.maps["clampd_count"].get(_INDEX.pack(index)) or b""
        width = len(abi.Counters._fields_)
        values = struct.unpack(f"={len(raw) // 8}Q", raw)
        counters = abi.Counters(*(sum(values[field::width]) for field in range(width)))
        counters.largest = max(values[_LARGEST::width], default=0)
        return counters

    def set_counters(self, index: int, counters: abi.Counters) -> None:
        """Begins a peer's counters at `counters`, written on the first CPU's share."""
        size = ctypes.sizeof(abi.Counters)
        rest = bytes(size * (possible_cpus() - 1))
        self.maps["clampd_count"].put(_INDEX.pack(index), bytes(counters) + rest)

    def reasons(self) -> Mapping[abi.Reason, int]:
        """Packets by named reason."""
        counts = {}
        for reason in abi.Reason:
            raw = self.maps["clampd_reason"].get(_INDEX.pack(reason)) or b""
            counts[reason] = sum(struct.unpack(f"={len(raw) // 8}Q", raw))
        return counts

    def add_reasons(self, counts: Mapping[abi.Reason, int]) -> None:
        """Takes over what an older instance had counted, before this one is attached."""
        for reason, count in counts.items():
            rest = bytes(8 * (possible_cpus() - 1))
            self.maps["clampd_reason"].put(_INDEX.pack(reason), struct.pack("=Q", count) + rest)

    # -- answers ----------------------------------------------------------------------------------------

    def put_config(self, config: abi.Config) -> None:
        """What holds for all peers."""
        self.maps["clampd_config"].put(bytes(4), bytes(config))

    def suspect(self, index: int, since: int) -> None:
        """From now on the peer's acknowledged segments are noted, if sent after `since` (CLOCK_BOOTTIME ns); 0 ends it.

        The programs look at acknowledgements only while `Config.suspects` says that there are any such peers.
        """
        self.maps["clampd_acked"].put(_INDEX.pack(index), bytes(abi.Acked(since)))

    def acked(self, index: int) -> abi.Acked:
        """The largest segment to the peer that arrived since it is in doubt; `size` 0 if none did."""
        raw = self.maps["clampd_acked"].get(_INDEX.pack(index))
        return abi.Acked.from_buffer_copy(raw) if raw else abi.Acked()

    def forget_bursts(self, index: int) -> None:
        """The next event of each kind about the peer is told, whenever the last one was."""
        held = self.maps["clampd_burst"]
        held.put(_INDEX.pack(index), bytes(held.value_size))

    # -- the prober -------------------------------------------------------------------------------------

    def allow_prober(self, cookie: int) -> None:
        """Packets of the socket with this SO_COOKIE (and priority PROBE_PRIORITY) pass our programs unjudged."""
        self.maps["clampd_prober"].put(_COOKIE.pack(cookie), _INDEX.pack(1))

    def forget_prober(self, cookie: int) -> None:
        """The opposite."""
        self.maps["clampd_prober"].delete(_COOKIE.pack(cookie))

    # -- the underlay -----------------------------------------------------------------------------------

    def put_endpoint(self, key: abi.EndpointKey, endpoint: abi.Endpoint) -> None:
        """Whose an endpoint is. Where it is known already, what the programs have noted of it stays, and what the
        prober is at.
        """
        raw = self.maps["clampd_endpoint"].get(bytes(key))
        if raw is not None:
            held = abi.Endpoint.from_buffer_copy(raw)
            held.flags = endpoint.flags | held.flags & abi.ENDPOINT_PROBING
            held.peer, held.source = endpoint.peer, endpoint.source
            endpoint = held
        self.maps["clampd_endpoint"].put(bytes(key), bytes(endpoint))

    def delete_endpoint(self, key: abi.EndpointKey) -> None:
        """The opposite. The lengths under probe are closed one by one."""
        self.maps["clampd_endpoint"].delete(bytes(key))

    def endpoints(self) -> dict[abi.EndpointKey, abi.Endpoint]:
        """All of them, with what the programs have noted."""
        return {
            abi.EndpointKey.from_buffer_copy(key): abi.Endpoint.from_buffer_copy(value)
            for key, value in _items(self.maps["clampd_endpoint"])
        }

    def set_probing(self, key: abi.EndpointKey, *, probing: bool) -> None:
        """Whether lengths of packets to the endpoint are under probe."""
        raw = self.maps["clampd_endpoint"].get(bytes(key))
        if raw is not None:
            held = abi.Endpoint.from_buffer_copy(raw)
            flag = abi.ENDPOINT_PROBING
            held.flags = held.flags | flag if probing else held.flags & ~flag
            self.maps["clampd_endpoint"].put(bytes(key), bytes(held))

    def fragments(self, key: abi.EndpointKey) -> int:
        """Packets to the endpoint that left this machine in fragments."""
        raw = self.maps["clampd_endpoint"].get(bytes(key))
        return int(abi.Endpoint.from_buffer_copy(raw).fragments) if raw else 0

    def set_near(self, indexes: set[int]) -> None:
        """The `abi.near_index` of every endpoint's address: packets to all others are foreign."""
        near = self.maps["clampd_near"]
        words = [0] * (abi.NEAR // 64)
        for index in indexes:
            words[index // 64] |= 1 << index % 64
        for place, word in enumerate(words):
            value = struct.pack("=Q", word)
            if near.get(_INDEX.pack(place)) != value:
                near.put(_INDEX.pack(place), value)

    def open_length(self, key: abi.EndpointKey, length: int) -> None:
        """Puts a length of outer IP packets (bytes) to the endpoint under probe, none counted yet."""
        self.maps["clampd_length"].put(bytes(abi.LengthKey(key, length, 0)), bytes(abi.Length()))

    def close_length(self, key: abi.EndpointKey, length: int) -> None:
        """The opposite."""
        self.maps["clampd_length"].delete(bytes(abi.LengthKey(key, length, 0)))

    def close_all_lengths(self) -> None:
        """The same for all lengths to all endpoints."""
        for raw in list(self.maps["clampd_length"]):
            self.maps["clampd_length"].delete(raw)

    def left_whole(self, key: abi.EndpointKey, length: int) -> int:
        """Probes of a length under probe that left this machine in one piece."""
        raw = self.maps["clampd_length"].get(bytes(abi.LengthKey(key, length, 0)))
        return int(abi.Length.from_buffer_copy(raw).whole) if raw else 0

    # -- devices ----------------------------------------------------------------------------------------

    def note_qdisc(self, ifindex: int, *, ours: bool) -> None:
        """Remembers, beyond the daemon's life, whether the device's clsact qdisc is our creation."""
        self.maps["clampd_device"].put(_INDEX.pack(ifindex), bytes(abi.Device(int(ours), 0)))

    def qdisc_is_ours(self, ifindex: int) -> bool:
        """Whether we created the device's clsact qdisc."""
        raw = self.maps["clampd_device"].get(_INDEX.pack(ifindex))
        return bool(raw and abi.Device.from_buffer_copy(raw).qdisc_is_ours)

    def forget_device(self, ifindex: int) -> None:
        """Drops the note."""
        self.maps["clampd_device"].delete(_INDEX.pack(ifindex))

    def packets_seen(self, ifindex: int, *, egress: bool) -> int:
        """Packets that our program on the device's hook has seen (or on one whose ifindex falls in the same place)."""
        place = (ifindex * 2 + egress) % _SEEN_PLACES
        raw = self.maps["clampd_seen"].get(_INDEX.pack(place)) or b""
        return sum(struct.unpack(f"={len(raw) // 8}Q", raw))

    def noted_devices(self) -> list[int]:
        """The ifindexes that have a note."""
        return [_INDEX.unpack(raw)[0] for raw in self.maps["clampd_device"]]


def _items(held: Map) -> Iterator[tuple[bytes, bytes]]:
    for key in list(held):
        value = held.get(key)
        if value is not None:
            yield key, value


def _prefix_key(ifindex: int, network: Network) -> tuple[str, bytes]:
    address = tuple(network.network_address.packed)
    if isinstance(network, IPv4Network):
        return "clampd_pfx4", bytes(abi.Prefix4(32 + network.prefixlen, ifindex, address))
    return "clampd_pfx6", bytes(abi.Prefix6(32 + network.prefixlen, ifindex, address))
