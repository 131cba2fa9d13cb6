"""Probes by ICMP and ICMPv6 echo: they come back as large as they went.

An answer counts only if identifier, sequence number, every byte of the random payload and its sender are right.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from dataclasses import dataclass, field
from typing import Final

from mssclamp.errors import ClampdError
from mssclamp.pmtu.table import Address
from mssclamp.probe import packet_filter
from mssclamp.probe.raw import Complaint, RawSocket, Reply, Target, target_of
from mssclamp.wire import MalformedError, icmp
from mssclamp.wire.mtu import IpVersion

# Linux's numbers where Python's socket module lacks them.
_ICMP_FILTER, _ICMPV6_FILTER, _SOL_RAW = 1, 1, 255

_TAG: Final = 0xFC00
"""Bits of the identifier that all flows of a socket share, so that the kernel keeps other people's pings away."""

_FLOWS: Final = 0x10000 - _TAG

_PROOF = 8
"""Bytes of the random payload that an ICMP error must quote to prove that its sender has seen the probe."""


@dataclass
class _Flow:
    target: Target
    packed: bytes
    outstanding: dict[int, bytes] = field(default_factory=dict)
    """Sequence numbers with their payloads."""


class EchoSocket(RawSocket):
    """Echo by one device and IP version; a flow is an identifier."""

    def __init__(self, version: IpVersion, device: str | None = None, priority: int | None = None) -> None:
        self._tag = secrets.randbits(16) & _TAG
        self._flows: dict[int, _Flow] = {}
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        super().__init__(version, protocol, device, priority)

    def _filter(self, made: socket.socket) -> None:
        packet_filter.attach(made, self.version, [packet_filter.Field(2, icmp.IDENTIFIER_OFFSET, _TAG, self._tag)])
        if self.version == 4:
            only = ~(1 << icmp.ECHO_REPLY[4]) & 0xFFFFFFFF
            made.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", only))
        else:
            word, bit = divmod(icmp.ECHO_REPLY[6], 32)
            blocked = [~(1 << bit) & 0xFFFFFFFF if i == word else 0xFFFFFFFF for i in range(8)]
            made.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("=8I", *blocked))

    def aim(self, address: Address) -> int:
        """A new identifier."""
        if len(self._flows) == _FLOWS:
            raise ClampdError(f"{_FLOWS} probes at once by one device are too many")
        target = target_of(address)
        identifier = self._tag | secrets.randbelow(_FLOWS)
        while identifier in self._flows:
            identifier = self._tag | secrets.randbelow(_FLOWS)
        self._flows[identifier] = _Flow(target, address.packed)
        return identifier

    def leave(self, flow: int) -> None:
        """See RawSocket."""
        self._flows.pop(flow, None)

    def send(self, flow: int, number: int, size: int) -> None:
        """An echo request; the sequence number is the probe's."""
        here = self._flows[flow]
        payload = os.urandom(icmp.payload_size(size, self.version))
        sequence = number & 0xFFFF
        self._transmit(icmp.build_request(icmp.Echo(flow, sequence, payload), self.version), here.target)
        here.outstanding[sequence] = payload

    def _answered(self, received: bytes, sender: str) -> Reply | None:
        try:
            echo = icmp.parse_reply(received, self.version)
        except MalformedError:
            return None
        here = self._flows.get(echo.identifier)
        if here is None or here.outstanding.get(echo.sequence) != echo.payload:
            return None
        return Reply(echo.identifier, echo.sequence) if self._is_from(sender, here.packed) else None

    def _quoted(self, complaint: Complaint) -> Reply | None:
        try:
            echo = icmp.parse_quote(complaint.quote, self.version)
        except MalformedError:
            return None
        here = self._flows.get(echo.identifier)
        if here is None or not complaint.destination or not self._is_from(complaint.destination, here.packed):
            return None
        payload = here.outstanding.get(echo.sequence, b"")
        seen = len(echo.payload) >= _PROOF and payload.startswith(echo.payload)
        return Reply(echo.identifier, echo.sequence, complaint.hint, proof=seen and complaint.is_too_big)
