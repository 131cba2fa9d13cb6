"""Route messages: literal ones as Linux 6.18 lists them, and whatever else might come."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.wire.route import (
    AF_INET,
    AF_INET6,
    Attribute,
    Flag,
    Metric,
    Route,
    attribute,
    encode,
    lookup_request,
    parse,
    request,
)

# ip route add 10.8.0.0/16 via 10.5.0.9 dev (3) advmss 1000 metric 7 table 77
VIA_GATEWAY = bytes.fromhex(
    "02100000 4d 03 00 01 00000000"
    "08000f00 4d000000  08000100 0a080000  08000600 07000000  0c000800 0800 0800 e8030000"
    "08000500 0a050009  08000400 03000000"
)
# ip route add fd07::/48 dev (3) metric 55 pref high; with the statistics that the kernel tells
IPV6 = (
    bytes.fromhex("0a300000 fe 03 00 01 00000000  08000f00 fe000000")
    + bytes.fromhex("14000100 fd070000000000000000000000000000  08000600 37000000  08000400 03000000")
    + bytes.fromhex(
        "24000c00 00000000 00000000 00000000 00000000 0000000000000000 00000000 00000000  05001400 01000000"
    )
)


def test_a_route_by_a_gateway() -> None:
    route = parse(VIA_GATEWAY)
    assert (route.destination, route.table_id, route.priority, route.ifindex) == (ip_network("10.8.0.0/16"), 77, 7, 3)
    assert route.metrics == ((8, (1000).to_bytes(4, "little")),)
    assert (route.mtu, route.locks_mtu, route.expires) == (None, False, False)


def test_what_the_kernel_only_tells_is_left_out() -> None:
    route = parse(IPV6)
    assert (route.destination, route.priority, route.expires) == (ip_network("fd07::/48"), 55, False)
    assert parse(encode(route)) == route
    assert Attribute.CACHEINFO not in dict(route.attributes)
    down = parse(IPV6[:8] + struct.pack("=I", Flag.LINKDOWN | Flag.ONLINK) + IPV6[12:])
    assert parse(encode(down)).flags == Flag.ONLINK


def test_one_that_expires() -> None:
    at = IPV6.index(bytes.fromhex("24000c00")) + 4 + 8
    assert parse(IPV6[:at] + struct.pack("=i", 100) + IPV6[at + 4 :]).expires


def test_an_mtu_goes_in_and_out() -> None:
    plain = parse(VIA_GATEWAY)
    written = plain.with_mtu(1328)
    assert (written.mtu, parse(encode(written))) == (1328, written)
    assert written.identity == plain.identity == encode(plain)
    assert encode(written.with_mtu(None)) == encode(plain)
    assert dict(written.metrics)[8] == (1000).to_bytes(4, "little")


def test_a_route_without_metrics_gets_none_back() -> None:
    plain = parse(IPV6)
    assert encode(plain.with_mtu(1328).with_mtu(None)) == encode(plain)


def test_a_lock_is_seen() -> None:
    locked = Route(AF_INET, ip_network("10.0.0.0/8"), 0, 0, 254, 3, 0, 1, 0, (), ((Metric.LOCK, b"\4\0\0\0"),))
    assert locked.locks_mtu


@pytest.mark.parametrize("cut", [0, 11, 13, 20, 30])
def test_what_is_cut_short_is_an_error_or_less(cut: int) -> None:
    try:
        parse(VIA_GATEWAY[:cut])
    except ValueError:
        return
    assert cut >= 12


@given(st.binary(max_size=120))
def test_anything_is_a_route_or_an_error(content: bytes) -> None:
    try:
        route = parse(b"\2\0" + content)
    except ValueError:
        return
    assert parse(encode(route)) == parse(encode(parse(encode(route))))


def test_requests_name_what_they_want() -> None:
    asked = parse(request(AF_INET, ifindex=3))
    assert (asked.type, asked.ifindex) == (1, 3)
    assert parse(request(AF_INET, table=77)).table_id == 77


# -- look-ups

# ip route get fibmatch 10.9.0.1, of: ip route add 10.9.0.0/16 nexthop via 10.5.0.9 dev (3) nexthop dev (4) weight 2
TWO_WAYS = bytes.fromhex(
    "02100000 fe 03 00 01 00000000  08000f00 fe000000  08000100 0a090000"
    "1c000900  1000 00 00 03000000 0800 0500 0a050009  0800 00 01 04000000"
)


def test_a_lookup_asks_for_the_route_of_the_table() -> None:
    assert lookup_request(ip_address("192.0.2.7"), 0) == bytes.fromhex(
        "02200000 00 00 00 00 00200000  08000100 c0000207"
    )
    four, six = lookup_request(ip_address("192.0.2.7"), 0xCA6C), lookup_request(ip_address("2001:db8::7"), 1)
    asked = parse(four)
    assert (asked.destination, asked.flags) == (ip_network("192.0.2.7/32"), Flag.FIB_MATCH)
    assert dict(asked.attributes)[Attribute.MARK] == (0xCA6C).to_bytes(4, "little")
    asked = parse(six)
    assert (asked.family, asked.destination) == (AF_INET6, ip_network("2001:db8::7/128"))


def test_every_next_hop_is_seen() -> None:
    assert parse(TWO_WAYS).ifindexes == {3, 4}
    assert parse(TWO_WAYS).ifindex is None
    assert parse(VIA_GATEWAY).ifindexes == {3}
    assert parse(VIA_GATEWAY[:12]).ifindexes == frozenset()


@given(st.binary(max_size=80))
def test_next_hops_of_whatever_kind(hops: bytes) -> None:
    found = parse(VIA_GATEWAY + attribute(Attribute.MULTIPATH, hops)).ifindexes
    assert 3 in found
    assert len(found) <= 1 + len(hops) // 8
