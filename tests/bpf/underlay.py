"""Outer packets and ICMP about them, and the programs of the underlay's devices to run them on."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from bpf.kernel import UNSPEC
from bpf.packets import (
    IPV4,
    IPV6,
    UDP,
    Extension,
    checksum,
    ethernet,
    ipv4,
    ipv6,
)
from bpf.skb import SkBuff
from mssclamp.datapath import abi
from mssclamp.datapath.instance import Instance

SHOT = 2
"""TC_ACT_SHOT."""

PORT, OUR_PORT = 51820, 40000
ICMP, GRE, ICMPV6 = 1, 47, 58

# Bytes 12 and 13 of a bare IP packet must spell its ethertype: see bpf.packets.
OURS = {4: ip_address("8.0.250.7"), 6: ip_address("2001:db8:86dd:fa::7")}
REMOTE = {4: ip_address("8.0.77.1"), 6: ip_address("2001:db8:86dd:77::1")}
ROUTER = {4: ip_address("8.0.200.1"), 6: ip_address("2001:db8:86dd:c8::1")}

KEYS = {version: abi.endpoint_key(address, PORT, UDP) for version, address in REMOTE.items()}

PEER = 7


def data_message(receiver: int, counter: int, *, size: int = 200, kind: int = 4) -> bytes:
    """A WireGuard message of `size` bytes."""
    return struct.pack("<IIQ", kind, receiver, counter).ljust(size, b"\xee")


@dataclass(frozen=True)
class Side:
    """One IP version, and one kind of device."""

    version: int
    link_header: bool

    @property
    def link(self) -> int:
        """Bytes of the link header."""
        return 14 if self.link_header else 0

    @property
    def headers(self) -> int:
        """Bytes of IP and UDP headers."""
        return 28 if self.version == 4 else 48

    def datagram(self, payload: bytes, *, port: int = PORT, our_port: int = OUR_PORT, **fields: object) -> bytes:
        """An outer UDP packet to the endpoint; `fields` are the builders'."""
        udp = struct.pack("!HHHH", our_port, port, 8 + len(payload), 0) + payload
        return self.packet(udp, **fields)

    def packet(
        self,
        body: bytes,
        *,
        protocol: int = UDP,
        remote: bytes | None = None,
        fragment: int = 0,
        options: bytes = b"",
        extensions: tuple[Extension, ...] = (),
    ) -> bytes:
        """An outer packet with this body."""
        source, destination = OURS[self.version].packed, remote or REMOTE[self.version].packed
        if self.version == 4:
            return self.framed(ipv4(source, destination, body, protocol=protocol, fragment=fragment, options=options))
        return self.framed(ipv6(source, destination, body, protocol=protocol, extensions=extensions))

    def too_big(
        self,
        quoted: bytes,
        mtu: int = 1400,
        *,
        kind: int | None = None,
        code: int | None = None,
        quote: int = 64,
        options: bytes = b"",
        fragment: int = 0,
        extensions: tuple[Extension, ...] = (),
    ) -> bytes:
        """The router's ICMP message about `quoted`, an outer packet as from `datagram`.

        `quote`: how many bytes behind the IP header it shows.
        """
        shown = quoted[self.link :][: self.headers - 8 + quote]
        source, destination = ROUTER[self.version].packed, OURS[self.version].packed
        if self.version == 4:
            message = struct.pack("!BBHI", 3 if kind is None else kind, 4 if code is None else code, 0, mtu) + shown
            even = message + bytes(len(message) % 2)
            message = message[:2] + checksum(int.from_bytes(even, "big")).to_bytes(2, "big") + message[4:]
            data = ipv4(source, destination, message, protocol=ICMP, options=options, fragment=fragment)
        else:
            message = struct.pack("!BBHI", 2 if kind is None else kind, code or 0, 0xABCD, mtu) + shown
            data = ipv6(source, destination, message, protocol=ICMPV6, extensions=extensions)
        return self.framed(data)

    def framed(self, data: bytes) -> bytes:
        """With the link header, where there is one."""
        return ethernet(data, IPV4 if self.version == 4 else IPV6) if self.link_header else data


SIDES = [Side(version, link_header) for version in (4, 6) for link_header in (True, False)]


class Underlay:
    """The programs, and one endpoint of each version."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def reset(self, flags: int = 0, source: int = 0, *, attended_until: int = abi.FOREVER) -> None:
        """Both endpoints as new; the agent is there until then (boot-time ns)."""
        self.instance.put_config(abi.Config(attended_until=attended_until))
        for key in self.instance.endpoints():
            self.instance.delete_endpoint(key)
        lengths = self.instance.maps["clampd_length"]
        for raw in list(lengths):
            lengths.delete(raw)
        told = self.instance.maps["clampd_told"]
        for raw in list(told):
            told.put(raw, bytes(told.value_size))
        for key in KEYS.values():
            self.instance.put_endpoint(key, abi.Endpoint(PEER, flags, tuple(source.to_bytes(2, "big"))))
        self.instance.set_near({abi.near_index(key.ip) for key in KEYS.values()})

    def endpoint(self, version: int) -> abi.Endpoint:
        """What the programs have noted."""
        return self.instance.endpoints()[KEYS[version]]

    def send(self, side: Side, packet: bytes, *, gso_size: int = 0, gso_segs: int = 0, came_in_on: int = 0) -> bytes:
        """What leaves; it always leaves. `came_in_on`: the ifindex of a packet that is forwarded."""
        program = self.instance.programs["clampd_u2_eg" if side.link_header else "clampd_u3_eg"]
        ctx = bytearray(bytes(SkBuff(gso_size=gso_size, gso_segs=gso_segs, ingress_ifindex=came_in_on)))
        verdict, data, _ = program.test_run(packet, ctx=ctx)
        assert verdict == UNSPEC
        return data

    def receive(self, side: Side, packet: bytes) -> int:
        """The verdict; the packet never changes."""
        program = self.instance.programs["clampd_u2_in" if side.link_header else "clampd_u3_in"]
        verdict, data, _ = program.test_run(packet)
        assert data == packet
        return verdict
