"""What WireGuard's programs say of their peers, whichever way they say it.

PURE.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from mssclamp.wire.mtu import IpVersion

Network = IPv4Network | IPv6Network

KEY_LENGTH = 32
"""Bytes of a public key (Curve25519)."""


@dataclass(frozen=True)
class Endpoint:
    """Where a peer's outer packets go."""

    address: IPv4Address | IPv6Address
    port: int

    @property
    def version(self) -> IpVersion:
        """Of the outer IP header."""
        return 4 if self.address.version == 4 else 6

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class WireGuardPeer:
    """One peer of one device. Equal to an older one if nothing but its traffic differs."""

    public_key: bytes
    endpoint: Endpoint | None = None
    """None: it has not been heard of yet."""
    allowed: tuple[Network, ...] = ()
    """AllowedIPs, in the order told."""
    last_handshake: float | None = field(default=None, compare=False)
    """Unix seconds; None: never."""
    received: int = field(default=0, compare=False)
    """Bytes so far."""
    sent: int = field(default=0, compare=False)
    mark: int = 0
    """Of its outer packets: the device's fwmark, by which they may be routed."""
    listen_port: int = 0
    """From where they come: the device's."""


_LAST_INSTANT = 253_402_300_799
"""Unix time at the end of the year 9999, later than which no calendar goes."""


@functools.lru_cache(maxsize=1 << 16)
def network(address: bytes | str, length: int) -> Network:
    """A prefix from its address and length, host bits cut. Raises ValueError.

    Cached: who reads a thousand peers every few seconds reads the same prefixes each time.
    """
    return ip_network((address, length), strict=False)


def endpoint(address: IPv4Address | IPv6Address, port: int) -> Endpoint:
    """An endpoint; an IPv4 address in IPv6's clothes (RFC 4291, section 2.5.5.2) is reached over IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return Endpoint(mapped or address, port)


def instant(seconds: int, nanoseconds: int) -> float | None:
    """The Unix time of a handshake; None for zero, which stands for never, and for what is no time."""
    if seconds < 0 or nanoseconds < 0 or not seconds + nanoseconds or seconds > _LAST_INSTANT:
        return None
    return seconds + nanoseconds / 1e9
