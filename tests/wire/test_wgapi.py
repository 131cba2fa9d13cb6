"""User-space WireGuard's API: what its answers say, and that nothing in them can do harm."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.wire import MalformedError, wgapi
from mssclamp.wire.wireguard import WireGuardPeer

NOW = 1_769_860_800.0
ONE, TWO = b"\1" * 32, b"\2" * 32

GO = f"""private_key={"aa" * 32}
listen_port=51820
public_key={ONE.hex()}
preshared_key={"0" * 64}
protocol_version=1
endpoint=198.51.100.7:51820
last_handshake_time_sec=1769860742
last_handshake_time_nsec=500000000
tx_bytes=5
rx_bytes=3
persistent_keepalive_interval=0
allowed_ip=10.99.0.4/32
allowed_ip=fd00:99::/64
public_key={TWO.hex()}
protocol_version=1
last_handshake_time_sec=0
last_handshake_time_nsec=0
tx_bytes=0
rx_bytes=0
persistent_keepalive_interval=25
errno=0

""".encode()
"""As wireguard-go answers."""

BORINGTUN = f"""own_public_key={"bb" * 32}
public_key={ONE.hex()}
endpoint=[2001:db8::7]:51820
allowed_ip=10.99.0.4/32
last_handshake_time_sec=58
last_handshake_time_nsec=0
rx_bytes=3
tx_bytes=5
errno=0

""".encode()
"""boringtun tells the handshake's age."""


def facts(of: WireGuardPeer) -> tuple[str | None, list[str], float | None, int, int]:
    endpoint = None if of.endpoint is None else str(of.endpoint)
    return endpoint, list(map(str, of.allowed)), of.last_handshake, of.received, of.sent


def test_wireguard_go() -> None:
    peers = wgapi.parse_peers(GO, NOW)
    assert list(peers) == [ONE, TWO]
    assert facts(peers[ONE]) == ("198.51.100.7:51820", ["10.99.0.4/32", "fd00:99::/64"], 1_769_860_742.5, 3, 5)
    assert facts(peers[TWO]) == (None, [], None, 0, 0)


def test_boringtun() -> None:
    peers = wgapi.parse_peers(BORINGTUN, NOW)
    assert facts(peers[ONE]) == ("[2001:db8::7]:51820", ["10.99.0.4/32"], NOW - 58, 3, 5)


def test_the_device_s_mark_and_port() -> None:
    """All peers' outer packets have them. boringtun names them after its own key, or not at all."""
    marked = GO.replace(b"listen_port=51820\n", b"listen_port=51821\nfwmark=51820\n")
    peers = wgapi.parse_peers(marked, NOW)
    assert {(each.mark, each.listen_port) for each in peers.values()} == {(51820, 51821)}
    (bare,) = wgapi.parse_peers(BORINGTUN, NOW).values()
    assert (bare.mark, bare.listen_port) == (0, 0)
    assert wgapi.parse_peers(GO, NOW) != peers  # another mark may be another way


@pytest.mark.parametrize("value", [2**32, 2**40 + 1, 10**20 - 1])
def test_a_mark_or_port_that_no_packet_can_have(value: int) -> None:
    answer = GO.replace(b"listen_port=51820\n", f"listen_port={value}\nfwmark={value}\n".encode())
    for each in wgapi.parse_peers(answer, NOW).values():
        assert 0 <= each.mark < 2**32
        assert 0 <= each.listen_port < 2**16


def test_a_device_without_peers() -> None:
    assert wgapi.parse_peers(b"private_key=00\nerrno=0\n\n", NOW) == {}


def test_zones_are_kept() -> None:
    answer = GO.replace(b"198.51.100.7:51820", b"[fe80::7%eth0]:51820")
    assert facts(wgapi.parse_peers(answer, NOW)[ONE])[0] == "[fe80::7%eth0]:51820"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b"errno=0", b"errno=95", "its errno is '95'"),
        (b"errno=0", b"", "its errno is ''"),
        (ONE.hex().encode(), b"0101", "'0101' is no public key"),
        (ONE.hex().encode(), b"zz" * 32, "is no public key"),
        (b"10.99.0.4/32", b"10.99.0.4/33", "'10.99.0.4/33' is no prefix"),
        (b"10.99.0.4/32", b"10.99.0.4", "is no prefix"),
        (b"10.99.0.4/32", b"10.99.0.4/" + b"9" * 5000, "is no prefix"),
        (b"10.99.0.4/32", "10.99.0.4/³".encode(), "is no prefix"),
        (b"198.51.100.7:51820", b"localhost:51820", "'localhost:51820' is no endpoint"),
        (b"198.51.100.7:51820", b"198.51.100.7:65536", "is no endpoint"),
        (b"198.51.100.7:51820", b"", "'' is no endpoint"),
        (b"198.51.100.7:51820", b"[fe80::7%\x1b[31m]:51820", "is no endpoint"),
        (b"198.51.100.7:51820", b"[fe80::7%" + b"a" * 5000 + b"]:51820", "is no endpoint"),
        (b"tx_bytes=5", b"tx_bytes=-5", "tx_bytes is '-5'"),
        (b"time_sec=1769860742", b"time_sec=" + b"1" * 5000, "last_handshake_time_sec is '1111"),
    ],
)
def test_nonsense(old: bytes, new: bytes, what: str) -> None:
    with pytest.raises(MalformedError, match=what) as problem:
        wgapi.parse_peers(GO.replace(old, new, 1), NOW)
    assert len(str(problem.value)) < 200


def test_cut_off_at_every_length() -> None:
    for length in range(len(GO)):
        with pytest.raises(MalformedError):
            wgapi.parse_peers(GO[:length], NOW)


@given(st.binary(max_size=400), st.booleans())
def test_random_bytes(answer: bytes, ended: bool) -> None:
    with contextlib.suppress(MalformedError):
        wgapi.parse_peers(answer + b"\nerrno=0\n\n" * ended, NOW)


@given(st.integers(0, len(GO) - 1), st.integers(0, 255))
def test_one_byte_is_another(at: int, value: int) -> None:
    with contextlib.suppress(MalformedError):
        wgapi.parse_peers(GO[:at] + bytes([value]) + GO[at + 1 :], NOW)
