"""One loaded set of programs and maps: prefixes, peers, counters over CPUs, notes, and finding it again."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mssclamp.datapath import abi, loader, sources
from mssclamp.datapath.bpf import Program, possible_cpus
from mssclamp.datapath.instance import Instance
from support import require_bpf

pytestmark = pytest.mark.bpf


@pytest.fixture(scope="module")
def loaded() -> Iterator[Instance]:
    require_bpf()
    instance = loader.load(16)
    yield instance
    instance.close()


@pytest.fixture
def instance(loaded: Instance) -> Iterator[Instance]:
    """Empty of prefixes and notes."""
    yield loaded
    forget(loaded)


def forget(instance: Instance) -> None:
    for ifindex, network in instance.prefixes():
        instance.delete_prefix(ifindex, network)
    for ifindex in instance.noted_devices():
        instance.forget_device(ifindex)


# -- prefixes and peers


def test_prefixes_come_back(instance: Instance) -> None:
    put = {
        (7, ip_network("0.0.0.0/0")): 0,
        (7, ip_network("10.7.0.0/16")): 1,
        (7, ip_network("10.7.0.1/32")): 2,
        (8, ip_network("10.7.0.0/16")): 3,
        (7, ip_network("::/0")): 4,
        (7, ip_network("2001:db8:7::/48")): 5,
        (2**31, ip_network("2001:db8::1/128")): 2**32 - 1,
    }
    for (ifindex, network), index in put.items():
        instance.put_prefix(ifindex, network, index)
    assert instance.prefixes() == put


def test_a_prefix_is_replaced_and_deleted(instance: Instance) -> None:
    network = ip_network("10.7.0.0/16")
    instance.put_prefix(7, network, 1)
    instance.put_prefix(7, network, 2)
    assert instance.prefixes() == {(7, network): 2}
    instance.delete_prefix(8, network)
    instance.delete_prefix(7, ip_network("10.7.0.0/17"))
    assert instance.prefixes() == {(7, network): 2}
    instance.delete_prefix(7, network)
    instance.delete_prefix(7, network)
    assert instance.prefixes() == {}


networks4 = st.builds(
    lambda bits, length: IPv4Network((bits >> (32 - length) << (32 - length), length)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
networks6 = st.builds(
    lambda bits, length: IPv6Network((bits >> (128 - length) << (128 - length), length)),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)


@settings(max_examples=40)
@given(st.dictionaries(st.tuples(st.integers(1, 2**32 - 1), networks4 | networks6), st.integers(0, 2**32 - 1)))
def test_any_prefixes_come_back(loaded: Instance, put: dict[tuple[int, IPv4Network | IPv6Network], int]) -> None:
    for (ifindex, network), index in put.items():
        loaded.put_prefix(ifindex, network, index)
    assert loaded.prefixes() == put
    forget(loaded)
    assert loaded.prefixes() == {}


def test_peers_come_back(instance: Instance) -> None:
    instance.put_peer(15, abi.Peer(abi.FOREVER, 1380, 1340, 1320, abi.PEER_CLAMP))
    held = instance.peer(15)
    assert [getattr(held, name) for name, _ in held._fields_] == [abi.FOREVER, 1380, 1340, 1320, abi.PEER_CLAMP]
    assert bytes(instance.peer(14)) == bytes(ctypes.sizeof(abi.Peer))


def test_beyond_the_room_there_is_nothing(instance: Instance) -> None:
    with pytest.raises(OSError, match="Argument list too long"):
        instance.put_peer(16, abi.Peer())
    assert bytes(instance.peer(16)) == bytes(ctypes.sizeof(abi.Peer))
    assert instance.counters(16).clamped == 0


# -- counters


def test_counters_of_all_cpus_together(instance: Instance) -> None:
    """Every field is a sum, but for the largest size."""
    fields = [name for name, _ in abi.Counters._fields_]
    per_cpu = [[1000 * cpu + 10 * at + 1 for at in range(len(fields))] for cpu in range(possible_cpus())]
    raw = b"".join(struct.pack(f"={len(fields)}Q", *values) for values in per_cpu)
    instance.maps["clampd_count"].put(struct.pack("=I", 3), raw)
    counters = instance.counters(3)
    for at, name in enumerate(fields):
        together = max if name == "largest" else sum
        assert getattr(counters, name) == together(values[at] for values in per_cpu)
    assert instance.counters(4).clamped == 0
    instance.set_counters(3, counters)
    assert bytes(instance.counters(3)) == bytes(counters)
    instance.set_counters(3, abi.Counters())
    assert bytes(instance.counters(3)) == bytes(ctypes.sizeof(abi.Counters))


def test_reasons_of_all_cpus_together(instance: Instance) -> None:
    for reason in abi.Reason:
        values = [100 * reason + cpu for cpu in range(possible_cpus())]
        instance.maps["clampd_reason"].put(struct.pack("=I", reason), struct.pack(f"={len(values)}Q", *values))
    counts = instance.reasons()
    cpus = possible_cpus()
    assert counts == {reason: 100 * reason * cpus + cpus * (cpus - 1) // 2 for reason in abi.Reason}
    instance.add_reasons(counts)
    assert instance.reasons() == counts
    instance.add_reasons(dict.fromkeys(abi.Reason, 0))


# -- notes


def test_notes_about_devices(instance: Instance) -> None:
    instance.note_qdisc(7, ours=True)
    instance.note_qdisc(8, ours=False)
    assert sorted(instance.noted_devices()) == [7, 8]
    assert [instance.qdisc_is_ours(ifindex) for ifindex in (7, 8, 9)] == [True, False, False]
    instance.note_qdisc(7, ours=False)
    assert not instance.qdisc_is_ours(7)
    instance.forget_device(7)
    instance.forget_device(7)
    assert instance.noted_devices() == [8]


# -- finding


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_found_by_the_ids_of_its_programs(instance: Instance) -> None:
    before = opened()
    ids = [program.id for program in instance.programs.values()]
    (found,) = Instance.find([*ids, *ids])
    assert {name: program.id for name, program in found.programs.items()} == {
        name: program.id for name, program in instance.programs.items()
    }
    assert {name: held.id for name, held in found.maps.items()} == {
        name: held.id for name, held in instance.maps.items()
    }
    assert opened() == before + len(found.programs) + len(found.maps)
    found.close()
    assert opened() == before


def test_two_instances_are_two(instance: Instance) -> None:
    other = loader.load(32)
    before = opened()
    names = ("clampd_l3_in", "clampd_l3_eg")
    found = Instance.find([each.programs[name].id for each in (instance, other) for name in names])
    assert [(sorted(each.programs), each.meta().max_peers) for each in found] == [
        (sorted(names), 16),
        (sorted(names), 32),
    ]
    for each in found:
        each.close()
    assert opened() == before
    other.close()


def test_programs_of_others_are_no_instance(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without our maps, and ids that nobody has."""
    from bcc import BPF

    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(sources.directory() / "shim"))
    built = BPF(
        text=b"BPF_ARRAY(theirs, u64, 1); int other(struct __sk_buff *skb) { return theirs.lookup(&(int){0}) != 0; }"
    )
    foreign = Program(built.load_func(b"other", BPF.SCHED_CLS).fd)
    before = opened()
    assert Instance.find([foreign.id, 0, 2**31]) == []
    (found,) = Instance.find([foreign.id, 2**31, instance.programs["clampd_l2_in"].id])
    assert set(found.programs) == {"clampd_l2_in"}
    found.close()
    assert opened() == before
    built.cleanup()
    assert Instance.find([]) == []
