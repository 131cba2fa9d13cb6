"""Hand-written packets towards peers: what becomes of each, said without the model."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from bpf.outgoing import GROUPS, MTUS, Outgoing, address_of
from bpf.outgoing_generator import ICMP, ICMPV6, JUMBO, SCTP
from bpf.packets import (
    ARP,
    DESTINATION,
    DONT_FRAGMENT,
    ESP,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    MORE_FRAGMENTS,
    NEAR,
    NOP,
    TCP,
    UDP,
    VLAN,
    Extension,
    ethernet,
    extension,
    fragment_header,
    ipv4,
    ipv6,
)
from mssclamp.wire.too_big import Outcome

PORTS = b"\x9c\x40\x01\xbb"
UDP_HEADER = PORTS + b"\5\0\xab\xcd"
TCP_HEADER = PORTS + struct.pack("!IIBBHHH", 0x01020304, 0x05060708, 5 << 4, 0x10, 64240, 0xABCD, 0)
TCP_TIMESTAMPS = TCP_HEADER[:12] + b"\x80" + TCP_HEADER[13:] + b"\1\1\x08\x0a" + bytes(range(8))
ECHO = {4: b"\x08\0\xab\xcd\0\1\0\2", 6: b"\x80\0\xab\xcd\0\1\0\2"}

BARE_OPTIONS = 4
"""What IPv4 packets for bare-IP programs have of options: see bpf.outgoing."""


@dataclass(frozen=True)
class Case:
    """One packet of `size` bytes, or super-packet of `gso_size` bytes of payload a segment, and what becomes of it."""

    description: str
    version: int
    outcome: Outcome
    size: int = 1341
    on_wire: int | None = None
    """Of oversize packets: `size` unless said otherwise. With bare IPv4 a super-packet's grows by BARE_OPTIONS."""
    peer: str = "enforced 1340"
    protocol: int = UDP
    header: bytes = UDP_HEADER
    options: bytes = b""
    fragment: int = DONT_FRAGMENT
    extensions: tuple[Extension, ...] = ()
    fields: dict[str, int] = field(default_factory=dict)
    source: bytes | None = None
    destination: bytes | None = None
    ethertype: int | None = None
    to: bytes | None = None
    """The frame's destination."""
    gso_size: int = 0

    def __str__(self) -> str:
        return f"IPv{self.version}: {self.description}"

    @property
    def link_headers(self) -> tuple[bool, ...]:
        """The kinds of device that BPF_PROG_TEST_RUN can try it on."""
        return (True,) if self.source or self.ethertype or self.to or self.options else (True, False)

    def packet(self, *, link_header: bool, test_run: bool = True) -> Outgoing:
        """The packet for one kind of device, as BPF_PROG_TEST_RUN or as a real one is to have it."""
        source = self.source or NEAR[self.version]
        destination = self.destination or address_of(self.peer, self.version)
        if self.version == 4:
            options = self.options if link_header or not test_run else NOP * BARE_OPTIONS
            body = self._body(20 + len(options))
            fields = {"fragment": self.fragment} | self.fields
            data = ipv4(source, destination, body, options=options, protocol=self.protocol, **fields)
        else:
            body = self._body(40 + sum(len(body) + 1 for _, body in self.extensions))
            data = ipv6(source, destination, body, extensions=self.extensions, protocol=self.protocol, **self.fields)
        if link_header:
            data = ethernet(data, self.ethertype or (IPV4 if self.version == 4 else IPV6))
            if self.to:
                data = self.to + data[6:]
        segments = -(-len(data) // self.gso_size) if self.gso_size else 0
        return Outgoing(data, link_header, self.gso_size, segments, mark=0x2A)

    def size_on_wire(self, *, link_header: bool) -> int:
        """Of an oversize packet, the bytes that count."""
        if self.on_wire is None:
            return self.size
        bare = self.version == 4 and not link_header and bool(self.gso_size)
        return self.on_wire + (BARE_OPTIONS if bare else 0)

    def _body(self, headers: int) -> bytes:
        payload = self.size - headers - len(self.header)
        assert payload >= 0, self
        return self.header + bytes(i * 7 & 0xFF for i in range(payload))


def _sizes() -> Iterator[Case]:
    for mtu in MTUS:
        for version in (4, 6):
            fits = max(mtu, 1280) if version == 6 else mtu
            for size, outcome in ((fits - 1, Outcome.FITS), (fits, Outcome.FITS), (fits + 1, Outcome.ANSWERED)):
                yield Case(f"{size} bytes where {mtu} fit", version, outcome, size, peer=f"enforced {mtu}")
    for version in (4, 6):
        yield Case("all that a test run takes", version, Outcome.ANSWERED, 3690)


def _peers() -> Iterator[Case]:
    stranger = {4: b"\x08\0\xf0\1", 6: b"\x20\1\x0d\xb8\x86\xdd\0\xf0" + bytes(8)}
    for version in (4, 6):
        yield Case("observed", version, Outcome.WOULD_ANSWER, peer="observed 1340")
        yield Case("no evidence", version, Outcome.NO_EVIDENCE, peer="unproven 1340")
        yield Case("fits, observed", version, Outcome.FITS, 1340, peer="observed 1340")
        yield Case("nobody's", version, Outcome.NO_PEER, destination=stranger[version])


def _upper_layers() -> Iterator[Case]:
    for version in (4, 6):
        for name, protocol, header in (
            ("TCP", TCP, TCP_HEADER),
            ("ESP", ESP, PORTS),
            ("SCTP", SCTP, PORTS),
            ("a protocol that nobody knows", 253, b""),
        ):
            yield Case(name, version, Outcome.ANSWERED, protocol=protocol, header=header)
    for version, protocol, errors, others in (
        (4, ICMP, (3, 4, 5, 11, 12), (0, 8, 10, 13, 40, 137)),
        (6, ICMPV6, (0, 1, 2, 3, 4, 100, 127, 137), (128, 129, 135, 136, 138, 255)),
    ):
        for outcome, types in ((Outcome.FORBIDDEN, errors), (Outcome.ANSWERED, others)):
            for kind in types:
                header = bytes((kind,)) + ECHO[version][1:]
                yield Case(f"ICMP type {kind}", version, outcome, protocol=protocol, header=header)
    yield Case(
        "an ICMP error to an observed peer", 4, Outcome.FORBIDDEN, peer="observed 1340", protocol=ICMP, header=b"\3"
    )
    # Numbers that are ICMP in the other family alone.
    yield Case("protocol 58", 4, Outcome.ANSWERED, protocol=ICMPV6, header=b"\1")
    yield Case("protocol 1", 6, Outcome.ANSWERED, protocol=ICMP, header=b"\3")


def _fragments() -> Iterator[Case]:
    yield Case("DF clear", 4, Outcome.DF_CLEAR, fragment=0)
    yield Case("DF clear, the reserved bit set", 4, Outcome.DF_CLEAR, fragment=0x8000)
    yield Case("DF clear, fits", 4, Outcome.FITS, 1340, fragment=0)
    yield Case("DF clear, observed", 4, Outcome.DF_CLEAR, fragment=0, peer="observed 1340")
    yield Case("DF clear, no evidence", 4, Outcome.DF_CLEAR, fragment=0, peer="unproven 1340")
    yield Case("DF clear, an ICMP error", 4, Outcome.DF_CLEAR, fragment=0, protocol=ICMP, header=b"\3")
    yield Case("DF clear, first fragment", 4, Outcome.DF_CLEAR, fragment=MORE_FRAGMENTS)
    yield Case("first fragment", 4, Outcome.ANSWERED, fragment=DONT_FRAGMENT | MORE_FRAGMENTS)
    yield Case("later fragment", 4, Outcome.FORBIDDEN, fragment=DONT_FRAGMENT | MORE_FRAGMENTS | 1)
    yield Case("last fragment", 4, Outcome.FORBIDDEN, fragment=DONT_FRAGMENT | 0x1FFF)
    first, later, last = fragment_header(more=True), fragment_header(1, more=True), fragment_header(0x1FFF)
    yield Case("first fragment", 6, Outcome.ANSWERED, extensions=(first,))
    yield Case("later fragment", 6, Outcome.FORBIDDEN, extensions=(later,))
    yield Case("last fragment", 6, Outcome.FORBIDDEN, extensions=(extension(DESTINATION), last))
    yield Case("first fragment of an echo", 6, Outcome.ANSWERED, extensions=(first,), protocol=ICMPV6, header=ECHO[6])
    yield Case(
        "first fragment of an ICMP error", 6, Outcome.FORBIDDEN, extensions=(first,), protocol=ICMPV6, header=b"\1"
    )


def _ip_options() -> Iterator[Case]:
    for words in (1, 2, 9, 10):
        yield Case(f"{4 * words} bytes of options", 4, Outcome.ANSWERED, options=NOP * 4 * words)
    error = {"protocol": ICMP, "header": b"\3"}
    yield Case("an ICMP error behind options", 4, Outcome.FORBIDDEN, options=NOP * 40, **error)
    options = (extension(HOP_BY_HOP), extension(DESTINATION))
    yield Case("extension headers", 6, Outcome.ANSWERED, extensions=options)
    error = {"protocol": ICMPV6, "header": b"\1"}
    yield Case("an ICMP error behind extension headers", 6, Outcome.FORBIDDEN, extensions=options, **error)
    yield Case("eight extension headers", 6, Outcome.ANSWERED, extensions=8 * (extension(DESTINATION),))
    yield Case("nine extension headers", 6, Outcome.FORBIDDEN, extensions=9 * (extension(DESTINATION),))
    cut = Extension(DESTINATION, b"\xff" + bytes(6))
    yield Case("a chain that is cut off", 6, Outcome.FORBIDDEN, extensions=(cut,), protocol=HOP_BY_HOP)
    # The quote has room for 40 + 208 bytes of headers and the first 8 of the transport's.
    for size, outcome in (
        (200, Outcome.ANSWERED),
        (208, Outcome.ANSWERED),
        (216, Outcome.FORBIDDEN),
        (504, Outcome.FORBIDDEN),
    ):
        yield Case(f"{size} bytes of extension headers", 6, outcome, extensions=(extension(DESTINATION, size),))


def _forbidden() -> Iterator[Case]:
    for name, destination in (
        ("all hosts", b"\xe0\0\0\1"),
        ("multicast", b"\xef\xff\xff\xff"),
        ("reserved", b"\xf0\0\0\1"),
        ("broadcast", b"\xff\xff\xff\xff"),
    ):
        yield Case(f"to {name}", 4, Outcome.FORBIDDEN, 1401, peer=GROUPS, destination=destination)
    yield Case("to multicast", 6, Outcome.FORBIDDEN, 1401, peer=GROUPS, destination=b"\xff\2" + bytes(13) + b"\1")
    for version, forbidden, allowed in (
        (
            4,
            (bytes(4), b"\0\xff\xff\xff", b"\x7f\0\0\1", b"\x7f\xff\xff\xff", b"\xe0\0\0\1", b"\xff\xff\xff\xff"),
            (b"\1\0\0\0", b"\x7e\xff\xff\xff", b"\x80\0\0\0", b"\xdf\xff\xff\xff"),
        ),
        (
            6,
            (bytes(16), bytes(15) + b"\1", b"\xff" + bytes(15), b"\xff\2" + bytes(13) + b"\1"),
            (bytes(15) + b"\2", bytes(14) + b"\1\0", b"\1" + bytes(14) + b"\1", bytes(7) + b"\1" + bytes(8),
             bytes(12) + b"\1" + bytes(3), b"\xfe" + bytes(15)),
        ),
    ):  # fmt: skip
        for outcome, sources in ((Outcome.FORBIDDEN, forbidden), (Outcome.ANSWERED, allowed)):
            for source in sources:
                yield Case(f"from {source.hex()}", version, outcome, source=source)
        yield Case("in a broadcast frame", version, Outcome.FORBIDDEN, to=b"\xff" * 6)
        yield Case("in a multicast frame", version, Outcome.FORBIDDEN, to=b"\1\0\x5e\0\0\1")


def _super_packets() -> Iterator[Case]:
    tcp = {"protocol": TCP, "size": 3600}
    for version, headers in ((4, 20), (6, 40)):
        bare = 0 if version == 6 else BARE_OPTIONS
        for name, header, protocol in (
            ("TCP", TCP_HEADER, TCP),
            ("TCP with timestamps", TCP_TIMESTAMPS, TCP),
            ("UDP", UDP_HEADER, UDP),
        ):
            fits = 1340 - headers - len(header)
            kind = {"protocol": protocol, "header": header, "size": 3600}
            # On bare IPv4 that is BARE_OPTIONS more: still what fits, and still one too many.
            yield Case(f"{name} segments that fit", version, Outcome.FITS, gso_size=fits - bare, **kind)
            yield Case(
                f"{name} segments one too large", version, Outcome.ANSWERED, on_wire=1341, gso_size=fits + 1, **kind
            )
        small = {"protocol": TCP, "header": TCP_HEADER, "gso_size": 536}
        yield Case("small segments", version, Outcome.FITS, 3600, **small)
        yield Case(
            "segments of a kind we do not know", version, Outcome.UNREADABLE, 3600, protocol=SCTP, gso_size=0xFFFF
        )
        yield Case("one segment alone", version, Outcome.ANSWERED, 1400, on_wire=None, gso_size=0xFFFF)
        yield Case("one segment alone that fits", version, Outcome.FITS, 1340, gso_size=0xFFFF)
        yield Case("observed", version, Outcome.WOULD_ANSWER, on_wire=headers + 20 + 1400, gso_size=1400,
                   header=TCP_HEADER, peer="observed 1340", **tcp)  # fmt: skip
    yield Case(
        "super-packet, DF clear", 4, Outcome.DF_CLEAR, fragment=0, on_wire=1440, gso_size=1400, header=TCP_HEADER, **tcp
    )
    # A packet over 64 KiB says 0 for its length; IPv6's has the jumbo payload option, which its segments have not.
    none = {"total": 0}
    yield Case(
        "BIG TCP, too large", 4, Outcome.ANSWERED, on_wire=1341, gso_size=1301, header=TCP_HEADER, fields=none, **tcp
    )
    none = {"length": 0}
    big = {"extensions": (JUMBO,), "header": TCP_HEADER, "fields": none, **tcp}
    yield Case("BIG TCP, fits", 6, Outcome.FITS, gso_size=1280, **big)
    yield Case("BIG TCP, too large", 6, Outcome.ANSWERED, on_wire=1341, gso_size=1281, **big)
    yield Case("hop-by-hop options of another kind", 6, Outcome.ANSWERED, on_wire=1348, gso_size=1280,
               extensions=(extension(HOP_BY_HOP),), header=TCP_HEADER, **tcp)  # fmt: skip


def _malformed() -> Iterator[Case]:
    for ethertype in (ARP, VLAN, 0x8847):
        yield Case(f"ethertype {ethertype:#06x}", 4, Outcome.UNREADABLE, ethertype=ethertype)
    for version in (0, 5, 6, 15):
        yield Case(f"version {version}", 4, Outcome.UNREADABLE, fields={"version": version})
    for version in (0, 4, 5, 7):
        yield Case(f"version {version}", 6, Outcome.UNREADABLE, fields={"version": version})
    for words in (0, 4):
        yield Case(f"a header of {words} words", 4, Outcome.UNREADABLE, fields={"words": words})
    # How many bytes leave is what counts, whatever the header says; the quote says how many.
    for total in (0, 20, 1340, 0xFFFF):
        yield Case(f"total length {total}", 4, Outcome.ANSWERED, fields={"total": total})
    for length in (0, 1300, 0xFFFF):
        yield Case(f"payload length {length}", 6, Outcome.ANSWERED, fields={"length": length})


CASES = tuple(
    case
    for cases in (_sizes, _peers, _upper_layers, _fragments, _ip_options, _forbidden, _super_packets, _malformed)
    for case in cases()
)
