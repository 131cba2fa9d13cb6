"""One loaded set of programs and maps: prefixes, peers, counters over CPUs, notes, and finding it again."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mssclamp.datapath import abi, loader, sources
from mssclamp.datapath.bpf import Program, possible_cpus
from mssclamp.datapath.instance import Instance, _items
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


# -- the prober, and the underlay


def test_probers_are_known_by_their_cookie(instance: Instance) -> None:
    probers = instance.maps["clampd_prober"]
    for cookie in (1, 2**64 - 1):
        instance.allow_prober(cookie)
        instance.allow_prober(cookie)
        assert struct.pack("=Q", cookie) in list(probers)
        instance.forget_prober(cookie)
        instance.forget_prober(cookie)
    assert list(probers) == []


KEY4 = abi.endpoint_key(ip_address("198.51.100.7"), 51820, 17)
KEY6 = abi.endpoint_key(ip_address("2001:db8::7"), 0, 47)


def test_keys_of_endpoints() -> None:
    assert bytes(KEY4) == bytes([198, 51, 100, 7]) + bytes(12) + b"\xca\x6c" + bytes([17, 4])
    assert bytes(KEY6) == ip_address("2001:db8::7").packed + bytes([0, 0, 47, 6])
    assert [str(KEY4.ip), str(KEY6.ip)] == ["198.51.100.7", "2001:db8::7"]
    again = abi.endpoint_key(ip_address("198.51.100.7"), 51820, 17)
    assert again == KEY4
    assert hash(again) == hash(KEY4)
    assert KEY4 not in (KEY6, abi.endpoint_key(ip_address("198.51.100.7"), 51821, 17), bytes(KEY4))
    assert repr(KEY4) == "EndpointKey(198.51.100.7, port 51820, protocol 17)"


def test_endpoints_come_back(instance: Instance) -> None:
    instance.put_endpoint(KEY4, abi.Endpoint(1, abi.ENDPOINT_TAKE_ICMP, (0xCA, 0x6C)))
    instance.put_endpoint(KEY6, abi.Endpoint(2))
    held = instance.endpoints()
    assert set(held) == {KEY4, KEY6}
    assert (held[KEY4].peer, held[KEY4].flags, bytes(held[KEY4].source)) == (1, abi.ENDPOINT_TAKE_ICMP, b"\xca\x6c")
    instance.delete_endpoint(KEY4)
    instance.delete_endpoint(KEY4)
    assert set(instance.endpoints()) == {KEY6}
    instance.delete_endpoint(KEY6)


def test_what_the_programs_noted_stays(instance: Instance) -> None:
    """When the agent writes other flags, and when a new instance takes over what an old one held."""
    instance.put_endpoint(KEY4, abi.Endpoint(1, 0, (0, 0), 0x1234, 5, 2**40, 77))
    instance.put_endpoint(KEY4, abi.Endpoint(3, abi.ENDPOINT_PROBING, (1, 2)))
    held = instance.endpoints()[KEY4]
    assert (held.peer, held.flags, bytes(held.source)) == (3, abi.ENDPOINT_PROBING, b"\1\2")
    assert (held.receiver, held.fragments, held.counter, held.told) == (0x1234, 5, 2**40, 77)
    assert instance.fragments(KEY4) == 5
    assert instance.fragments(KEY6) == 0
    instance.delete_endpoint(KEY4)


def test_near_bits(instance: Instance) -> None:
    def bits() -> set[int]:
        words = [int.from_bytes(value, "little") for _, value in _items(instance.maps["clampd_near"])]
        return {64 * place + bit for place, word in enumerate(words) for bit in range(64) if word >> bit & 1}

    for wanted in ({0, 1, 63, 64, 65535}, {2}, set(range(65536)), set()):
        instance.set_near(wanted)
        assert bits() == wanted


def test_lengths_under_probe(instance: Instance) -> None:
    instance.open_length(KEY4, 1400)
    assert list(instance.maps["clampd_length"]) == [bytes(KEY4) + struct.pack("=HH", 1400, 0)]
    instance.maps["clampd_length"].put(bytes(abi.LengthKey(KEY4, 1400, 0)), bytes(abi.Length(3, 0)))
    assert [instance.left_whole(KEY4, 1400), instance.left_whole(KEY4, 1401), instance.left_whole(KEY6, 1400)] == [
        3,
        0,
        0,
    ]
    instance.close_length(KEY4, 1400)
    assert list(instance.maps["clampd_length"]) == []


@pytest.mark.parametrize(("mtu", "limit"), [(576, 504), (1280, 1120), (1371, 1200), (1372, 1200), (9000, 1200)])
def test_large_limit(mtu: int, limit: int) -> None:
    assert abi.large_limit(mtu) == limit


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
