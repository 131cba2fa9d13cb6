"""The only writer of the kernel's half: what comes out, and that nothing worse is met on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_kernel import FakeKernel, install
from mssclamp.daemon.reconcile import Outcome, Rates, Reconciler, Row, Wanted
from mssclamp.datapath import abi, sources
from mssclamp.errors import DatapathError

DEVICES = ("gre7", "up0")


class Bench:
    """A reconciler, the kernel under it, and the time."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.now = 0.0
        self.reconciler = Reconciler(kernel, lambda _: None)

    def restart(self) -> None:
        self.reconciler.close()
        self.reconciler = Reconciler(self.kernel, lambda _: None)
        self.reconciler.adopt()

    def row(self, peer: str, device: str, *prefixes: str, mtu: int = 1400, until: int = abi.FOREVER) -> Row:
        index = {link.name: link.index for link in self.kernel.links()}[device]
        networks = tuple(map(ip_network, prefixes))
        return Row(peer, index, networks, mtu, mtu - 40, mtu - 60, until, clamp=True)

    def apply(self, *rows: Row, devices: tuple[str, ...] = DEVICES, stay_loaded: bool = True) -> Outcome:
        links = {link.name: link for link in self.kernel.links()}
        return self.reconciler.apply(Wanted(rows, devices, Rates(10, 100, 1000), stay_loaded), links, self.now)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    kernel = install(monkeypatch)
    kernel.add("gre7")
    kernel.add_ethernet("up0")
    bench = Bench(kernel)
    yield bench
    bench.reconciler.close()


# -- attaching


def test_each_kind_of_device_gets_its_programs(bench: Bench) -> None:
    outcome = bench.apply()
    assert outcome == Outcome(attached=("gre7", "up0"))
    assert bench.kernel.attached("gre7") == {"clampd_l3_in", "clampd_l3_eg"}
    assert bench.kernel.attached("up0") == {"clampd_l2_in", "clampd_l2_eg"}


def test_what_is_so_already_costs_nothing(bench: Bench) -> None:
    rows = (bench.row("a", "gre7", "10.7.0.0/16"),)
    bench.apply(*rows)
    changes: list[None] = []
    bench.kernel.watch = lambda: changes.append(None)
    assert bench.apply(*rows) == Outcome()
    assert (changes, len(bench.kernel.loaded), bench.kernel.attachments) == ([], 1, ["gre7", "up0"])


def test_without_devices_nothing_is_loaded(bench: Bench) -> None:
    assert bench.apply(devices=()) == Outcome()
    assert bench.apply(devices=("wg0",)) == Outcome()
    assert bench.kernel.loaded == []


def test_a_device_of_an_unknown_kind_is_a_problem(bench: Bench) -> None:
    bench.kernel.add("can0", 72, 280, "can")
    outcome = bench.apply(devices=("can0", "gre7"))
    assert outcome.attached == ("gre7",)
    assert "does not know where packets of this kind of device begin (280)" in outcome.problems["can0"]
    assert bench.kernel.attached("can0") == set()


def test_a_device_that_refuses_does_not_keep_the_others_from_it(bench: Bench) -> None:
    bench.kernel.refusals["gre7"] = "priority 49 is taken"
    outcome = bench.apply()
    assert (outcome.attached, dict(outcome.problems)) == (("up0",), {"gre7": "priority 49 is taken"})
    bench.kernel.refusals.clear()
    assert bench.apply().attached == ("gre7",)


def test_devices_come_and_go(bench: Bench) -> None:
    bench.apply()
    bench.kernel.remove("gre7")
    assert bench.apply() == Outcome(detached=("gre7",))
    bench.kernel.add("gre7")
    assert bench.apply() == Outcome(attached=("gre7",))


def test_what_is_wanted_no_longer_is_taken_off(bench: Bench) -> None:
    bench.apply(bench.row("a", "gre7", "10.7.0.0/16"))
    assert bench.apply(devices=("up0",)).detached == ("gre7",)
    assert bench.kernel.attached("gre7") == set()
    assert bench.apply(devices=(), stay_loaded=False).detached == ("up0",)
    assert bench.reconciler.reasons() == {}


def test_programs_that_cannot_be_loaded_leave_the_old_ones(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (bench.row("a", "gre7", "10.7.0.0/16"),)
    bench.apply(*rows)
    before = bench.kernel.lookups("gre7")
    monkeypatch.setattr(sources, "build_id", lambda: bytes(32))
    bench.restart()
    bench.kernel.loading_problem = "the compiler is gone"
    with pytest.raises(DatapathError, match="the compiler is gone"):
        bench.apply(*rows)
    assert bench.kernel.lookups("gre7") == before != {}
    bench.kernel.loading_problem = None
    bench.apply(*rows)
    assert bench.kernel.lookups("gre7") == before


def test_a_package_that_is_upgraded_under_a_daemon_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (bench.row("a", "gre7", "10.7.0.0/16"),)
    bench.apply(*rows, devices=("gre7",))
    before = bench.kernel.lookups("gre7")
    monkeypatch.setattr(sources, "build_id", lambda: bytes(32))
    bench.apply(*rows, devices=("gre7",))
    assert bench.kernel.lookups("gre7") == before
    many = tuple(bench.row(f"p{number}", "gre7", f"10.8.{number // 256}.{number % 256}/32") for number in range(1100))
    with pytest.raises(DatapathError, match="restart clampd"):
        bench.apply(*many, devices=("gre7",))


# -- the maps


def test_the_maps_hold_what_the_rows_say(bench: Bench) -> None:
    row = replace(bench.row("a", "gre7", "10.7.0.0/16", "2001:db8::/32", mtu=1380, until=5), clamp=False)
    bench.apply(row, bench.row("b", "up0", "10.7.0.0/16", mtu=1500))
    for prefix in ("10.7.0.0/16", "2001:db8::/32"):
        held = bench.kernel.in_force("gre7", prefix)
        assert held is not None
        assert (held.mtu, held.mss4, held.mss6, held.enforce_until, held.flags) == (1380, 1340, 1320, 5, 0)
    other = bench.kernel.in_force("up0", "10.7.0.0/16")
    assert other is not None
    assert (other.mtu, other.flags) == (1500, abi.PEER_CLAMP)


def test_room_grows_before_it_is_needed(bench: Bench) -> None:
    def rows(count: int) -> list[Row]:
        return [bench.row(f"p{number}", "gre7", f"10.{number // 256}.{number % 256}.0/24") for number in range(count)]

    for count in (1, 500, 600, 1100, 2000, 3, 2500):
        bench.apply(*rows(count))
        assert {prefix for _, prefix in bench.kernel.lookups("gre7")} == {str(row.prefixes[0]) for row in rows(count)}
        loaded = len(bench.kernel.loaded)
        bench.apply(*rows(count))
        assert len(bench.kernel.loaded) == loaded
    assert all(room & (room - 1) == 0 for room in bench.kernel.loaded)


def test_counters_stay_with_their_peer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over other peers' coming and going, a restart, and a new version of the programs."""
    a, b, c = (bench.row(name, "gre7", f"10.{number}.0.0/16") for number, name in enumerate("abc"))
    bench.apply(a, b)

    def count(peer: str, clamped: int) -> None:
        instance = bench.reconciler._instance
        assert instance is not None
        instance.set_counters(bench.reconciler._index_of[peer], abi.Counters(clamped=clamped))

    def counted() -> list[int]:
        return [bench.reconciler.counters(peer).clamped for peer in "abc"]

    count("a", 5)
    count("b", 7)
    bench.apply(c, b)
    assert counted() == [0, 7, 0]
    bench.apply(a, b, c)
    assert counted() == [0, 7, 0]
    count("a", 9)
    bench.restart()
    bench.apply(c, b, a)
    assert counted() == [9, 7, 0]
    monkeypatch.setattr(sources, "build_id", lambda: b"\1" * 32)
    bench.restart()
    bench.apply(c, b, a)
    assert counted() == [9, 7, 0]
    bench.restart()
    bench.apply(b, c)
    assert counted() == [0, 7, 0]


# -- on the way

peers = st.dictionaries(
    st.sampled_from("abcd"),
    st.tuples(
        st.sampled_from(DEVICES),
        st.sets(st.sampled_from(("10.0.0.0/8", "10.7.0.0/16", "0.0.0.0/0", "::/0")), max_size=3),
        st.sampled_from((1300, 1400)),
    ),
    max_size=4,
)
steps = st.tuples(peers, st.sampled_from((None, None, "restart", "new version")))


@settings(max_examples=60)
@given(history=st.lists(steps, min_size=1, max_size=6))
@example(  # a prefix went over to another peer while no daemon ran
    history=[
        ({"b": ("up0", {"10.0.0.0/8", "10.7.0.0/16"}, 1300)}, None),
        ({"c": ("up0", {"10.0.0.0/8"}, 1400), "b": ("up0", {"10.0.0.0/8", "10.7.0.0/16"}, 1300)}, "restart"),
    ]
)
def test_at_no_moment_a_packet_meets_anything_else(history: list[tuple[dict, str | None]]) -> None:
    """A prefix that belongs to the same peer before and after is looked up, on every hook, with the value of before or
    of after, at every moment in between; afterwards everything is exactly as wanted."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        kernel = install(monkeypatch)
        kernel.add("gre7")
        kernel.add_ethernet("up0")
        bench = Bench(kernel)
        owners: dict[tuple[str, str], tuple[str, bytes]] = {}
        for version, (world, incident) in enumerate(history):
            taken: set[tuple[str, str]] = set()
            rows = []
            wanted: dict[tuple[str, str], tuple[str, bytes]] = {}
            for name, (device, prefixes, mtu) in world.items():
                free = sorted(prefix for prefix in prefixes if (device, prefix) not in taken)
                taken |= {(device, prefix) for prefix in free}
                rows.append(bench.row(name, device, *free, mtu=mtu))
                wanted |= {(device, prefix): (name, rows[-1].in_kernel()) for prefix in free}

            def check(before: dict = owners, after: dict = wanted) -> None:
                for (device, prefix), (name, value) in before.items():
                    if after.get((device, prefix), ("",))[0] != name:
                        continue
                    met = kernel.lookups(device)
                    for hook in ("ingress", "egress"):
                        assert met.get((hook, prefix)) in (value, after[device, prefix][1])
                for device in DEVICES:
                    assert all(abi.Peer.from_buffer_copy(value).mss4 for value in kernel.lookups(device).values())

            kernel.watch = check
            if incident == "new version":
                monkeypatch.setattr(sources, "build_id", lambda version=version: bytes([version]) * 32)
            if incident is not None:
                bench.restart()
            bench.apply(*rows)
            for device in DEVICES:
                assert kernel.lookups(device) == {
                    (hook, prefix): value
                    for (at, prefix), (_, value) in wanted.items()
                    if at == device
                    for hook in ("ingress", "egress")
                }
            owners = wanted
        bench.reconciler.close()
