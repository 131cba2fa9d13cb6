"""The API that user-space WireGuard implementations serve on a Unix socket (wireguard.com/xplatform): `get=1`.

PURE. Lines of key=value; each `public_key` begins a peer; an empty line ends the answer. The private key, which is
among them, is skipped like everything else that nobody here needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from mssclamp.wire import MalformedError
from mssclamp.wire.wireguard import KEY_LENGTH, Endpoint, Network, WireGuardPeer, endpoint, instant, network

REQUEST = b"get=1\n\n"

END = b"\n\n"
"""What ends an answer."""

_LONGEST_AGE = 10**9
"""Seconds. boringtun tells how long ago the last handshake was, all others when, in Unix time: no handshake was before
2001, and none is that long ago.
"""

_SHOWN = 80
"""Characters of a value that are shown to people."""


@dataclass
class _Told:
    """A peer as far as it has been told: the last value of each key, and all prefixes."""

    values: dict[str, str] = field(default_factory=dict)
    allowed: list[Network] = field(default_factory=list)


def parse_peers(answer: bytes, now: float) -> dict[bytes, WireGuardPeer]:
    """The peers in an answer, by public key; `now` is in Unix seconds. Raises MalformedError.

    What comes from the socket is some program's word: nothing about it is trusted.
    """
    if not answer.endswith(END):
        raise MalformedError("the answer has no end")
    told: dict[str, _Told] = {}
    of = device = _Told()
    for line in answer.decode("ascii", "replace").split("\n"):
        key, _, value = line.partition("=")
        if key == "public_key":
            of = told.setdefault(value, _Told())
        elif key == "allowed_ip":
            of.allowed.append(_prefix(value))
        else:
            of.values[key] = value
    error = of.values.get("errno")  # the last line of all, wherever that leaves it
    if error != "0":
        raise MalformedError(f"its errno is {(error or '')[:_SHOWN]!r}")
    peers = {}
    for text, peer in told.items():
        public_key = _key(text)
        peers[public_key] = WireGuardPeer(
            public_key,
            _endpoint(peer.values["endpoint"]) if "endpoint" in peer.values else None,
            tuple(peer.allowed),
            _instant(peer.values, now),
            _number(peer.values, "rx_bytes"),
            _number(peer.values, "tx_bytes"),
            _number(device.values, "fwmark") & 0xFFFFFFFF,
            _number(device.values, "listen_port") & 0xFFFF,
        )
    return peers


def _key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_LENGTH:
        raise MalformedError(f"{text[:_SHOWN]!r} is no public key")
    return key


def _prefix(text: str) -> Network:
    address, _, length = text.partition("/")
    try:
        return network(address, _decimal(length))
    except ValueError:
        raise MalformedError(f"{text[:_SHOWN]!r} is no prefix") from None


def _endpoint(text: str) -> Endpoint:
    address, _, port = text.rpartition(":")
    try:
        number = _decimal(port)
        if number > 0xFFFF or len(text) > _SHOWN or not text.isprintable():  # a zone may be any text
            raise ValueError
        return endpoint(ip_address(address.removeprefix("[").removesuffix("]")), number)
    except ValueError:
        raise MalformedError(f"{text[:_SHOWN]!r} is no endpoint") from None


def _instant(values: Mapping[str, str], now: float) -> float | None:
    told = instant(_number(values, "last_handshake_time_sec"), _number(values, "last_handshake_time_nsec"))
    return now - told if told is not None and told < _LONGEST_AGE else told


def _number(values: Mapping[str, str], key: str) -> int:
    try:
        return _decimal(values.get(key, "0"))
    except ValueError:
        raise MalformedError(f"{key} is {values[key][:_SHOWN]!r}") from None


def _decimal(text: str) -> int:
    """Up to 20 digits, nothing else. Raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError(text)
    return int(text)
