"""Which routes get an MTU: the rules one by one, and that taking it out again leaves everything as it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.pmtu.routes import Plan, RoutePeer, contested, plan
from mssclamp.wire.route import AF_INET, AF_INET6, UNICAST, Attribute, Flag, Metric, Route

DEVICE, IFINDEX, DEVICE_MTU = "wg0", 3, 1420
BOOT, BIRD = 3, 12


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def route(destination: str, mtu: int | None = None, *, table: int = 254, protocol: int = BOOT, **rest: object) -> Route:
    network = ip_network(destination)
    attributes = (
        (int(Attribute.TABLE), number(table)),
        (int(Attribute.DST), network.network_address.packed),
        (int(Attribute.OIF), number(IFINDEX)),
    )
    family = AF_INET if network.version == 4 else AF_INET6
    plain = Route(family, network, 0, 0, min(table, 255), protocol, 253, UNICAST, 0, attributes)
    return replace(plain.with_mtu(mtu), **rest)


def peer(name: str, *prefixes: str, mtu: int | None = 1328) -> RoutePeer:
    return RoutePeer(name, tuple(map(ip_network, prefixes)), mtu)


def planned(routes: Iterable[Route], *peers: RoutePeer, written: dict[bytes, frozenset[int]] | None = None) -> Plan:
    return plan(DEVICE, DEVICE_MTU, list(routes), peers, written or {})


def mtus(result: Plan) -> dict[str, int | None]:
    return {str(change.route.destination): change.mtu for change in result.changes}


def ours(*routes: Route, mtu: int = 1328) -> dict[bytes, frozenset[int]]:
    return {each.identity: frozenset({mtu}) for each in routes}


# -- whose route it is


def test_routes_inside_the_prefix_get_its_mtu() -> None:
    result = planned([route("10.7.0.0/16"), route("10.7.3.0/24", table=51820), route("10.8.0.0/16")],
                     peer("a", "10.7.0.0/16"))  # fmt: skip
    assert mtus(result) == {"10.7.0.0/16": 1328, "10.7.3.0/24": 1328}
    assert result.problems == ()


def test_the_longest_prefix_decides() -> None:
    peers = peer("a", "10.0.0.0/8", mtu=1300), peer("b", "10.7.0.0/16", mtu=1400)
    assert mtus(planned([route("10.7.0.0/16"), route("10.9.0.0/16")], *peers)) == {
        "10.7.0.0/16": 1400, "10.9.0.0/16": 1300
    }  # fmt: skip


def test_a_peer_without_an_mtu_gets_none() -> None:
    peers = peer("a", "10.0.0.0/8"), peer("b", "10.7.0.0/16", mtu=None)
    assert mtus(planned([route("10.7.0.0/16")], *peers)) == {}


def test_a_wider_route_is_not_written_to_but_named() -> None:
    result = planned([route("10.0.0.0/8")], peer("a", "10.7.0.0/16"))
    assert mtus(result) == {}
    assert result.problems == (
        "wg0: route_mtu finds no route inside 10.7.0.0/16 of a; give the prefix a route of its own",
    )


def test_groups_and_link_local_prefixes_need_no_route() -> None:
    result = planned([route("fe80::/64")], peer("a", "fe80::/64", "ff02::/16", "224.0.0.0/4"))
    assert result == Plan()


def test_many_missing_are_one_sentence() -> None:
    result = planned([], *(peer(f"p{each}", f"10.0.{each}.0/24") for each in range(9)))
    (problem,) = result.problems
    assert "10.0.3.0/24 of p3 and 5 more" in problem


def test_what_the_device_takes_anyway_is_not_said() -> None:
    assert planned([route("10.7.0.0/16")], peer("a", "10.7.0.0/16", mtu=DEVICE_MTU)) == Plan()


def test_ipv6_never_gets_less_than_1280() -> None:
    peers = peer("a", "10.7.0.0/16", "fd07::/48", mtu=1000)
    assert mtus(planned([route("10.7.0.0/16"), route("fd07::/48")], peers)) == {"10.7.0.0/16": 1000, "fd07::/48": 1280}


@pytest.mark.parametrize(
    ("other", "table", "harmed"),
    [
        (peer("b", "10.7.3.0/24", mtu=1400), None, True),
        (peer("b", "10.7.3.0/24", mtu=None), None, True),
        (peer("b", "10.7.3.0/24", mtu=1300), None, False),
        (peer("b", "10.7.3.0/24", mtu=1400), 254, False),
        (peer("b", "10.7.3.0/24", mtu=1400), 77, True),
        (peer("b", "10.8.0.0/16", mtu=1400), None, False),
    ],
)
def test_no_other_peer_gets_less_than_it_can_have(other: RoutePeer, table: int | None, harmed: bool) -> None:
    """One route may lead to peers inside it that have no route of their own in that table."""
    routes = [route("10.7.0.0/16")] + ([] if table is None else [route("10.7.3.0/24", table=table)])
    result = planned(routes, peer("a", "10.0.0.0/8"), other)
    assert ("10.7.0.0/16" not in mtus(result)) is harmed
    assert any("leads to b too" in problem for problem in result.problems) is harmed


def test_a_route_for_some_packets_only_is_no_route_of_its_own() -> None:
    routes = [route("10.7.0.0/16"), route("10.7.3.0/24", tos=16)]
    result = planned(routes, peer("a", "10.0.0.0/8"), peer("b", "10.7.3.0/24", mtu=1400))
    assert mtus(result) == {"10.7.3.0/24": 1400}


# -- what is left alone

UNTOUCHABLE = {
    "bird": (route("10.7.0.0/16", protocol=BIRD), "made by bird"),
    "an unknown protocol": (route("10.7.0.0/16", protocol=77), "made by routing protocol 77"),
    "several next hops": (route("10.7.0.0/16", attributes=((int(Attribute.MULTIPATH), bytes(16)),)), "next hops"),
    "a nexthop object": (route("10.7.0.0/16", attributes=((int(Attribute.NH_ID), number(7)),)), "nexthop object"),
    "encapsulation": (
        route("10.7.0.0/16", attributes=((int(Attribute.OIF), number(3)), (22, b""), (21, b"\6\0"))), "encapsulation"
    ),
    "an unknown attribute": (
        route("10.7.0.0/16", attributes=((int(Attribute.OIF), number(3)), (99, b""))), "attribute 99"
    ),
    "an unknown metric": (route("10.7.0.0/16", metrics=((18, number(1)),)), "metric 18"),
    "an unknown flag": (route("10.7.0.0/16", flags=0x4000), "flags 0x4000"),
    "an mtu": (route("10.7.0.0/16", 1300), "an MTU of its own"),
    "the mtu that we would write": (route("10.7.0.0/16", 1328), "an MTU of its own"),
    "a lock": (route("10.7.0.0/16", metrics=((int(Metric.LOCK), number(4)),)), "an MTU of its own"),
    "sources": (route("10.7.0.0/16", source_length=8), "for some sources only"),
    "an end": (route("10.7.0.0/16", expires=True), "expires"),
}  # fmt: skip


@pytest.mark.parametrize(("untouchable", "why"), UNTOUCHABLE.values(), ids=UNTOUCHABLE)
def test_what_we_do_not_understand_is_left_alone_and_named(untouchable: Route, why: str) -> None:
    result = planned([untouchable], peer("a", "10.7.0.0/16"))
    assert (result.changes, dict(result.ours)) == ((), {})
    (problem,) = result.problems
    assert "10.7.0.0/16" in problem
    assert why in problem


def test_what_leads_nowhere_is_not_even_named() -> None:
    others = [
        route("10.7.0.1/32", type=2, table=255),
        route("10.7.9.9/32", flags=int(Flag.CLONED)),
        route("10.7.0.0/16"),
    ]
    result = planned(others, peer("a", "10.7.0.0/16"))
    assert (mtus(result), result.problems) == ({"10.7.0.0/16": 1328}, ())


def test_other_metrics_stay() -> None:
    before = route("10.7.0.0/16", metrics=((8, number(1000)),))
    (change,) = planned([before], peer("a", "10.7.0.0/16")).changes
    assert change.result.metrics == ((2, number(1328)), (8, number(1000)))


# -- what is ours


def test_ours_is_changed_and_taken_out() -> None:
    written = route("10.7.0.0/16", 1328)
    assert planned([written], peer("a", "10.7.0.0/16"), written=ours(written)).changes == ()
    assert mtus(planned([written], peer("a", "10.7.0.0/16", mtu=1400), written=ours(written))) == {"10.7.0.0/16": 1400}
    for peers in ((), (peer("a", "10.7.0.0/16", mtu=None),), (peer("a", "10.8.0.0/16", mtu=1300),)):
        assert mtus(planned([written], *peers, written=ours(written))) == {"10.7.0.0/16": None}


@pytest.mark.parametrize(
    "changed",
    [
        route("10.7.0.0/16", 1300),
        route("10.7.0.0/16"),
        route("10.7.0.0/16", 1328, protocol=4),
        route("10.7.0.0/16", DEVICE_MTU),
    ],
)
def test_what_somebody_changed_is_forgotten(changed: Route) -> None:
    result = planned([changed], written=ours(route("10.7.0.0/16", 1328)))
    assert (result.changes, dict(result.ours)) == ((), {})


def test_in_ipv6_the_kernel_itself_moves_it_to_the_devices_mtu() -> None:
    moved = route("fd07::/48", DEVICE_MTU)
    assert mtus(planned([moved], written=ours(moved))) == {"fd07::/48": None}
    assert mtus(planned([moved], peer("a", "fd07::/48"), written=ours(moved))) == {"fd07::/48": 1328}


def test_a_change_cut_short_is_known_either_way() -> None:
    for mtu in (1400, 1328):
        stands = route("10.7.0.0/16", mtu)
        both = {stands.identity: frozenset({1400, 1328})}
        assert mtus(planned([stands], written=both)) == {"10.7.0.0/16": None}


# -- several at one place


def test_routes_that_share_a_place_are_contested() -> None:
    one = route("fd07::/48")
    other = route("fd07::/48", attributes=(*one.attributes[:2], (int(Attribute.OIF), number(4))))
    assert one.place == other.place
    assert contested({one.place}, [one, one, route("fd08::/48")]) == set()
    assert contested({one.place}, [one, other]) == {one.place}
    assert contested({one.place}, [one, one.with_mtu(1300)]) == {one.place}


# -- any tables, any peers

lengths = st.integers(8, 24)
networks4 = st.builds(lambda address, length: ip_network((address << 12, length), strict=False),
                      st.integers(0xA0000, 0xA001F), lengths)  # fmt: skip
networks6 = st.builds(lambda address, length: ip_network((address << 112, length), strict=False),
                      st.integers(0xFD00, 0xFD07), st.integers(8, 16))  # fmt: skip
networks = networks4 | networks6
peers_drawn = st.lists(
    st.builds(
        RoutePeer,
        st.sampled_from(["a", "b", "c", "d"]),
        st.lists(networks, min_size=1, max_size=3, unique=True).map(tuple),
        st.none() | st.integers(1000, 1440),
    ),
    max_size=4,
    unique_by=lambda each: each.name,
)
oddities = st.fixed_dictionaries(
    {},
    optional={
        "protocol": st.sampled_from([0, 2, 4, 9, 16, BIRD, 186, 200]),
        "type": st.sampled_from([UNICAST, 2, 5, 6]),
        "flags": st.sampled_from([0, 4, 0x10, 0x200, 0x4000]),
        "expires": st.booleans(),
        "source_length": st.sampled_from([0, 64]),
        "metrics": st.sampled_from(
            [((8, number(1000)),), ((2, number(1328)),), ((1, number(4)), (2, number(1300))), ((18, number(1)),)]
        ),
    },
)
tables = st.lists(
    st.builds(
        lambda network, table, odd: replace(route(str(network), table=table), **odd),
        networks,
        st.sampled_from([254, 77]),
        oddities,
    ),
    max_size=12,
    unique_by=lambda each: each.place,
)


def carried_out(table: list[Route], result: Plan) -> list[Route]:
    """The table afterwards: each change replaces what stands at its place."""
    new = {change.route.place: change.result for change in result.changes}
    return [new.get(each.place, each) for each in table]


@given(tables, st.lists(peers_drawn, min_size=1, max_size=4))
def test_what_is_undone_is_as_it_was(table: list[Route], goals: list[list[RoutePeer]]) -> None:
    now, written = table, {}
    for goal in goals:
        result = planned(now, *goal, written=written)
        now, written = carried_out(now, result), {each: frozenset({mtu}) for each, mtu in result.ours.items()}
        assert planned(now, *goal, written=written).changes == (), "a second look finds nothing to do"
        assert {each.identity for each in now if each.mtu is not None} >= written.keys()
    assert carried_out(now, planned(now, written=written)) == table


@given(tables, peers_drawn)
def test_nothing_is_touched_that_must_not_be(table: list[Route], goal: list[RoutePeer]) -> None:
    for change in planned(table, *goal).changes:
        each = change.route
        assert each.protocol != BIRD
        assert each.protocol < 17
        assert (each.type, each.mtu, each.locks_mtu, each.expires, each.source_length) == (1, None, False, False, 0)
        assert each.flags in (0, 4, 0x10)
        inside = [
            (prefix, peer)
            for peer in goal
            for prefix in peer.prefixes
            if prefix.version == each.destination.version and each.destination.subnet_of(prefix)
        ]
        longest = max(prefix.prefixlen for prefix, _ in inside)
        assert change.mtu in {
            max(peer.mtu or 0, 1280 if prefix.version == 6 else 0)
            for prefix, peer in inside
            if prefix.prefixlen == longest
        }
        assert change.mtu < DEVICE_MTU
        assert change.result.with_mtu(None) == each
