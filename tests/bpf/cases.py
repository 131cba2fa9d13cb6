"""Hand-written cases: what each rule does to one packet, said without the model.

`build(source, destination, mss)` makes the IP packet. It is called with LARGE for what goes in; where the reason is
CLAMPED it is called again with the limit, and what comes out must be that packet, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bpf.packets import (
    ACK,
    ADDRESSES,
    AH,
    AO,
    ARP,
    CWR,
    DESTINATION,
    ECE,
    END,
    ESP,
    FAST_OPEN,
    FIN,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    MD5,
    MORE_FRAGMENTS,
    NEAR,
    NOP,
    NOTHING,
    PSH,
    ROUTING,
    RST,
    SACK_OK,
    SYN,
    TIMESTAMPS,
    UDP,
    URG,
    VLAN,
    WINDOW_SCALE,
    Packet,
    ethernet,
    extension,
    fragment_header,
    ipv4,
    ipv6,
    limits_of,
    mss,
    tcp_segment,
)
from mssclamp.wire.clamp import Direction, Reason

LARGE = 1460
"""Above the limits of the peers "enforced", "observed", "carrying" and "narrow"."""

Build = Callable[[bytes, bytes, int], bytes]


@dataclass(frozen=True)
class Case:
    """One packet and what becomes of it; None stands for "not counted"."""

    description: str
    version: int
    build: Build
    reason: Reason | None
    peer: str = "enforced"

    def __str__(self) -> str:
        return f"IPv{self.version}: {self.description}"

    def packets(self, *, link_header: bool, direction: Direction) -> tuple[Packet, bytes]:
        """The packet for one hook, and the bytes that must come out of it."""
        peer = ADDRESSES[self.peer, self.version]
        ends = (NEAR[self.version], peer) if direction is Direction.EGRESS else (peer, NEAR[self.version])
        before = after = self.build(*ends, LARGE)
        if self.reason is Reason.CLAMPED:
            limits = limits_of(peer)
            assert limits is not None
            after = self.build(*ends, limits.mss4 if self.version == 4 else limits.mss6)
        if link_header:
            ethertype = IPV4 if self.version == 4 else IPV6
            before, after = ethernet(before, ethertype), ethernet(after, ethertype)
        return Packet(before, link_header, direction), after


Segment = Callable[[bytes, bytes, int], bytes]


def _both(description: str, reason: Reason | None, segment: Segment, peer: str = "enforced") -> Iterator[Case]:
    """One TCP segment, over both families."""
    yield Case(description, 4, lambda s, d, m: ipv4(s, d, segment(s, d, m)), reason, peer)
    yield Case(description, 6, lambda s, d, m: ipv6(s, d, segment(s, d, m)), reason, peer)


def _options(
    description: str,
    reason: Reason | None,
    options: Callable[[int], bytes],
    peer: str = "enforced",
    *,
    flags: int = SYN,
) -> Iterator[Case]:
    """A SYN with these options."""
    return _both(description, reason, lambda s, d, m: tcp_segment(s, d, options(m), flags=flags), peer)


def _flags() -> Iterator[Case]:
    for description, flags, reason in (
        ("SYN", SYN, Reason.CLAMPED),
        ("SYN-ACK", SYN | ACK, Reason.CLAMPED),
        ("SYN that asks for ECN", SYN | ECE | CWR, Reason.CLAMPED),
        ("SYN with every flag but RST", 0xFF & ~RST, Reason.CLAMPED),
        ("SYN+RST", SYN | RST, Reason.SYN_RST),
        ("SYN+RST+ACK", SYN | RST | ACK, Reason.SYN_RST),
        ("every flag", 0xFF, Reason.SYN_RST),
        ("RST", RST, None),
        ("ACK with an MSS option", ACK, None),
        ("FIN+PSH+URG+ACK", FIN | PSH | URG | ACK, None),
        ("no flag", 0, None),
    ):
        yield from _options(description, reason, mss, flags=flags)
    yield from _options("SYN+RST of nobody's", Reason.SYN_RST, mss, "stranger", flags=SYN | RST)


def _values() -> Iterator[Case]:
    for peer in ("enforced", "narrow", "host", "jumbo", "carrying"):
        for version in (4, 6):
            limits = limits_of(ADDRESSES[peer, version])
            assert limits is not None
            limit = limits.mss4 if version == 4 else limits.mss6
            for value in sorted({0, 1, 535, 536, limit - 1, limit, limit + 1, 0xFF00, 0xFFFF}):
                # What came in is `value`, what goes out is the limit: one builder for both.
                def segment(s: bytes, d: bytes, m: int, value: int = value) -> bytes:
                    return tcp_segment(s, d, mss(value if m == LARGE else m))

                def build(s: bytes, d: bytes, m: int, version: int = version, segment: Segment = segment) -> bytes:
                    return (ipv4 if version == 4 else ipv6)(s, d, segment(s, d, m))

                reason = Reason.CLAMPED if value > limit else Reason.FITS
                yield Case(f"MSS {value} to {peer}, whose limit is {limit}", version, build, reason, peer)


def _places() -> Iterator[Case]:
    def linux(m: int) -> bytes:
        return mss(m) + SACK_OK + TIMESTAMPS + NOP + WINDOW_SCALE

    for description, options in (
        ("Linux's options", linux),
        ("odd offset behind a NOP", lambda m: NOP + mss(m) + 3 * NOP),
        ("odd offset behind a window scale", lambda m: WINDOW_SCALE + mss(m) + NOP),
        ("even offset behind two NOPs", lambda m: 2 * NOP + mss(m) + 2 * NOP),
        ("offset 3 behind three NOPs", lambda m: 3 * NOP + mss(m) + END),
        ("ends where a header of 60 bytes ends", lambda m: 36 * NOP + mss(m)),
        ("odd, ends one byte before the header", lambda m: 35 * NOP + mss(m) + NOP),
        ("two, both even", lambda m: 2 * mss(m)),
        ("two, even and odd", lambda m: mss(m) + NOP + mss(m) + 3 * NOP),
        ("two, both odd", lambda m: NOP + 2 * mss(m) + 3 * NOP),
        ("ten of them", lambda m: 10 * mss(m)),
        ("two, the second fits", lambda m: mss(m) + mss(400)),
        ("two, the first fits", lambda m: mss(400) + NOP + mss(m) + 3 * NOP),
        ("before an end of list, another behind it", lambda m: mss(m) + END + mss(9000) + 3 * NOP),
        ("before an end of list, garbage behind it", lambda m: mss(m) + END + b"\2\1\xff"),
        ("beside TCP-MD5", lambda m: MD5 + mss(m) + 2 * NOP),
        ("odd beside TCP-MD5", lambda m: NOP + MD5 + mss(m) + NOP),
        ("beside Fast Open", lambda m: FAST_OPEN + mss(m) + 2 * NOP),
        ("behind an option of two bytes", lambda m: b"\xfd\2" + mss(m) + 2 * NOP),
        ("behind an option of 36 bytes", lambda m: b"\xfd\x24" + bytes(34) + mss(m)),
        ("TCP-AO behind the end of list only", lambda m: mss(m) + END + AO + 3 * NOP),
    ):
        yield from _options(description, Reason.CLAMPED, options)
    yield from _options("Linux's options, observed", Reason.WOULD_CLAMP, linux, "observed")
    yield from _options("behind an end of list", Reason.NO_MSS, lambda m: NOP + END + NOP + NOP + mss(m))
    yield from _options("only the second of two is a list's", Reason.FITS, lambda m: mss(400) + 4 * END + mss(m))


def _refusals() -> Iterator[Case]:
    for description, reason, options in (
        ("no options", Reason.NO_MSS, lambda _: b""),
        ("NOPs alone", Reason.NO_MSS, lambda _: 40 * NOP),
        ("end of list alone", Reason.NO_MSS, lambda _: 40 * END),
        ("an MSS inside another option", Reason.NO_MSS, lambda m: b"\xfd\6" + mss(m) + 2 * NOP),
        ("length 0", Reason.BAD_OPTIONS, lambda m: mss(m) + b"\xfd\0\0\0"),
        ("length 1", Reason.BAD_OPTIONS, lambda m: mss(m) + b"\xfd\1\0\0"),
        ("length 0 of an MSS", Reason.BAD_OPTIONS, lambda m: b"\2\0" + m.to_bytes(2, "big")),
        ("one byte longer than the header", Reason.BAD_OPTIONS, lambda m: mss(m) + b"\xfd\5\0\0"),
        ("length 255", Reason.BAD_OPTIONS, lambda m: mss(m) + b"\xfd\xff\0\0"),
        ("no room for a length", Reason.BAD_OPTIONS, lambda m: mss(m) + 3 * NOP + b"\xfd"),
        ("no room for an MSS's length", Reason.BAD_OPTIONS, lambda m: mss(m) + 3 * NOP + b"\2"),
        ("MSS of length 2", Reason.BAD_OPTIONS, lambda m: mss(m) + b"\2\2" + 2 * NOP),
        ("MSS of length 3", Reason.BAD_OPTIONS, lambda _: b"\2\3\xff" + NOP),
        ("MSS of length 5", Reason.BAD_OPTIONS, lambda _: b"\2\5\xff\xff\xff" + 3 * NOP),
        ("MSS that the header cuts off", Reason.BAD_OPTIONS, lambda m: NOP + mss(m)[:3]),
        ("malformed at the end of 40 bytes", Reason.BAD_OPTIONS, lambda m: mss(m) + 35 * NOP + b"\xfd"),
        ("TCP-AO before the MSS", Reason.TCP_AO, lambda m: AO + mss(m)),
        ("TCP-AO behind the MSS", Reason.TCP_AO, lambda m: mss(m) + AO),
        ("TCP-AO without an MSS", Reason.TCP_AO, lambda _: AO),
        ("TCP-AO beside an MSS that fits", Reason.TCP_AO, lambda _: AO + mss(400)),
        ("TCP-AO of two bytes", Reason.TCP_AO, lambda m: b"\x1d\2" + mss(m) + 2 * NOP),
        ("TCP-AO in a malformed list", Reason.BAD_OPTIONS, lambda m: AO + mss(m) + b"\xfd\0\0\0"),
        ("TCP-AO longer than the header", Reason.BAD_OPTIONS, lambda m: mss(m) + b"\x1d\x10\0\0"),
    ):
        yield from _options(description, reason, options)
        if reason is not Reason.NO_MSS:
            yield from _options(description + ", observed", reason, options, "observed")


def _peers() -> Iterator[Case]:
    def broken(m: int) -> bytes:
        return mss(m) + b"\xfd\0\0\0"

    yield from _options("observed", Reason.WOULD_CLAMP, mss, "observed")
    yield from _options("observed, fits", Reason.FITS, lambda _: mss(1000), "observed")
    yield from _options("clamping off", Reason.CLAMP_OFF, mss, "exempt")
    yield from _options("clamping off, malformed options", Reason.CLAMP_OFF, broken, "exempt")
    yield from _options("nobody's", Reason.NO_PEER, mss, "stranger")
    yield from _options("nobody's, malformed options", Reason.NO_PEER, broken, "stranger")


def _lengths() -> Iterator[Case]:
    """The data offset, payload, what follows the packet."""
    for words, reason in ((0, Reason.BAD_TCP), (4, Reason.BAD_TCP), (7, Reason.BAD_TCP), (15, Reason.BAD_TCP)):
        yield from _both(
            f"data offset {words}, six words are there",
            reason,
            lambda s, d, m, words=words: tcp_segment(s, d, mss(m), words=words),
        )
    for size in (1, 2, 3, 536):
        yield from _both(
            f"{size} bytes of payload",
            Reason.CLAMPED,
            lambda s, d, m, size=size: tcp_segment(s, d, mss(m), payload=size * b"\xa5"),
        )
    yield from _both(
        "an MSS in the payload",
        Reason.NO_MSS,
        lambda s, d, m: tcp_segment(s, d, 4 * NOP, payload=mss(m)),
    )
    for error in (1, 0x0100, 0x8000, 0xFFFE):
        yield from _both(
            f"a checksum wrong by {error:#06x}",
            Reason.CLAMPED,
            lambda s, d, m, error=error: tcp_segment(s, d, NOP + mss(m) + 3 * NOP, checksum_error=error),
        )


def _ipv4() -> Iterator[Case]:
    def case(description: str, reason: Reason | None, **fields: object) -> Case:
        def build(s: bytes, d: bytes, m: int) -> bytes:
            return ipv4(s, d, tcp_segment(s, d, NOP + mss(m) + 3 * NOP), **fields)

        return Case(description, 4, build, reason)

    yield case("without DF", Reason.CLAMPED, fragment=0)
    yield case("the reserved bit", Reason.CLAMPED, fragment=0x8000)
    yield case("first fragment", Reason.CLAMPED, fragment=MORE_FRAGMENTS)
    yield case("second fragment, 8 bytes on", Reason.LATER_FRAGMENT, fragment=MORE_FRAGMENTS | 1)
    yield case("last fragment, as far as can be", Reason.LATER_FRAGMENT, fragment=0x1FFF)
    yield case("later fragment of UDP", None, fragment=1, protocol=UDP)
    yield case("4 bytes of options", Reason.CLAMPED, options=4 * NOP)
    yield case("40 bytes of options", Reason.CLAMPED, options=40 * NOP)
    yield case("router alert", Reason.CLAMPED, options=b"\x94\4\0\0")
    for protocol in (0, 1, 4, 5, 7, UDP, 41, ESP, AH, 255):
        yield case(f"protocol {protocol}", None, protocol=protocol)
    for version in (0, 3, 5, 6, 15):
        yield case(f"version {version}", Reason.BAD_IP, version=version)
    for words in (0, 1, 4):
        yield case(f"header of {words} words", Reason.BAD_IP, words=words)
    yield case("version and protocol wrong", Reason.BAD_IP, version=5, protocol=UDP)
    yield case("header length beyond the packet", Reason.BAD_TCP, words=15)
    yield case("total length 1 more than there is", Reason.BAD_IP, total=49)
    yield case("total length 0", Reason.BAD_IP, total=0)
    yield case("total length inside the IP header", Reason.BAD_IP, total=19)
    yield case("total length is the IP header", Reason.BAD_TCP, total=20)
    yield case("total length inside the options", Reason.BAD_TCP, total=47)

    def followed(s: bytes, d: bytes, m: int) -> bytes:
        return ipv4(s, d, tcp_segment(s, d, mss(m))) + mss(9000) + b"\xff" * 3

    yield Case("followed by the frame's padding", 4, followed, Reason.CLAMPED)

    def options_in_padding(s: bytes, d: bytes, m: int) -> bytes:
        return ipv4(s, d, tcp_segment(s, d, words=6)) + mss(m)

    yield Case("options in the frame's padding", 4, options_in_padding, Reason.BAD_TCP)


def _ipv6() -> Iterator[Case]:
    def case(description: str, reason: Reason | None, *extensions: object, **fields: object) -> Case:
        def build(s: bytes, d: bytes, m: int) -> bytes:
            return ipv6(s, d, tcp_segment(s, d, NOP + mss(m) + 3 * NOP), extensions=extensions, **fields)

        return Case(description, 6, build, reason)

    hop, routing, options = extension(HOP_BY_HOP), extension(ROUTING, 24), extension(DESTINATION, 16)
    whole = fragment_header()
    yield case("hop-by-hop options", Reason.CLAMPED, hop)
    yield case("routing header", Reason.CLAMPED, routing)
    yield case("destination options", Reason.CLAMPED, options)
    yield case("fragment header of a whole packet", Reason.CLAMPED, whole)
    yield case("first fragment", Reason.CLAMPED, fragment_header(more=True))
    yield case("all kinds, as RFC 8200 orders them", Reason.CLAMPED, hop, options, routing, whole, options)
    yield case("eight of them", Reason.CLAMPED, *4 * (hop, options))
    yield case("eight fragment headers", Reason.CLAMPED, *8 * (whole,))
    yield case("nine of them", Reason.EXT_HEADERS, hop, *8 * (options,))
    yield case("nine of them, then UDP", Reason.EXT_HEADERS, *9 * (hop,), protocol=UDP)
    yield case("nine of them, the ninth a later fragment", Reason.EXT_HEADERS, *8 * (hop,), fragment_header(1))
    yield case("eight of them, the eighth a later fragment", Reason.LATER_FRAGMENT, *7 * (hop,), fragment_header(1))
    yield case("one of 264 bytes", Reason.CLAMPED, extension(DESTINATION, 264))
    yield case("second fragment, 8 bytes on", Reason.LATER_FRAGMENT, fragment_header(1))
    yield case("last fragment, as far as can be", Reason.LATER_FRAGMENT, fragment_header(0x1FFF))
    yield case("later fragment of UDP", Reason.LATER_FRAGMENT, fragment_header(1), protocol=UDP)
    yield case("later fragment inside a chain", Reason.LATER_FRAGMENT, hop, fragment_header(185), options)
    yield case("hop-by-hop options, then UDP", None, hop, protocol=UDP)
    for protocol in (1, 4, 41, UDP, ESP, AH, NOTHING, 135, 139, 255):
        yield case(f"next header {protocol}", None, protocol=protocol)
    for version in (0, 4, 5, 7, 15):
        yield case(f"version {version}", Reason.BAD_IP, version=version)
    yield case("version wrong, next header UDP", Reason.BAD_IP, version=4, protocol=UDP)
    yield case("length of an extension header beyond the packet", Reason.BAD_TCP, extension(ROUTING, units=255))
    yield case("the next extension header beyond the packet", Reason.BAD_IP, extension(ROUTING, units=255), hop)
    # A fragment header's second byte is reserved; it is no length.
    yield case("a fragment header's reserved byte", Reason.CLAMPED, whole._replace(body=b"\xff" + whole.body[1:]))
    yield case("payload length 1 more than there is", Reason.BAD_IP, length=29)
    yield case("payload length 0, as a jumbogram's", Reason.BAD_TCP, length=0)
    yield case("payload length 0 behind an extension header", Reason.BAD_IP, hop, length=0)
    yield case("payload length inside an extension header", Reason.BAD_IP, hop, length=7)
    yield case("payload length inside the options", Reason.BAD_TCP, length=27)

    def cut_off(s: bytes, d: bytes, _: int) -> bytes:
        return ipv6(s, d, bytes(7), extensions=(hop,), protocol=DESTINATION)

    yield Case("seven bytes of an extension header", 6, cut_off, Reason.BAD_IP)

    def followed(s: bytes, d: bytes, m: int) -> bytes:
        return ipv6(s, d, tcp_segment(s, d, mss(m))) + mss(9000) + b"\xff" * 3

    yield Case("followed by the frame's padding", 6, followed, Reason.CLAMPED)

    def options_in_padding(s: bytes, d: bytes, m: int) -> bytes:
        return ipv6(s, d, tcp_segment(s, d, words=6)) + mss(m)

    yield Case("options in the frame's padding", 6, options_in_padding, Reason.BAD_TCP)


def _frames() -> Iterator[tuple[str, bytes, Reason | None]]:
    """What the link layer says, in whole frames."""
    peer4, peer6 = ADDRESSES["enforced", 4], ADDRESSES["enforced", 6]
    near4, near6 = NEAR[4], NEAR[6]
    syn4 = ipv4(near4, peer4, tcp_segment(near4, peer4, mss(LARGE)))
    syn6 = ipv6(near6, peer6, tcp_segment(near6, peer6, mss(LARGE)))
    yield "ARP", ethernet(bytes(28), ARP), None
    yield "a SYN said to be ARP", ethernet(syn4, ARP), None
    yield "IEEE 802.3 with a length", ethernet(syn4, len(syn4)), None
    yield "a VLAN tag in the frame", ethernet(b"\0\5" + IPV4.to_bytes(2, "big") + syn4, VLAN), None
    yield "IPv6 said to be IPv4", ethernet(syn6, IPV4), Reason.BAD_IP
    yield "IPv4 said to be IPv6", ethernet(syn4, IPV6), Reason.BAD_IP


FRAMES = tuple(_frames())

CASES = (
    *_flags(),
    *_values(),
    *_places(),
    *_refusals(),
    *_peers(),
    *_lengths(),
    *_ipv4(),
    *_ipv6(),
)
