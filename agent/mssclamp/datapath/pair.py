"""The private veth pair on which answers are built (bpf/too_big.h says why there is one).

One end takes orders from the programs on the devices; at the other sits the builder. No addresses, no IPv6, and no
transmit checksum offload: so that what comes out has its checksums filled in.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from contextlib import suppress
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from mssclamp.errors import DatapathError

ORDERS = "clampd-orders"
BUILDER = "clampd-builder"

_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17
_ETHTOOL_GTXCSUM = 0x16


def ensure(netlink: IPRoute) -> tuple[int, int]:
    """The ifindexes of both ends, made and set up if need be. Raises DatapathError if the kernel refuses."""
    try:
        if not _index(netlink, ORDERS) or not _index(netlink, BUILDER):
            remove(netlink)
            netlink.link("add", ifname=ORDERS, kind="veth", peer={"ifname": BUILDER})
        for name in (ORDERS, BUILDER):
            with suppress(OSError):  # a kernel without IPv6 needs no telling
                Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            _switch_off_checksum_offload(name)
            netlink.link("set", index=_index(netlink, name), state="up")
    except (NetlinkError, OSError) as error:
        raise DatapathError(f"the veth pair {ORDERS} that answers are built on cannot be made: {error}") from error
    return _index(netlink, ORDERS), _index(netlink, BUILDER)


def remove(netlink: IPRoute) -> bool:
    """Takes the pair away; whether there was one."""
    for name in (ORDERS, BUILDER):
        index = _index(netlink, name)
        if index:
            with suppress(NetlinkError):
                netlink.link("del", index=index)
            return True
    return False


def is_ours(name: str) -> bool:
    """Whether a device of this name is one of the pair's ends."""
    return name in (ORDERS, BUILDER)


def _index(netlink: IPRoute, name: str) -> int:
    found: list[int] = list(netlink.link_lookup(ifname=name))
    return found[0] if found else 0


def _switch_off_checksum_offload(name: str) -> None:
    """`ethtool -K NAME tx off`, the old way, which every kernel still takes."""
    if _ethtool(name, _ETHTOOL_GTXCSUM, 0):
        _ethtool(name, _ETHTOOL_STXCSUM, 0)


def _ethtool(name: str, command: int, value: int) -> int:
    # struct ethtool_value: cmd, data. struct ifreq: name, pointer to it.
    data = array.array("I", [command, value])
    request = struct.pack("16sP", name.encode(), data.buffer_info()[0]) + bytes(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, bytearray(request))
    return data[1]
