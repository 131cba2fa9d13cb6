"""From what a person typed to the peer that is meant.

PURE: the routing table comes in as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from mssclamp.errors import AmbiguousError, NotFoundError
from mssclamp.pmtu.table import Address, Network, Peer

_MIN_KEY_CHARACTERS = 4
_LISTED = 8


@dataclass(frozen=True)
class Resolved:
    """The peer, and the address and prefix that led to it if an address was given."""

    peer: Peer
    address: Address | None = None
    prefix: Network | None = None


def resolve(
    reference: str, device: str | None, peers: Mapping[str, Peer], route: Callable[[Address], str | None]
) -> Resolved:
    """A name, an id, a public key or its first characters, or an inner address.

    `device` narrows the search; for an address it replaces what `route` (address -> device name) says.
    Raises NotFoundError, or AmbiguousError which lists what fits.
    """
    candidates = [peer for peer in peers.values() if device in (None, peer.facts.device)]
    for fits in (_same_id, _same_name, _same_key):
        found = [peer for peer in candidates if fits(peer, reference)]
        if found:
            return Resolved(_only(reference, found))
    try:
        address = ip_address(reference)
    except ValueError:
        pass
    else:
        zone = address.scope_id if isinstance(address, IPv6Address) else None  # fe80::1%wg0 (RFC 4007, section 11)
        return _by_address(address, device or zone, candidates, route)
    beginning = _url_safe(reference)
    if len(beginning) >= _MIN_KEY_CHARACTERS:
        found = [peer for peer in candidates if _key(peer).startswith(beginning)]
        if found:
            return Resolved(_only(reference, found))
    where = f" on {device}" if device else ""
    raise NotFoundError(f"no peer{where} is called {reference!r}", fix="`clampctl peers` lists them")


def longest_match(address: Address, peers: Iterable[Peer]) -> list[tuple[Peer, Network]]:
    """The peers whose prefix holds the address at the greatest length, each with that prefix."""
    holding = [
        (peer, network)
        for peer in peers
        for network in peer.facts.prefixes
        if network.version == address.version and address in network
    ]
    longest = max((network.prefixlen for _, network in holding), default=0)
    return [(peer, network) for peer, network in holding if network.prefixlen == longest]


def _by_address(
    address: Address, device: str | None, candidates: list[Peer], route: Callable[[Address], str | None]
) -> Resolved:
    def on(name: str | None) -> list[tuple[Peer, Network]]:
        return longest_match(address, (peer for peer in candidates if peer.facts.device == name))

    found = on(device or route(address))
    if not found and device is None:
        # The routing table leads elsewhere (policy routing looks at more than the address): any device will do,
        # if it is only one.
        found = [hit for name in sorted({peer.facts.device for peer in candidates}) for hit in on(name)]
    if not found:
        where = f" on {device}" if device else ""
        raise NotFoundError(f"no peer{where} holds {address}", fix="`clampctl peers` lists them with their prefixes")
    peer = _only(str(address), [peer for peer, _ in found], narrow=" or say which --device is meant")
    return Resolved(peer, address, next(network for holder, network in found if holder is peer))


def _only(reference: str, found: list[Peer], narrow: str = "") -> Peer:
    if len(found) == 1:
        return found[0]
    names = [f"{peer.facts.id} ({peer.facts.device})" for peer in found]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    raise AmbiguousError(
        f"{reference!r} fits {len(found)} peers: {', '.join(names[:_LISTED])}{more}", fix=f"write one whole{narrow}"
    )


def _same_id(peer: Peer, reference: str) -> bool:
    return reference in (peer.facts.id, f"{peer.facts.device}:{peer.facts.name}")


def _same_name(peer: Peer, reference: str) -> bool:
    return reference == peer.facts.name


def _same_key(peer: Peer, reference: str) -> bool:
    return bool(_key(peer)) and _key(peer) == _url_safe(reference)


def _key(peer: Peer) -> str:
    return _url_safe(peer.facts.public_key or "")


def _url_safe(key: str) -> str:
    return key.rstrip("=").replace("+", "-").replace("/", "_")
