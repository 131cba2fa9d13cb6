"""Where outer packets go, by what the configuration and WireGuard's devices say."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from mssclamp import config
from mssclamp.daemon.facts import gather
from mssclamp.datapath.links import Link
from mssclamp.pmtu.table import Outer, PeerFacts
from mssclamp.wire.wireguard import Endpoint, WireGuardPeer

KEY = b"\1" * 32
TEXT = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="


def link(name: str, kind: str) -> Link:
    return Link(7, name, 1420, 65534, kind)


def declared(tmp_path: Path, kind: str, *lines: str) -> PeerFacts:
    file = tmp_path / "clampd.toml"
    peer = ["[[peer]]", 'name = "site"', 'device = "dev0"', 'prefixes = ["10.7.0.0/16"]', *lines]
    file.write_text("\n".join(peer))
    (facts,) = gather(config.load(file), {"dev0": link("dev0", kind)}, {}).facts
    return facts


@pytest.mark.parametrize(
    ("kind", "endpoint", "outer"),
    [
        ("gre", "192.0.2.7", Outer(ip_address("192.0.2.7"), 47)),
        ("vxlan", "192.0.2.7:4789", Outer(ip_address("192.0.2.7"), 17, 4789)),
        ("ip6gre", "2001:db8::7", Outer(ip_address("2001:db8::7"), 47)),
        ("vxlan", "[2001:db8::7]:4789", Outer(ip_address("2001:db8::7"), 17, 4789)),
        ("sit", "192.0.2.7", Outer(ip_address("192.0.2.7"), 41)),
        ("tun", "192.0.2.7:1194", None),  # who knows what its packets look like?
    ],
)
def test_a_declared_endpoint(tmp_path: Path, kind: str, endpoint: str, outer: Outer | None) -> None:
    facts = declared(tmp_path, kind, f'endpoint = "{endpoint}"')
    assert (facts.outer, facts.endpoint) == (outer, endpoint)


def test_a_peer_without_an_endpoint(tmp_path: Path) -> None:
    facts = declared(tmp_path, "gre")
    assert (facts.outer, facts.probe, facts.probe_address) == (None, True, None)


def test_how_to_probe_is_said(tmp_path: Path) -> None:
    facts = declared(tmp_path, "gre", "probe = false", 'probe_address = "10.7.0.1"')
    assert (facts.probe, facts.probe_address) == (False, ip_address("10.7.0.1"))


def wireguard(tmp_path: Path, text: str = "", endpoint: str | None = "192.0.2.7") -> PeerFacts:
    file = tmp_path / "clampd.toml"
    file.write_text(text)
    where = None if endpoint is None else Endpoint(ip_address(endpoint), 51820)
    peer = WireGuardPeer(KEY, where, (ip_network("10.7.0.0/16"),), mark=0xCA6C, listen_port=51821)
    (facts,) = gather(config.load(file), {"wg0": link("wg0", "wireguard")}, {"wg0": {KEY: peer}}).facts
    return facts


def test_a_wireguard_peer(tmp_path: Path) -> None:
    facts = wireguard(tmp_path)
    assert facts.outer == Outer(ip_address("192.0.2.7"), 17, 51820, mark=0xCA6C, source_port=51821)
    assert wireguard(tmp_path, endpoint=None).outer is None
    assert (facts.as_sent(1340, 1420), facts.as_sent(1415, 1420)) == (1344, 1420)


def test_how_to_probe_a_wireguard_peer_is_said(tmp_path: Path) -> None:
    said = f'[[peer]]\nname = "a"\ndevice = "wg0"\npublic_key = "{TEXT}"\nprobe = false\nprobe_address = "10.7.0.1"\n'
    facts = wireguard(tmp_path, said)
    assert (facts.name, facts.probe, facts.probe_address) == ("a", False, ip_address("10.7.0.1"))
