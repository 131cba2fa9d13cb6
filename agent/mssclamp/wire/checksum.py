"""The Internet checksum: computed in full (RFC 1071), and brought up to date after a change (RFC 1624).

All sums are in one's complement of 16 bits: a carry out of the top comes back in at the bottom, and 0x0000
and 0xffff are the same number, zero.
"""

from __future__ import annotations

from collections.abc import Iterable

MASK = 0xFFFF


def fold(total: int) -> int:
    """A sum of 16-bit words (any size, not negative) brought back into 16 bits by end-around carry."""
    while total > MASK:
        total = (total & MASK) + (total >> 16)
    return total


def ones_complement_sum(data: bytes) -> int:
    """The sum of the 16-bit words of `data`; an odd last byte counts as if a zero followed (RFC 1071)."""
    # All words at once: modulo 0xffff a number is the sum of its 16-bit digits, as in decimal modulo 9.
    number = int.from_bytes(data + b"\0" if len(data) % 2 else data, "big")
    return number % MASK or (MASK if number else 0)


def internet_checksum(data: bytes) -> int:
    """The value for the checksum field, where `data` holds zero at that field.

    Over data that holds its own right checksum the answer is 0: so a receiver verifies.
    """
    return ~ones_complement_sum(data) & MASK


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """What a transport checksum covers in front of the segment of `length` bytes.

    Four-byte addresses make the IPv4 form (RFC 9293, section 3.1), sixteen-byte ones the IPv6 form (RFC 8200,
    section 8.1: with a routing header, `destination` is the final one).
    """
    if len(source) == 4:
        return source + destination + bytes([0, protocol]) + length.to_bytes(2, "big")
    return source + destination + length.to_bytes(4, "big") + bytes([0, 0, 0, protocol])


def transport_checksum(source: bytes, destination: bytes, protocol: int, segment: bytes) -> int:
    """The value for a TCP or UDP checksum field that is zero in `segment`.

    Over a segment that holds its own right checksum the answer is 0.
    """
    return internet_checksum(pseudo_header(source, destination, protocol, len(segment)) + segment)


def difference(old: int, new: int, *, odd: bool) -> int:
    """What a 16-bit value's change from `old` to `new` adds to the sum: `~m + m'` of RFC 1624, section 3.

    `odd` says that the value starts at an odd offset from the start of the sum. It then lies across two
    words, its high byte in the low half of the first one and its low byte in the high half of the next: that
    adds what the value with its bytes swapped would add (RFC 1071, section 2 B).
    """
    change = fold((~old & MASK) + new)
    return _swapped(change) if odd else change


def updated(checksum: int, differences: Iterable[int]) -> int:
    """The checksum after the changes: `HC' = ~(~HC + ~m + m')`, RFC 1624's equation 3.

    A wrong checksum stays wrong by as much as it was: what a router damages the receiver must still see.
    """
    return ~fold((~checksum & MASK) + sum(differences)) & MASK


def _swapped(value: int) -> int:
    return (value & 0xFF) << 8 | value >> 8
