"""Route messages: literal ones as Linux 6.18 lists them, and whatever else might come."""

from __future__ import annotations

import struct
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.wire.route import AF_INET, Attribute, Flag, Metric, Route, encode, parse, request

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
