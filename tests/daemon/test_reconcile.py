"""The only writer of the kernel's half: what comes out, and that nothing worse is met on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_kernel import FakeKernel, install
from mssclamp.daemon.outer import OuterWatch, SegmentWatch
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
        return self.reconciler.apply(
            Wanted({row.peer: row for row in rows}, devices, Rates(10, 100, 1000), stay_loaded), links, self.now
        )


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


def test_without_devices_the_programs_are_at_hand(bench: Bench) -> None:
    """At boot a device that comes up must not wait for the compiler. Where clampd is kept off there is no need."""
    assert bench.apply(devices=(), stay_loaded=False) == Outcome()
    assert bench.kernel.loaded == []
    assert bench.apply(devices=()) == Outcome()
    assert bench.apply(devices=("wg0",)) == Outcome()
    assert (len(bench.kernel.loaded), bench.kernel.attachments) == (1, [])


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


# -- what cannot wait for a pass


def small_packet(bench: Bench) -> int:
    instance = bench.reconciler._instance
    assert instance is not None
    raw = instance.maps["clampd_config"].get(bytes(4))
    assert raw is not None
    return int(abi.Config.from_buffer_copy(raw).small_packet)


def test_one_peer_s_values_are_put_at_once(bench: Bench) -> None:
    a, b = bench.row("a", "gre7", "10.7.0.0/16"), bench.row("b", "gre7", "10.8.0.0/16")
    b = replace(b, answer=True)
    bench.apply(a, b)
    lower = replace(a, mtu=1300, mss4=1260, mss6=1240, answer=True)
    bench.reconciler.put(lower)
    held, other = bench.kernel.in_force("gre7", "10.7.0.0/16"), bench.kernel.in_force("gre7", "10.8.0.0/16")
    assert held is not None
    assert other is not None
    assert (held.mtu, held.flags, other.mtu) == (1300, abi.PEER_CLAMP | abi.PEER_ANSWER, 1400)
    changes: list[None] = []
    bench.kernel.watch = lambda: changes.append(None)
    bench.reconciler.put(lower)
    bench.apply(lower, b)  # the next pass finds it so
    assert changes == []


def test_a_peer_that_gets_small_has_smaller_large_packets(bench: Bench) -> None:
    """Else the programs would pass over what is large for it."""
    row = bench.row("a", "gre7", "10.7.0.0/16")
    bench.apply(row)
    assert small_packet(bench) == 1200
    order: list[int] = []
    bench.kernel.watch = lambda: order.append(small_packet(bench))
    bench.reconciler.put(replace(row, mtu=800))
    assert small_packet(bench) == 700
    assert order[0] == 700  # before the peer's own value
    bench.apply(row)
    assert small_packet(bench) == 1200


def test_a_peer_that_is_not_in_the_maps_yet_waits_for_the_pass(bench: Bench) -> None:
    row = bench.row("a", "gre7", "10.7.0.0/16")
    bench.reconciler.put(row)
    assert bench.kernel.loaded == []
    bench.apply()
    bench.reconciler.put(row)
    assert bench.kernel.in_force("gre7", "10.7.0.0/16") is None


def test_the_kernel_may_refuse(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    row = bench.row("a", "gre7", "10.7.0.0/16")
    bench.apply(row)
    instance = bench.reconciler._instance
    assert instance is not None

    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(instance, "put_peer", refuse)
        with pytest.raises(DatapathError, match=r"the kernel refuses: .*Operation not permitted"):
            bench.reconciler.put(replace(row, mtu=1300))
    bench.reconciler.put(replace(row, mtu=1300))  # not taken for written
    held = bench.kernel.in_force("gre7", "10.7.0.0/16")
    assert held is not None
    assert held.mtu == 1300


# -- the underlay

NEAR, FAR = (abi.endpoint_key(ip_address(address), 51820, 17) for address in ("198.51.100.7", "2001:db8::7"))


def underlay(
    bench: Bench,
    *rows: Row,
    devices: tuple[str, ...] = ("gre7",),
    carrying: tuple[str, ...] = ("up0",),
    endpoints: dict[abi.EndpointKey, tuple[str, int, int]] | None = None,
) -> Outcome:
    links = {link.name: link for link in bench.kernel.links()}
    wanted = Wanted(
        {row.peer: row for row in rows},
        devices,
        Rates(10, 100, 1000),
        stay_loaded=True,
        underlay=carrying,
        endpoints={bytes(key): value for key, value in (endpoints or {}).items()},
    )
    return bench.reconciler.apply(wanted, links, bench.now)


def endpoints(bench: Bench) -> dict[abi.EndpointKey, tuple[str | None, int, int]]:
    """In the kernel: by endpoint the peer, the flags and our port."""
    with bench.reconciler.held() as instance:
        assert instance is not None
        return {
            key: (bench.reconciler.peer_at(held.peer), held.flags, int.from_bytes(bytes(held.source), "big"))
            for key, held in instance.endpoints().items()
        }


def near(bench: Bench) -> set[int]:
    """The bits of clampd_near that are set."""
    with bench.reconciler.held() as instance:
        assert instance is not None
        words = [instance.maps["clampd_near"].get(number.to_bytes(4, "little")) for number in range(abi.NEAR // 64)]
    values = [int.from_bytes(word or b"", "little") for word in words]
    return {64 * place + bit for place, value in enumerate(values) if value for bit in range(64) if value >> bit & 1}


def test_endpoints_are_written_and_removed(bench: Bench) -> None:
    a, b = bench.row("a", "gre7", "10.7.0.0/16"), bench.row("b", "gre7", "10.8.0.0/16")
    wanted = {NEAR: ("a", abi.ENDPOINT_TAKE_ICMP, 51820), FAR: ("b", 0, 0)}
    underlay(bench, a, b, endpoints=wanted)
    assert endpoints(bench) == wanted
    assert near(bench) == {abi.near_index(NEAR.ip), abi.near_index(FAR.ip)}
    changes: list[None] = []
    bench.kernel.watch = lambda: changes.append(None)
    underlay(bench, a, b, endpoints=wanted)
    assert changes == []
    underlay(bench, a, b, endpoints={FAR: ("b", abi.ENDPOINT_TAKE_ICMP, 0)})
    assert endpoints(bench) == {FAR: ("b", abi.ENDPOINT_TAKE_ICMP, 0)}
    assert near(bench) == {abi.near_index(FAR.ip)}


def test_an_endpoint_of_nobody_is_not_written(bench: Bench) -> None:
    underlay(bench, bench.row("a", "gre7", "10.7.0.0/16"), endpoints={NEAR: ("a", 0, 0), FAR: ("gone", 0, 0)})
    assert endpoints(bench) == {NEAR: ("a", 0, 0)}


def test_endpoints_come_after_their_peers(bench: Bench) -> None:
    """At no moment one leads to a peer that the map does not have."""
    rows = [bench.row(name, "gre7", f"10.{number}.0.0/16") for number, name in enumerate("abc")]
    underlay(bench, rows[0], endpoints={NEAR: ("a", 0, 0)})

    def check() -> None:
        with bench.reconciler.held() as instance:
            assert instance is not None
            for held in instance.endpoints().values():
                assert instance.peer(held.peer).mtu

    bench.kernel.watch = check
    underlay(bench, *rows[:2], endpoints={NEAR: ("a", 0, 0), FAR: ("b", 0, 0)})
    underlay(bench, *rows, endpoints={NEAR: ("c", 0, 0), FAR: ("b", 0, 0)})
    assert endpoints(bench) == {NEAR: ("c", 0, 0), FAR: ("b", 0, 0)}


def test_endpoints_over_a_restart(bench: Bench) -> None:
    """What the programs have noted of them stays; those that are wanted no more go."""
    row = bench.row("a", "gre7", "10.7.0.0/16")
    underlay(bench, row, endpoints={NEAR: ("a", 0, 51820), FAR: ("a", 0, 51820)})
    with bench.reconciler.held() as instance:
        assert instance is not None
        noted = abi.Endpoint(instance.endpoints()[NEAR].peer, 0, (0xCA, 0x6C), 77, 5, 1234)
        instance.maps["clampd_endpoint"].put(bytes(NEAR), bytes(noted))
    bench.restart()
    underlay(bench, row, endpoints={NEAR: ("a", abi.ENDPOINT_TAKE_ICMP, 51820)})
    with bench.reconciler.held() as instance:
        assert instance is not None
        (held,) = instance.endpoints().values()
    assert (held.flags, held.receiver, held.fragments, held.counter) == (abi.ENDPOINT_TAKE_ICMP, 77, 5, 1234)


def test_other_flags_do_not_end_a_search(bench: Bench) -> None:
    """Somebody says `enforce` while lengths are under probe."""
    row = bench.row("a", "gre7", "10.7.0.0/16")
    underlay(bench, row, endpoints={NEAR: ("a", 0, 0)})
    watch = OuterWatch(bench.reconciler, NEAR)
    watch.open({1400, 1480})
    underlay(bench, row, endpoints={NEAR: ("a", abi.ENDPOINT_TAKE_ICMP, 0)})
    assert endpoints(bench)[NEAR] == ("a", abi.ENDPOINT_TAKE_ICMP | abi.ENDPOINT_PROBING, 0)
    watch.close({1400, 1480})
    assert endpoints(bench)[NEAR] == ("a", abi.ENDPOINT_TAKE_ICMP, 0)


def test_two_searches_with_one_endpoint(bench: Bench) -> None:
    """As of two devices that lead to one server: the end of one leaves the other's lengths under probe."""
    underlay(bench, bench.row("a", "gre7", "10.7.0.0/16"), endpoints={NEAR: ("a", 0, 0)})
    one, two = OuterWatch(bench.reconciler, NEAR), OuterWatch(bench.reconciler, NEAR)

    def leave_whole(length: int) -> None:
        with bench.reconciler.held() as instance:
            assert instance is not None
            whole = instance.left_whole(NEAR, length) + 1
            instance.maps["clampd_length"].put(bytes(abi.LengthKey(NEAR, length, 0)), bytes(abi.Length(whole, 0)))

    one.open({1400, 1480})
    leave_whole(1480)
    two.open({1300, 1480})
    assert (one.whole(1480), two.whole(1480)) == (1, 0)
    leave_whole(1480)
    one.close({1400, 1480})
    assert endpoints(bench)[NEAR] == ("a", abi.ENDPOINT_PROBING, 0)
    assert two.whole(1480) == 1
    two.close({1300, 1480})
    assert endpoints(bench)[NEAR] == ("a", 0, 0)
    with bench.reconciler.held() as instance:
        assert instance is not None
        assert list(instance.maps["clampd_length"]) == []


def test_a_search_that_was_cut_short_leaves_nothing_behind(bench: Bench) -> None:
    """As by kill -9: nobody is at work there any more."""
    row = bench.row("a", "gre7", "10.7.0.0/16")
    underlay(bench, row, endpoints={NEAR: ("a", 0, 0)})
    OuterWatch(bench.reconciler, NEAR).open({1400})
    bench.restart()
    underlay(bench, row, endpoints={NEAR: ("a", 0, 0)})
    assert endpoints(bench) == {NEAR: ("a", 0, 0)}


def test_programs_on_the_underlay(bench: Bench) -> None:
    outcome = underlay(bench)
    assert outcome == Outcome(attached=("gre7",))  # of the devices that are managed
    assert bench.kernel.attached("up0") == {"clampd_u2_in", "clampd_u2_eg"}
    assert (bench.reconciler.carries("up0"), bench.reconciler.is_attached("up0")) == (True, False)
    underlay(bench, carrying=())
    assert bench.kernel.attached("up0") == set()
    assert bench.kernel.attached("gre7") == {"clampd_l3_in", "clampd_l3_eg"}
    assert not bench.reconciler.carries("up0")


def test_without_managed_devices_the_underlay_is_left_alone(bench: Bench) -> None:
    underlay(bench)
    underlay(bench, devices=())
    assert bench.kernel.attached("up0") == set()


def test_a_device_may_play_both_roles(bench: Bench) -> None:
    """As one tunnel inside another."""
    underlay(bench, devices=("gre7", "up0"), carrying=("up0", "gre7"))
    assert bench.kernel.attached("gre7") == {"clampd_l3_in", "clampd_l3_eg", "clampd_u3_in", "clampd_u3_eg"}
    underlay(bench, devices=("gre7",), carrying=("up0", "gre7"))
    assert bench.kernel.attached("up0") == {"clampd_u2_in", "clampd_u2_eg"}
    underlay(bench, devices=("gre7", "up0"), carrying=("gre7",))
    assert bench.kernel.attached("up0") == {"clampd_l2_in", "clampd_l2_eg"}
    assert len(bench.kernel.loaded) == 1


def test_a_new_version_takes_over_both_roles(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    underlay(bench, devices=("gre7", "up0"), carrying=("up0",))
    before = dict(bench.kernel.filters_of[bench.kernel.links()[1].index])
    monkeypatch.setattr(sources, "build_id", lambda: b"\1" * 32)
    bench.restart()
    underlay(bench, devices=("gre7", "up0"), carrying=("up0",))
    after = bench.kernel.filters_of[bench.kernel.links()[1].index]
    assert before.keys() == after.keys()
    assert len(after) == 4
    assert not {program.id for program in before.values()} & {program.id for program in after.values()}


def test_the_underlay_after_a_daemon_that_left_it_alone(bench: Bench) -> None:
    """What was adopted lacks the programs for it."""
    bench.apply(devices=("gre7",))
    bench.restart()
    underlay(bench)
    assert bench.kernel.attached("up0") == {"clampd_u2_in", "clampd_u2_eg"}
    assert bench.kernel.attached("gre7") == {"clampd_l3_in", "clampd_l3_eg"}


def test_who_keeps_taking_the_underlay_s_filters_off_means_it(bench: Bench) -> None:
    """They stay off; the device's own stay on."""
    index = bench.kernel.links()[1].index
    outcome = Outcome()
    for _ in range(3):
        assert "up0" not in outcome.problems
        underlay(bench, devices=("gre7", "up0"))
        assert len(bench.kernel.attached("up0")) == 4
        for key in [key for key in bench.kernel.filters_of[index] if key[1] == "underlay"]:
            del bench.kernel.filters_of[index][key]
        bench.now += 1
        outcome = underlay(bench, devices=("gre7", "up0")) if bench.now == 3 else Outcome()
    assert "`clampctl attach up0` tries again" in outcome.problems["up0"]
    assert bench.kernel.attached("up0") == {"clampd_l2_in", "clampd_l2_eg"}
    assert not bench.reconciler.carries("up0")
    bench.now += 600
    underlay(bench, devices=("gre7", "up0"))
    assert bench.kernel.attached("up0") == {"clampd_l2_in", "clampd_l2_eg"}
    bench.reconciler.forgive(None)
    underlay(bench, devices=("gre7", "up0"))
    assert len(bench.kernel.attached("up0")) == 4


# -- whose segments are watched


def test_acknowledged_segments_of_suspects(bench: Bench) -> None:
    """The programs look at acknowledgements only while there is anybody in doubt."""

    def suspects() -> int:
        instance = bench.reconciler._instance
        assert instance is not None
        raw = instance.maps["clampd_config"].get(bytes(4))
        assert raw is not None
        return int(abi.Config.from_buffer_copy(raw).suspects)

    rows = [bench.row(name, "gre7", f"10.{number}.0.0/16") for number, name in enumerate("ab")]
    bench.apply(*rows)
    one = SegmentWatch(bench.reconciler, "a", lambda size: size + 7)
    two = SegmentWatch(bench.reconciler, "b", lambda size: size)
    assert one.passed() is None
    one.begin()
    two.begin()
    assert suspects() == 2
    with bench.reconciler.held() as instance:
        assert instance is not None
        index = bench.reconciler._index_of["a"]
        began = instance.acked(index).since
        assert began > 0
        instance.maps["clampd_acked"].put(index.to_bytes(4, "little"), bytes(abi.Acked(began, began + 1, 1393)))
    assert (one.passed(), two.passed()) == (1400, None)
    bench.apply(*rows)
    assert suspects() == 2
    bench.reconciler._put_config(abi.Config(suspects=0))  # worked out while the prober's thread began
    assert suspects() == 2
    one.end()
    two.end()
    assert suspects() == 0
    assert SegmentWatch(bench.reconciler, "nobody", lambda size: size).passed() is None


# -- the prober's sockets


def test_the_prober_s_sockets_are_known_to_every_instance(bench: Bench) -> None:
    def allowed() -> set[int]:
        with bench.reconciler.held() as instance:
            assert instance is not None
            return {int.from_bytes(key, "little") for key in instance.maps["clampd_prober"]}

    bench.reconciler.allow_prober(4711)
    bench.apply()
    bench.reconciler.allow_prober(4712)
    assert allowed() == {4711, 4712}
    bench.reconciler.forget_prober(4711)
    many = [bench.row(f"p{number}", "gre7", f"10.8.{number // 256}.{number % 256}/32") for number in range(1100)]
    bench.apply(*many)
    assert len(bench.kernel.loaded) == 2
    assert allowed() == {4712}


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
