"""A second opinion on rewritten packets, by scapy: it knows neither the model nor the programs."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from scapy.layers.inet import IP, TCP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.layers.l2 import Ether

from bpf.packets import Packet, limits_of
from mssclamp.wire.clamp import Direction

CHECKSUM = slice(16, 18)
HEADER = 20


def describe(packet: Packet) -> str:
    """The packet for people: the hook, scapy's summary, and a line to paste into scapy."""
    layer = "Ether" if packet.link_header else "IPv6" if packet.data[0] >> 4 == 6 else "IP"
    try:
        summary = {"Ether": Ether, "IPv6": IPv6, "IP": IP}[layer](packet.data).summary()
    except Exception as error:
        summary = f"scapy cannot read it ({error!r})"
    shown = packet.data[:1500]
    cut = "" if shown == packet.data else f"  # the first {len(shown)} of {len(packet.data)} bytes"
    return f"{packet.direction.value}, {summary}\n{layer}(bytes.fromhex({shown.hex()!r})).show(){cut}"


def check_rewrite(packet: Packet, after: bytes) -> bool:
    """Asserts that what a program changed in the packet is what it may change, and is right.

    Returns whether the TCP checksum was right, before and after.
    """
    before, after = packet.datagram, after[len(packet.data) - len(packet.datagram) :]
    old, new = _dissect(before), _dissect(after)
    at, end, segment = _segment(old, before)
    header_end = at + (segment[12] >> 4) * 4
    changed = [i for i in range(len(before)) if before[i] != after[i]]
    assert all(at + 16 <= i < at + 18 or at + HEADER <= i < header_end for i in changed), changed

    address = old.dst if packet.direction is Direction.EGRESS else old.src
    limits = limits_of(ip_address(address).packed)
    assert limits is not None
    assert limits.clamp
    assert limits.enforce
    limit = limits.mss4 if old.version == 4 else limits.mss6
    lowered = [(k, min(v, limit)) if k == "MSS" else (k, v) for k, v in old[TCP].options]
    assert new[TCP].options == lowered
    count = sum(k == "MSS" and v > limit for k, v in old[TCP].options)
    assert count >= 1
    assert len([i for i in changed if i >= at + HEADER]) <= 2 * count

    right_before, right_after = _right_checksum(old, segment), _right_checksum(old, after[at:end])
    fits_before, fits_after = segment[CHECKSUM] == right_before, after[at:end][CHECKSUM] == right_after
    assert fits_before == fits_after
    return fits_before


def _dissect(datagram: bytes) -> Any:
    return (IP if datagram[0] >> 4 == 4 else IPv6)(datagram)


def _segment(packet: Any, datagram: bytes) -> tuple[int, int, bytes]:
    """Where the TCP segment starts and ends, and its bytes."""
    end = packet.len if packet.version == 4 else 40 + packet.plen
    segment: bytes = packet[TCP].original
    at = end - len(segment)
    assert datagram[at:end] == segment
    return at, end, segment


def _right_checksum(packet: Any, segment: bytes) -> bytes:
    blank = segment[:16] + b"\0\0" + segment[18:]
    value: int = (in4_chksum if packet.version == 4 else in6_chksum)(6, packet, blank)
    return value.to_bytes(2, "big")
