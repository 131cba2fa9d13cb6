"""A second opinion on answers, by scapy: it knows neither the model nor the programs."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, IPerror
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPerror6, IPv6, in6_chksum
from scapy.layers.l2 import Ether
from scapy.utils import checksum

from bpf.outgoing import Outgoing

QUOTE = 256


def check_answer(packet: Outgoing, size: int, mtu: int, frame: bytes) -> bool:
    """Asserts that `frame` is a right answer to the packet, which is `size` bytes on the wire where `mtu` fit.

    Returns whether the header checksum in the quote is right, which it must be if (and only if) the packet's was.
    """
    sent, ether = packet.datagram, Ether(frame[:14])
    assert ether.type == packet.ethertype
    if packet.link_header:
        came = Ether(packet.data[:14])
        assert (ether.src, ether.dst) == (came.dst, came.src)
    return (_check4 if packet.ethertype == 0x0800 else _check6)(sent, size, mtu, frame[14:])


def _check4(sent: bytes, size: int, mtu: int, datagram: bytes) -> bool:
    packet, ip = IP(sent[:60]), IP(datagram)
    assert (ip.version, ip.ihl, ip.len, ip.frag, ip.flags) == (4, 5, len(datagram), 0, 0)
    assert (ip.src, ip.dst, ip.ttl, ip.proto) == (packet.dst, packet.src, 64, 1)
    assert checksum(datagram[:20]) == 0
    assert len(datagram) == 20 + 8 + QUOTE <= 576

    icmp = ip[ICMP]
    assert (icmp.type, icmp.code, icmp.nexthopmtu) == (3, 4, mtu)
    assert datagram[24:26] == b"\0\0"
    assert checksum(datagram[20:]) == 0

    quote, inner = datagram[28:], ip[IPerror]
    assert inner.len == size > mtu
    assert (inner.src, inner.dst, inner.id, inner.proto) == (packet.src, packet.dst, packet.id, packet.proto)
    assert quote[:2] + quote[4:10] + quote[12:] == sent[:2] + sent[4:10] + sent[12:QUOTE]
    length = (sent[0] & 0x0F) * 4
    was_right, is_right = checksum(sent[:length]) == 0, checksum(quote[:length]) == 0
    assert is_right == was_right
    return is_right


def _check6(sent: bytes, size: int, mtu: int, datagram: bytes) -> bool:
    packet, ip = IPv6(sent[:40]), IPv6(datagram)
    assert (ip.version, ip.plen, ip.nh, ip.hlim) == (6, len(datagram) - 40, 58, 64)
    assert (ip.src, ip.dst) == (packet.dst, packet.src)
    assert len(datagram) == 40 + 8 + QUOTE <= 576

    icmp = ip[ICMPv6PacketTooBig]
    assert (icmp.code, icmp.mtu) == (0, mtu)
    assert mtu >= 1280
    assert icmp.cksum == in6_chksum(58, ip, datagram[40:42] + b"\0\0" + datagram[44:])

    quote, inner = datagram[48:], ip[IPerror6]
    assert inner.plen == size - 40
    assert size > mtu
    assert quote[:4] + quote[6:] == sent[:4] + sent[6:QUOTE]
    return True
