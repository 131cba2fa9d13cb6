"""The numbers of path MTU discovery: what specifications fix, apart from what was chosen here.

PURE. Sizes are bytes of IP packets, times are seconds.
"""

from __future__ import annotations

from typing import Final

# Specification constants.

BASE_MTU4: Final = 576
"""What every IPv4 host takes (RFC 791, section 3.2): nothing smaller is searched."""

BASE_MTU6: Final = 1280
"""What every IPv6 link carries (RFC 8200, section 5)."""

MAX_PACKET: Final = 65535
"""The largest that IPv4's total length can say (RFC 791, section 3.1)."""

MAX_PROBES: Final = 3
"""Losses of one size before it counts as too big (RFC 8899, section 5.1.2)."""

RTT_GAIN: Final = 1 / 8
"""Alpha of RFC 6298, section 2.3."""

RTT_VARIATION_GAIN: Final = 1 / 4
"""Beta, ibid."""

RTT_VARIATIONS: Final = 4
"""K of RFC 6298, section 2.3."""

# Implementation constants.

LADDER: Final = (1500, 1280, 1492, 1420, 1400, 1480, 1450, 1358, 1320, 9000)
"""Outer MTUs that occur in the world, those that matter most first; up to 1500 no two neighbours are over 42 apart.

Ethernet, IPv6's least, PPPoE, WireGuard, common VPN settings, IP in IP (6in4), VXLAN, IPsec, and jumbo frames."""

TARGET_ROUNDS: Final = 3
TARGET_PROBES: Final = 24
"""What a search takes without loss, wherever two neighbours of the ladder enclose the path's MTU."""

ROUND_BYTES: Final = 16_000
"""Sent in one round at the most; more only where three copies of one size beside a smaller one take more."""

LOSSY_LOSSES: Final = 6
"""Losses of one size on a path that loses smaller ones too: with 30 % loss, 3 would mislead once in 37 times."""

LOSSY_WITNESSES: Final = 3
"""Copies of the smaller size sent beside it there."""

COPY_GAP: Final = 0.02
"""Between two copies of a size, so that one short burst of loss does not take them all."""

MAX_ROUNDS: Final = 10
MAX_SECONDS: Final = 30.0
"""A search ends then, with the largest size proven so far."""

FIRST_TIMEOUT: Final = 0.2
"""Before a round trip was measured."""

MIN_TIMEOUT: Final = 0.1
"""RFC 6298 (2.4) asks for 1 s, to spare the network needless copies; here a copy too many costs one small probe, and
a late answer still counts."""

MAX_TIMEOUT: Final = 3.0
