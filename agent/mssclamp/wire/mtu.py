"""Sizes: what an MTU leaves for TCP, and what tunnels take from it.

"MTU" counts the IP header and all behind it, never the link header. Everything is in bytes. The numbers 40,
60, 1280 and the like are spelled here once; logic elsewhere calls these functions.
"""

from __future__ import annotations

from typing import Final, Literal

IpVersion = Literal[4, 6]

# Specification constants.

IPV4_HEADER: Final = 20
"""Without options (RFC 791, section 3.1)."""

IPV6_HEADER: Final = 40
"""Without extension headers (RFC 8200, section 3)."""

TCP_HEADER: Final = 20
"""Without options (RFC 9293, section 3.1)."""

UDP_HEADER: Final = 8
"""RFC 768."""

ETHERNET_HEADER: Final = 14
"""Two addresses and a type, no tag."""

MIN_MSS: Final = 536
"""What every IPv4 host takes (RFC 9293, section 3.7.1: 576 - 40). In neither family is less ever written."""

IPV6_MIN_MTU: Final = 1280
"""Every link under IPv6 carries this much (RFC 8200, section 5)."""

WIREGUARD_DATA_HEADER: Final = 16
"""Type 1, reserved 3, receiver index 4, counter 8 (WireGuard's paper, section 5.4.6)."""

WIREGUARD_TAG: Final = 16
"""Poly1305's tag behind the padded inner packet."""

WIREGUARD_PADDING: Final = 16
"""Inner packets are padded with zeros to a multiple of this."""


def fixed_headers(version: IpVersion) -> int:
    """IP and TCP header without options or extension headers: 40 or 60."""
    return (IPV4_HEADER if version == 4 else IPV6_HEADER) + TCP_HEADER


def mss_for_mtu(mtu: int, version: IpVersion) -> int:
    """The largest MSS to let through towards an MTU, never below `MIN_MSS`.

    The MSS counts fixed headers only; who sends options shortens its segments by them (RFC 6691, section 2).
    """
    return max(MIN_MSS, mtu - fixed_headers(version))


# Tunnels.


def outer_ip_header(version: IpVersion) -> int:
    """The header that a tunnel over this IP version puts in front: 20 or 40."""
    return IPV4_HEADER if version == 4 else IPV6_HEADER


def wireguard_overhead(outer_version: IpVersion) -> int:
    """Outer minus padded inner packet: 60 over IPv4, 80 over IPv6."""
    return outer_ip_header(outer_version) + UDP_HEADER + WIREGUARD_DATA_HEADER + WIREGUARD_TAG


def wireguard_padded(inner: int, device_mtu: int) -> int:
    """The size to which the sender pads an inner packet of `inner` <= `device_mtu` bytes.

    Up to the next multiple of 16, but not beyond the device's MTU. (wireguard-go does exactly this; the Linux
    driver goes by the route's MTU where that is smaller; some other implementations do not pad at all.)
    """
    return min(-(-inner // WIREGUARD_PADDING) * WIREGUARD_PADDING, device_mtu)


def wireguard_peer_mtu(path_mtu: int, device_mtu: int, outer_version: IpVersion) -> int:
    """The largest inner packet that is still whole in one outer packet of `path_mtu` bytes once it is padded.

    Below the device's MTU only multiples of 16 are safe: on a path of 1400 over IPv4, 1340 looks right but
    leaves as 1344 + 60 = 1404.
    """
    room = path_mtu - wireguard_overhead(outer_version)
    if room >= device_mtu:
        return device_mtu
    return room // WIREGUARD_PADDING * WIREGUARD_PADDING


GRE_HEADER: Final = 4
"""Flags and protocol (RFC 2784, section 2.1); key, sequence number and checksum (RFC 2890) add 4 each."""

VXLAN_HEADER: Final = 8
"""RFC 7348, section 5."""

GENEVE_HEADER: Final = 8
"""RFC 8926, section 3.1, without options."""

ENCAPSULATION_LIMIT: Final = 8
"""A destination options header with RFC 2473's limit (section 4.1.1), Linux's default over IPv6."""

PPPOE_HEADERS: Final = 8
"""PPPoE 6 (RFC 2516, section 4) and PPP's protocol field 2 (RFC 1661, section 2)."""


def default_overhead(kind: str | None, outer_version: IpVersion = 4) -> int | None:
    """Outer minus inner packet size of a device by its kind; None where the kind does not say.

    `kind` is IFLA_INFO_KIND's word, None for a device without one (a plain network card). `outer_version`
    matters to those kinds that run over either. Where options of the device add more (a GRE key, FOU, Geneve
    options) the operator says so by the peer's `overhead`. IPsec (`xfrm`, `vti`) depends on its algorithms,
    and `tun` on the program behind it: None.
    """
    outer = outer_ip_header(outer_version)
    match kind:
        case None | "veth" | "vlan" | "bridge" | "bond" | "macvlan" | "ipvlan" | "dummy":
            # The IP packet itself is what leaves; the link's headers do not count, a VLAN tag (4) neither:
            # Linux gives the tagged device its parent's MTU.
            return 0
        case "wireguard":
            return wireguard_overhead(outer_version)
        case "gre":
            return IPV4_HEADER + GRE_HEADER
        case "gretap":
            return IPV4_HEADER + GRE_HEADER + ETHERNET_HEADER
        case "ip6gre":
            return IPV6_HEADER + ENCAPSULATION_LIMIT + GRE_HEADER
        case "ip6gretap":
            return IPV6_HEADER + ENCAPSULATION_LIMIT + GRE_HEADER + ETHERNET_HEADER
        case "ipip" | "sit":
            return IPV4_HEADER
        case "ip6tnl":
            return IPV6_HEADER + ENCAPSULATION_LIMIT
        case "vxlan":
            return outer + UDP_HEADER + VXLAN_HEADER + ETHERNET_HEADER
        case "geneve":
            return outer + UDP_HEADER + GENEVE_HEADER + ETHERNET_HEADER
        case "ppp" | "pppoe":
            # Over Ethernet, the only common case: Ethernet's 1500 leaves 1492. The underlay is not IP here.
            return PPPOE_HEADERS
        case _:
            return None


PROTOCOL_UDP: Final = 17


def tunnel_protocol(kind: str | None) -> int | None:
    """The IP protocol of a tunnel device's outer packets, by its kind (IFLA_INFO_KIND); None where that says nothing.

    IPIP 4, IPv6 in IP 41 (also what `ip6tnl` carries most), GRE 47 (RFC 2784, section 2), the others UDP.
    """
    match kind:
        case "wireguard" | "vxlan" | "geneve":
            return PROTOCOL_UDP
        case "gre" | "gretap" | "ip6gre" | "ip6gretap":
            return 47
        case "ipip":
            return 4
        case "sit" | "ip6tnl":
            return 41
        case _:
            return None
