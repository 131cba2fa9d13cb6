"""What a device's numbers say about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mssclamp.datapath import links
from mssclamp.datapath.attach import programs_for
from mssclamp.datapath.links import Link


def link(hardware_type: int, kind: str = "", name: str = "dev0") -> Link:
    return Link(7, name, 1500, hardware_type, kind)


@pytest.mark.parametrize(
    ("hardware_type", "what"),
    [(1, "Ethernet, veth, VLAN, VXLAN, GRETAP, a bridge, a TAP device"), (772, "loopback")],
)
def test_with_a_link_header(hardware_type: int, what: str) -> None:
    del what
    device = link(hardware_type)
    assert (device.has_link_header, device.is_supported) == (True, True)
    assert programs_for(device) == {"ingress": "clampd_l2_in", "egress": "clampd_l2_eg"}


@pytest.mark.parametrize(
    ("hardware_type", "what"),
    [
        (512, "ppp"),
        (519, "rawip: cellular modems"),
        (768, "ipip"),
        (769, "ip6tnl"),
        (776, "sit"),
        (778, "gre"),
        (823, "ip6gre"),
        (65534, "none: wireguard, tun, xfrm"),
    ],
)
def test_without_a_link_header(hardware_type: int, what: str) -> None:
    del what
    device = link(hardware_type)
    assert (device.has_link_header, device.is_supported) == (False, True)
    assert programs_for(device) == {"ingress": "clampd_l3_in", "egress": "clampd_l3_eg"}


@pytest.mark.parametrize("hardware_type", [24, 32, 280, 801, 803, 804, 0, 65535])
def test_what_is_not_known_is_not_guessed(hardware_type: int) -> None:
    """Firewire, InfiniBand, CAN, Wi-Fi monitors, IEEE 802.15.4: packets there begin with something else."""
    assert not link(hardware_type).is_supported


def test_the_kernels_wireguard() -> None:
    assert link(65534, "wireguard").is_wireguard
    assert not link(65534, "").is_wireguard


def test_a_user_space_wireguard_is_a_tun_device_with_an_api_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wg0.sock").touch()
    monkeypatch.setattr(links, "_WIREGUARD_SOCKETS", (tmp_path / "nowhere", tmp_path))
    assert link(65534, "tun", "wg0").is_wireguard
    assert not link(65534, "tun", "wg1").is_wireguard
    assert not link(65534, "gre", "wg0").is_wireguard
    assert not link(1, "veth", "wg0").is_wireguard
