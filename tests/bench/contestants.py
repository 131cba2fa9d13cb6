"""The ways to clamp that are compared, each put on a gateway for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from lab import Lab, topology
from lab.topology import Line

MTU = 1400

CONFIG = f"""
mode = "enforce"
[[peer]]
name = "site"
device = "wan"
prefixes = ["10.2.0.0/24", "fd00:2::/64"]
mtu = {MTU}
"""

NFT_RULE = """
table inet clamp {
    chain forward { type filter hook forward priority 0; tcp flags syn tcp option maxseg size set rt mtu; }
}
"""


def narrow_line(lab: Lab) -> Line:
    """client, gateway, site; the route to the site has the MTU that Linux's own clamps go by."""
    line = topology.line(lab)
    line.gateway.ip(f"route replace 10.2.0.0/24 dev {line.device} mtu {MTU}")
    return line


@contextmanager
def _nothing(_lab: Lab, _line: Line) -> Iterator[None]:
    yield


@contextmanager
def _clampd(lab: Lab, line: Line) -> Iterator[None]:
    with lab.clampd_at_rest(line.gateway, CONFIG) as daemon:
        daemon.attached(line.device)
        yield
        daemon.ctl("detach")


@contextmanager
def _nft(_lab: Lab, line: Line) -> Iterator[None]:
    line.gateway.nft(NFT_RULE)
    yield
    line.gateway.nft("delete table inet clamp")


@contextmanager
def _iptables(_lab: Lab, line: Line) -> Iterator[None]:
    rule = ["FORWARD", "-p", "tcp", "--tcp-flags", "SYN,RST", "SYN", "-j", "TCPMSS", "--clamp-mss-to-pmtu"]
    line.gateway.run("iptables", "-t", "mangle", "-A", *rule)
    yield
    line.gateway.run("iptables", "-t", "mangle", "-D", *rule)


Contestant = Callable[[Lab, Line], AbstractContextManager[None]]

CLAMPS: dict[str, Contestant] = {
    "clampd": _clampd,
    "nftables maxseg rt mtu": _nft,
    "iptables TCPMSS": _iptables,
}

CONTESTANTS: dict[str, Contestant] = {"nothing": _nothing} | CLAMPS
