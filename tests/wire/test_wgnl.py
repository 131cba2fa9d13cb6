"""The kernel's WireGuard peers, from bytes as its uapi header lays them out."""

from __future__ import annotations

import contextlib
import struct
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.wire import MalformedError, wgnl
from mssclamp.wire.wireguard import WireGuardPeer
from wire.wgnl_messages import (
    FAMILY,
    NESTED,
    attribute,
    continued,
    device,
    done,
    family,
    message,
    peer,
    refusal,
    sockaddr,
)

ONE, TWO = b"\1" * 32, b"\2" * 32
WHOLE = device(
    peer(
        ONE,
        "10.99.0.4/32",
        "fd00:99::/64",
        endpoint=sockaddr("198.51.100.7", 51820),
        handshake=(1_769_860_742, 500_000_000),
        received=3,
        sent=5,
    ),
    peer(TWO),
)


def listed(*contents: bytes) -> dict[bytes, WireGuardPeer]:
    listing = wgnl.PeerListing()
    for content in contents:
        listing.take(content)
    return listing.peers


def facts(of: WireGuardPeer) -> tuple[str | None, list[str], float | None, int, int]:
    endpoint = None if of.endpoint is None else str(of.endpoint)
    return endpoint, list(map(str, of.allowed)), of.last_handshake, of.received, of.sent


def test_peers() -> None:
    peers = listed(WHOLE)
    assert list(peers) == [ONE, TWO]
    assert facts(peers[ONE]) == ("198.51.100.7:51820", ["10.99.0.4/32", "fd00:99::/64"], 1_769_860_742.5, 3, 5)
    assert facts(peers[TWO]) == (None, [], None, 0, 0)
    assert peers[TWO].public_key == TWO


def test_the_device_s_mark_and_port() -> None:
    """The first message alone has them; they hold for the peers of all."""
    peers = listed(device(peer(ONE), mark=0xCA6C), device(peer(TWO), first=False))
    assert {(each.mark, each.listen_port) for each in peers.values()} == {(0xCA6C, 51820)}
    assert listed(device(peer(ONE), mark=1)) != listed(device(peer(ONE), mark=2))


def test_a_device_without_peers() -> None:
    assert listed(device()) == {}


@pytest.mark.parametrize(
    ("address", "scope", "text", "version"),
    [
        ("192.0.2.7", 0, "192.0.2.7:51820", 4),
        ("2001:db8::7", 0, "[2001:db8::7]:51820", 6),
        ("fe80::7", 3, "[fe80::7%3]:51820", 6),
        ("::ffff:192.0.2.7", 0, "192.0.2.7:51820", 4),
    ],
)
def test_endpoints(address: str, scope: int, text: str, version: int) -> None:
    found = listed(device(peer(ONE, endpoint=sockaddr(address, 51820, scope))))[ONE].endpoint
    assert found is not None
    assert (str(found), found.version) == (text, version)


def test_a_peer_that_goes_on_in_further_messages() -> None:
    """AllowedIPs that do not fit: the next message begins with the same peer's key, and the rest of them."""
    prefixes = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(600)]
    endpoint = sockaddr("192.0.2.7", 51820)
    peers = listed(
        device(peer(TWO, "fd00::/64"), peer(ONE, *prefixes[:200], endpoint=endpoint, handshake=(9, 0), sent=5)),
        device(continued(ONE, *prefixes[200:400]), first=False),
        device(continued(ONE, *prefixes[400:]), peer(b"\3" * 32, "fd01::/64"), first=False),
    )
    assert [len(each.allowed) for each in peers.values()] == [1, 600, 1]
    assert peers[ONE].allowed == tuple(map(ip_network, prefixes))
    assert facts(peers[ONE])[0] == "192.0.2.7:51820"
    assert (peers[ONE].last_handshake, peers[ONE].sent) == (9.0, 5)


def test_traffic_is_no_difference() -> None:
    quiet = peer(ONE, "10.0.0.0/8", endpoint=sockaddr("192.0.2.7", 1))
    loud = peer(ONE, "10.0.0.0/8", endpoint=sockaddr("192.0.2.7", 1), handshake=(77, 0), received=1, sent=2)
    moved = peer(ONE, "10.0.0.0/8", endpoint=sockaddr("192.0.2.7", 2))
    assert listed(device(quiet)) == listed(device(loud)) != listed(device(moved))


def test_a_later_kernels_attributes() -> None:
    more = attribute(77, b"news") + attribute(NESTED | 78, attribute(1, b""))
    assert listed(WHOLE + more) == listed(WHOLE)


def test_messages_of_a_datagram() -> None:
    found = list(wgnl.messages(family() + message(WHOLE) + done()))
    assert [(each.kind, each.sequence, each.is_last, each.error) for each in found] == [
        (0x10, 1, False, 0),
        (FAMILY, 2, False, 0),
        (3, 2, True, 0),
    ]
    assert found[1].content == WHOLE
    assert wgnl.parse_family(found[0].content) == FAMILY


def test_a_refusal() -> None:
    (found,) = wgnl.messages(refusal(19))
    assert (found.is_last, found.error) == (True, 19)


def test_an_interrupted_dump_says_so() -> None:
    (whole,) = wgnl.messages(message(WHOLE))
    (cut,) = wgnl.messages(message(WHOLE, flags=0x12))
    assert (whole.is_interrupted, cut.is_interrupted) == (False, True)


def test_requests() -> None:
    (asked,) = wgnl.messages(wgnl.peers_request(FAMILY, 7, 2))
    assert (asked.kind, asked.flags, asked.sequence) == (FAMILY, 0x301, 2)
    assert asked.content == struct.pack("=BBHHHI", 0, 1, 0, 8, 1, 7)
    (asked,) = wgnl.messages(wgnl.family_request(1))
    assert (asked.kind, asked.flags, asked.content) == (
        0x10,
        1,
        b"\x03\x01\0\0" + struct.pack("=HH", 14, 2) + b"wireguard\0\0\0",
    )


def test_cut_off_at_every_length() -> None:
    datagram = message(WHOLE)
    for length in range(1, len(datagram)):
        with pytest.raises(MalformedError):
            list(wgnl.messages(datagram[:length]))
    for length in range(len(WHOLE)):
        with contextlib.suppress(MalformedError):
            assert set(listed(WHOLE[:length])) <= {ONE, TWO}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\0\1", "no generic netlink header"),
        (device(peer(b"short")), "a public key of 5 bytes"),
        (device(attribute(NESTED, b"")), "a public key of 0 bytes"),
        (device(peer(ONE, endpoint=b"\2\0\0\0")), "an endpoint of family 2 in 4 bytes"),
        (device(peer(ONE, endpoint=struct.pack("=H", 9) + bytes(14))), "an endpoint of family 9 in 16 bytes"),
        (device(attribute(NESTED, attribute(1, ONE) + attribute(6, bytes(8)))), "a time of 8 bytes"),
        (device(attribute(NESTED, attribute(1, ONE) + attribute(9, attribute(0, b"")))), "an address of family 0"),
    ],
)
def test_nonsense(content: bytes, what: str) -> None:
    with pytest.raises(MalformedError, match=what):
        listed(content)


def test_a_prefix_that_is_too_long() -> None:
    long = attribute(NESTED, attribute(3, b"\x21") + attribute(1, b"\2\0") + attribute(2, bytes(4)))
    with pytest.raises(MalformedError, match="a prefix of 33 bits"):
        listed(device(attribute(NESTED, attribute(1, ONE) + attribute(9, long))))


@given(st.binary(max_size=400))
def test_random_bytes(content: bytes) -> None:
    with contextlib.suppress(MalformedError):
        listed(content)
    with contextlib.suppress(MalformedError):
        list(wgnl.messages(content))


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_one_byte_is_another(at: int, value: int) -> None:
    with contextlib.suppress(MalformedError):
        listed(WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :])
