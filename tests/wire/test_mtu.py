"""Sizes: the numbers that an operator would expect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.wire import mtu


@pytest.mark.parametrize(
    ("size", "mss4", "mss6"),
    [
        (1500, 1460, 1440),
        (1420, 1380, 1360),
        (1280, 1240, 1220),
        (9000, 8960, 8940),
        (597, 557, 537),
        (576, 536, 536),
        (68, 536, 536),
        (0, 536, 536),
    ],
)
def test_mss_for_mtu(size: int, mss4: int, mss6: int) -> None:
    assert mtu.mss_for_mtu(size, 4) == mss4
    assert mtu.mss_for_mtu(size, 6) == mss6


def test_wireguard_overhead() -> None:
    assert mtu.wireguard_overhead(4) == 60
    assert mtu.wireguard_overhead(6) == 80


@pytest.mark.parametrize(
    ("inner", "device", "padded"),
    [(0, 1420, 0), (1, 1420, 16), (1328, 1420, 1328), (1340, 1420, 1344), (1409, 1420, 1420), (1420, 1420, 1420)],
)
def test_wireguard_padding_stops_at_the_device(inner: int, device: int, padded: int) -> None:
    assert mtu.wireguard_padded(inner, device) == padded


@pytest.mark.parametrize(
    ("path", "device", "outer", "peer"),
    [
        (1400, 1420, 4, 1328),  # 1340 would be padded to 1344: 1404 outer
        (1500, 1420, 4, 1420),
        (1480, 1420, 4, 1420),  # exactly the device's MTU, unpadded
        (1479, 1420, 4, 1408),
        (1500, 1420, 6, 1420),
        (1492, 1420, 6, 1408),
        (1280, 1420, 4, 1216),
    ],
)
def test_wireguard_peer_mtu(path: int, device: int, outer: mtu.IpVersion, peer: int) -> None:
    assert mtu.wireguard_peer_mtu(path, device, outer) == peer


@given(st.integers(576, 9000), st.integers(576, 9000), st.sampled_from([4, 6]))
def test_wireguard_peer_mtu_is_the_largest_below_which_all_fit(path: int, device: int, outer: mtu.IpVersion) -> None:
    def leaves_whole(inner: int) -> bool:
        return mtu.wireguard_padded(inner, device) + mtu.wireguard_overhead(outer) <= path

    largest = mtu.wireguard_peer_mtu(path, device, outer)
    assert all(leaves_whole(inner) for inner in range(max(0, largest - 20), largest + 1))
    assert largest == device or not leaves_whole(largest + 1)


@pytest.mark.parametrize(
    ("kind", "over4", "over6"),
    [
        ("wireguard", 60, 80),
        ("gre", 24, 24),
        ("gretap", 38, 38),
        ("ip6gre", 52, 52),
        ("ip6gretap", 66, 66),
        ("ipip", 20, 20),
        ("sit", 20, 20),
        ("ip6tnl", 48, 48),
        ("vxlan", 50, 70),
        ("geneve", 50, 70),
        ("ppp", 8, 8),
        ("pppoe", 8, 8),
        ("veth", 0, 0),
        ("vlan", 0, 0),
        (None, 0, 0),
        ("xfrm", None, None),
        ("tun", None, None),
        ("what is this", None, None),
    ],
)
def test_default_overhead(kind: str | None, over4: int | None, over6: int | None) -> None:
    assert mtu.default_overhead(kind) == over4
    assert mtu.default_overhead(kind, 6) == over6


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [("wireguard", 17), ("vxlan", 17), ("gre", 47), ("ip6gretap", 47), ("ipip", 4), ("sit", 41), ("ip6tnl", 41)]
    + [(kind, None) for kind in ("tun", "ppp", "veth", "xfrm", None)],
)
def test_tunnel_protocol(kind: str | None, protocol: int | None) -> None:
    assert mtu.tunnel_protocol(kind) == protocol
