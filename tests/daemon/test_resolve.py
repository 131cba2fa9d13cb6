"""From what a person typed to a peer: names, keys, addresses; compared with a stupid search where rules are many."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.daemon.resolve import Resolved, longest_match, resolve
from mssclamp.errors import AmbiguousError, NotFoundError
from mssclamp.pmtu.table import Address, Peer, PeerFacts, Value

KEY_A = "mV3k9Qa1cT+bYxZ0/ABCDEFGHIJKLMNOPQRSTUVWXY0="
KEY_B = "mV3k8xyzcTAbYxZ00ABCDEFGHIJKLMNOPQRSTUVWXY0="


def peer(name: str, device: str, *prefixes: str, key: str | None = None, peer_id: str | None = None) -> Peer:
    facts = PeerFacts(peer_id or name, name, device, tuple(map(ip_network, prefixes)), public_key=key)
    return Peer(facts, Value(1400, "unprobed", "device", "a test"), 0.0)


PEERS = {
    each.facts.id: each
    for each in (
        peer("branch-7", "gre7", "10.7.0.0/16", "2001:db8:7::/48"),
        peer("branch-7a", "gre7", "10.7.8.0/24"),
        peer("north", "wg0", "0.0.0.0/0", "::/0"),
        peer("south", "wg1", "0.0.0.0/0", "::/0", "10.9.0.0/16"),
        peer("anna", "wg2", "10.99.0.4/32", "fe80::/64", key=KEY_A, peer_id="wg2:anna"),
        peer("bert", "wg2", "10.99.0.5/32", key=KEY_B, peer_id="wg2:bert"),
        peer("10.0.0.1", "gre9", "192.0.2.1/32"),
    )
}


def nowhere(_: Address) -> str | None:
    return None


def find(reference: str, device: str | None = None, routed: str | None = None) -> Resolved:
    return resolve(reference, device, PEERS, lambda _: routed)


@pytest.mark.parametrize(
    ("reference", "device", "routed", "name"),
    [
        # A name or an id, whole.
        ("branch-7", None, None, "branch-7"),
        ("branch-7", "gre7", None, "branch-7"),
        ("gre7:branch-7", None, None, "branch-7"),
        ("wg2:anna", None, None, "anna"),
        ("anna", None, None, "anna"),
        ("10.0.0.1", None, "gre7", "10.0.0.1"),  # a name first, whatever it looks like
        # A public key in either alphabet, or its beginning.
        (KEY_A, None, None, "anna"),
        (KEY_A.rstrip("="), None, None, "anna"),
        (KEY_A.replace("+", "-").replace("/", "_"), None, None, "anna"),
        ("mV3k9", None, None, "anna"),
        ("mV3k8", None, None, "bert"),
        ("mV3k9Qa1cT-bY", None, None, "anna"),
        # An address: the device that the routing table chooses, then the longest prefix.
        ("10.7.1.2", None, "gre7", "branch-7"),
        ("10.7.8.9", None, "gre7", "branch-7a"),
        ("2001:db8:7::1", None, "gre7", "branch-7"),
        ("10.7.8.9", None, "wg0", "north"),
        ("10.7.8.9", "wg1", "wg0", "south"),
        ("8.8.8.8", "wg0", None, "north"),
        ("::1", None, "wg1", "south"),
        ("fe80::1%wg2", None, "eth0", "anna"),
        ("fe80::1%wg2", "wg0", "eth0", "north"),  # --device decides
    ],
)
def test_found(reference: str, device: str | None, routed: str | None, name: str) -> None:
    assert find(reference, device, routed).peer.facts.name == name


def test_an_address_tells_the_prefix_that_led_to_its_peer() -> None:
    found = find("10.7.8.9", "gre7")
    assert (found.address, found.prefix) == (IPv4Address("10.7.8.9"), IPv4Network("10.7.8.0/24"))
    assert find("10.7.8.9", "wg1").prefix == IPv4Network("0.0.0.0/0")
    named = find("branch-7")
    assert (named.address, named.prefix) == (None, None)


@pytest.mark.parametrize(
    ("reference", "device"),
    [
        ("nobody", None),
        ("branch-7", "wg0"),
        ("branch", None),  # the beginning of a name is none
        ("", None),
        ("=", None),
        ("====", None),
        ("mV3", None),  # too short for a key
        ("mV3k7", None),
        ("192.0.2.9", "gre9"),
        ("2001:db8::1", "gre9"),
        ("10.7.8.9/32", None),
        ("10.7.8", None),
    ],
)
def test_not_found(reference: str, device: str | None) -> None:
    with pytest.raises(NotFoundError, match="clampctl peers"):
        find(reference, device)


def test_several_keys_with_this_beginning() -> None:
    with pytest.raises(AmbiguousError, match=r"'mV3k' fits 2 peers: wg2:anna \(wg2\), wg2:bert \(wg2\); write one"):
        find("mV3k")


@pytest.mark.parametrize("reference", ["8.8.8.8", "10.9.1.1", "10.7.8.9"])
def test_where_the_routing_table_leads_elsewhere_several_devices_are_several_answers(reference: str) -> None:
    with pytest.raises(AmbiguousError, match="or say which --device is meant") as caught:
        find(reference, routed="eth0")
    assert "north (wg0)" in caught.value.message


def test_where_the_routing_table_leads_elsewhere_one_device_will_do() -> None:
    few = {name: PEERS[name] for name in ("branch-7", "branch-7a")}
    assert resolve("10.7.8.9", None, few, nowhere).peer.facts.name == "branch-7a"
    assert resolve("10.7.1.2", None, few, nowhere).peer.facts.name == "branch-7"


def test_a_long_list_is_cut() -> None:
    many = {f"p{number}": peer(f"p{number}", f"wg{number}", "0.0.0.0/0") for number in range(20)}
    with pytest.raises(AmbiguousError, match=r"fits 20 peers: p0 .* and 12 more"):
        resolve("192.0.2.1", None, many, nowhere)


# -- against a stupid search

small = st.integers(0, 15)  # addresses that differ in four bits only


def network(version: int, bits: int, length: int) -> IPv4Network | IPv6Network:
    """A prefix of one to four of the address's last bits, or all or none of it."""
    kind, size = (IPv4Network, 32) if version == 4 else (IPv6Network, 128)
    length = {0: 0, 5: size}.get(length, size - 4 + length)
    return kind((bits & ((1 << size) - (1 << (size - length))), length))


networks = st.builds(network, st.sampled_from((4, 6)), small, st.integers(0, 5))
tables = st.lists(st.tuples(st.sampled_from(("wg0", "wg1")), st.lists(networks, max_size=3, unique=True)), max_size=5)


def stupid(address: Address, rows: list[Peer]) -> list[Peer]:
    """Longest prefix first: the first length at which anybody holds the address."""
    size = 32 if address.version == 4 else 128
    for length in range(size, -1, -1):
        wanted = int(address) >> (size - length)
        holders = [
            row
            for row in rows
            if any(
                each.version == address.version
                and each.prefixlen == length
                and int(each.network_address) >> (size - length) == wanted
                for each in row.facts.prefixes
            )
        ]
        if holders:
            return holders
    return []


@given(tables, st.sampled_from((4, 6)), small, st.sampled_from((None, "wg0", "wg1")), st.sampled_from((None, "wg0")))
def test_as_a_stupid_search_finds(
    table: list[tuple[str, list[IPv4Network | IPv6Network]]],
    version: int,
    bits: int,
    device: str | None,
    routed: str | None,
) -> None:
    address: Address = IPv4Address(bits) if version == 4 else IPv6Address(bits)
    rows = [peer(f"p{number}", name, *map(str, prefixes)) for number, (name, prefixes) in enumerate(table)]
    by_device = {name: stupid(address, [row for row in rows if row.facts.device == name]) for name in ("wg0", "wg1")}
    expected = by_device.get(device or routed or "", [])
    if not expected and device is None:
        expected = by_device["wg0"] + by_device["wg1"]

    def ask() -> Resolved:
        return resolve(str(address), device, {row.facts.id: row for row in rows}, lambda _: routed)

    if not expected:
        with pytest.raises(NotFoundError):
            ask()
    elif len(expected) > 1:
        with pytest.raises(AmbiguousError):
            ask()
    else:
        found = ask()
        assert found.peer is expected[0]
        assert found.address == address
        assert address in found.prefix
        assert found.prefix in found.peer.facts.prefixes


@given(tables, small)
def test_longest_match_names_each_holder_with_its_prefix(
    table: list[tuple[str, list[IPv4Network | IPv6Network]]], bits: int
) -> None:
    rows = [peer(f"p{number}", name, *map(str, prefixes)) for number, (name, prefixes) in enumerate(table)]
    address = ip_address(bits)
    found = longest_match(address, rows)
    assert [row for row, _ in found] == stupid(address, rows)
    assert all(address in prefix and prefix in row.facts.prefixes for row, prefix in found)
