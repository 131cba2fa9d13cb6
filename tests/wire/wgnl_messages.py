"""The kernel's WireGuard answers, built by linux/wireguard.h and linux/genetlink.h.

A second description of the format, in the kernel's order of attributes; it shares nothing with the parser.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_network

NESTED = 0x8000
FAMILY = 0x1F
MULTI = 2


def attribute(kind: int, value: bytes) -> bytes:
    """One struct nlattr, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def sockaddr(address: str, port: int, scope: int = 0) -> bytes:
    """A struct sockaddr_in or sockaddr_in6."""
    if ":" not in address:
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(address) + bytes(8)
    packed = socket.inet_pton(socket.AF_INET6, address)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!H", port) + bytes(4) + packed + struct.pack("=I", scope)


def allowed_ip(prefix: str) -> bytes:
    """One nested AllowedIP; newer kernels add flags."""
    network = ip_network(prefix)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return attribute(
        NESTED,
        attribute(3, bytes([network.prefixlen]))
        + attribute(1, struct.pack("=H", family))
        + attribute(2, network.network_address.packed),
    )


def peer(
    key: bytes,
    *allowed: str,
    endpoint: bytes | None = None,
    handshake: tuple[int, int] = (0, 0),
    received: int = 0,
    sent: int = 0,
) -> bytes:
    """One nested peer with everything that the kernel tells of it."""
    return attribute(
        NESTED,
        attribute(1, key)
        + attribute(2, bytes(32))
        + attribute(6, struct.pack("=qq", *handshake))
        + attribute(5, struct.pack("=H", 25))
        + attribute(8, struct.pack("=Q", sent))
        + attribute(7, struct.pack("=Q", received))
        + attribute(10, struct.pack("=I", 1))
        + (b"" if endpoint is None else attribute(4, endpoint))
        + attribute(9 | NESTED, b"".join(map(allowed_ip, allowed))),
    )


def continued(key: bytes, *allowed: str) -> bytes:
    """The same peer in a further message: its key and more AllowedIPs, nothing else."""
    return attribute(NESTED, attribute(1, key) + attribute(9 | NESTED, b"".join(map(allowed_ip, allowed))))


def device(*peers: bytes, first: bool = True, mark: int = 0) -> bytes:
    """The content of one message of a dump: the device's own values are in the first alone."""
    own = (
        attribute(6, struct.pack("=H", 51820))
        + attribute(7, struct.pack("=I", mark))
        + attribute(1, struct.pack("=I", 7))
        + attribute(2, b"wg0\0")
        + attribute(3, b"\xaa" * 32)
        + attribute(4, b"\xbb" * 32)
        if first
        else b""
    )
    return struct.pack("=BBH", 0, 1, 0) + own + (attribute(8 | NESTED, b"".join(peers)) if peers else b"")


def message(content: bytes, kind: int = FAMILY, flags: int = MULTI, sequence: int = 2) -> bytes:
    """With its netlink header."""
    return struct.pack("=IHHII", 16 + len(content), kind, flags, sequence, 0) + content + bytes(-len(content) % 4)


def done(error: int = 0, sequence: int = 2) -> bytes:
    """NLMSG_DONE."""
    return message(struct.pack("=i", -error), 3, MULTI, sequence)


def refusal(error: int, sequence: int = 2) -> bytes:
    """NLMSG_ERROR, with the head of the request."""
    return message(struct.pack("=i", -error) + bytes(16), 2, 0, sequence)


def family(sequence: int = 1) -> bytes:
    """The controller's answer about the family."""
    content = struct.pack("=BBH", 1, 2, 0) + attribute(2, b"wireguard\0") + attribute(1, struct.pack("=H", FAMILY))
    return message(content + attribute(3, struct.pack("=I", 1)), 0x10, 0, sequence)
