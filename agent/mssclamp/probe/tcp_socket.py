"""Probes by TCP: a SYN with payload to a closed port, and the RST that acknowledges every byte of it.

Such an answer is small and names what arrived, so it measures our direction alone. Every probe is a connection of its
own (a port of its own here), or firewalls on the way would take the answers to all but the last for invalid. An answer
counts only if addresses, ports and acknowledgment number are right, the latter from a random sequence number. A port
that is open answers otherwise; the kernel, which knows of no connection, resets that, and it is no answer to us.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass, field
from typing import Final

from mssclamp.errors import ClampdError
from mssclamp.pmtu.table import Address
from mssclamp.probe import packet_filter
from mssclamp.probe.raw import Complaint, RawSocket, Reply, Target, bind_to_device, judge, target_of
from mssclamp.wire import MalformedError, tcp, tcp_probe
from mssclamp.wire.mtu import IpVersion

_PORTS: Final = 0xF000
"""From here on up: above what Linux gives to connections (ip_local_port_range), so hardly in use on either side."""

_PORT_COUNT: Final = 0x10000 - _PORTS

_SOURCE_SECONDS: Final = 10.0
"""How long the kernel's word about a source address is good."""

_DESTINATION_OFFSET, _FLAGS_OFFSET = 2, 13


@dataclass
class _Flow:
    target: Target
    source: bytes
    packed: bytes
    outstanding: dict[int, tuple[int, tcp_probe.Syn]] = field(default_factory=dict)
    """By our port: number and segment."""


class TcpSocket(RawSocket):
    """TCP probes by one device and IP version; a flow is a destination port."""

    def __init__(self, version: IpVersion, device: str | None = None, priority: int | None = None) -> None:
        self._flows: dict[int, _Flow] = {}
        self._sources: dict[str, tuple[float, bytes]] = {}
        super().__init__(version, socket.IPPROTO_TCP, device, priority)

    def _filter(self, made: socket.socket) -> None:
        resets = packet_filter.Field(1, _FLAGS_OFFSET, tcp.RST, tcp.RST)
        ours = packet_filter.Field(2, _DESTINATION_OFFSET, _PORTS, _PORTS)
        packet_filter.attach(made, self.version, [resets, ours])

    def aim(self, address: Address) -> int:
        """A new destination port, probably closed."""
        if len(self._flows) == _PORT_COUNT:
            raise ClampdError(f"{_PORT_COUNT} probes at once by one device are too many")
        target = target_of(address)
        source = self._source(target)
        port = _PORTS + secrets.randbelow(_PORT_COUNT)
        while port in self._flows:
            port = _PORTS + secrets.randbelow(_PORT_COUNT)
        self._flows[port] = _Flow(target, source, address.packed)
        return port

    def leave(self, flow: int) -> None:
        """See RawSocket."""
        self._flows.pop(flow, None)

    def send(self, flow: int, number: int, size: int) -> None:
        """A SYN from a port that this flow has not used."""
        here = self._flows[flow]
        port = _PORTS + secrets.randbelow(_PORT_COUNT)
        while port in here.outstanding:
            port = _PORTS + secrets.randbelow(_PORT_COUNT)
        payload = os.urandom(tcp_probe.payload_size(size, self.version))
        syn = tcp_probe.Syn(here.source, here.packed, port, flow, secrets.randbits(32), payload)
        self._transmit(syn.build(), here.target, here.source)
        here.outstanding[port] = number, syn

    def _source(self, target: Target) -> bytes:
        """The address that the kernel would send from."""
        now = time.monotonic()
        asked, source = self._sources.get(target[0], (float("-inf"), b""))
        if now - asked >= _SOURCE_SECONDS:
            source = self._ask_for_source(target)
            self._sources[target[0]] = now, source
        return source

    def _ask_for_source(self, target: Target) -> bytes:
        with socket.socket(self._family, socket.SOCK_DGRAM) as asking:
            if self._device is not None:
                bind_to_device(asking, self._device)
            try:
                asking.connect((target[0], _PORTS, *target[2:]))
            except OSError as error:
                judge(error, target[0], self._device)
                raise ClampdError(f"cannot send to {target[0]}: {error.strerror}") from None
            return socket.inet_pton(self._family, asking.getsockname()[0].partition("%")[0])

    def _answered(self, received: bytes, sender: str) -> Reply | None:
        try:
            reset = tcp_probe.parse_reset(received, self.version)
        except MalformedError:
            return None
        here = self._flows.get(reset.source_port)
        number, syn = here.outstanding.get(reset.destination_port, (0, None)) if here else (0, None)
        if here is None or syn is None or reset.acknowledgment != syn.acknowledgment:
            return None
        return Reply(reset.source_port, number) if self._is_from(sender, here.packed) else None

    def _quoted(self, complaint: Complaint) -> Reply | None:
        try:
            source_port, destination_port, sequence = tcp_probe.parse_quote(complaint.quote)
        except MalformedError:
            return None
        here = self._flows.get(destination_port)
        number, syn = here.outstanding.get(source_port, (0, None)) if here else (0, None)
        if here is None or syn is None or not complaint.destination:
            return None
        if syn.sequence != sequence or not self._is_from(complaint.destination, here.packed):
            return None
        return Reply(destination_port, number, complaint.hint, proof=complaint.is_too_big)
