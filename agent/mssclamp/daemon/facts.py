"""The peers that the configuration declares and those that WireGuard's devices tell of, as the table takes them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from mssclamp.config import Config, PeerConfig
from mssclamp.datapath.links import Link
from mssclamp.datapath.wireguard import Peers
from mssclamp.pmtu.table import Network, Outer, PeerFacts
from mssclamp.wire.mtu import PROTOCOL_UDP, default_overhead, tunnel_protocol, wireguard_overhead
from mssclamp.wire.wireguard import WireGuardPeer

_KEY_CHARACTERS = 8
"""Of a key in the name of a peer whom nobody has named."""


@dataclass(frozen=True)
class Gathered:
    """All peers, and what does not fit together, in sentences."""

    facts: list[PeerFacts]
    problems: list[str]


def gather(config: Config, links: Mapping[str, Link], told: Mapping[str, Peers]) -> Gathered:
    """Every [[peer]] with prefixes, and every WireGuard peer with what a [[peer]] of its key says of it.

    `told`: by device. Where both hold a prefix of a device, it is the declared one's; a WireGuard peer that has no
    other, and that nobody has named, is not listed.
    """
    facts = list(_declared(config, links))
    problems = list(_not_found(config, links, told))
    owners = {(each.device, network): each.name for each in facts for network in each.prefixes}
    configured = {(str(peer.device), str(peer.public_key)): peer for peer in config.peer if peer.public_key is not None}
    for device, peers in told.items():
        for peer in peers.values():
            said = configured.get((device, _text(peer.public_key)))
            found = _found(device, peer, said, owners)
            problems += _taken(found, peer, owners)
            if said is not None or found.prefixes or not peer.allowed:  # else it is there already, by another name
                facts.append(found)
                owners.update(((device, network), found.name) for network in found.prefixes)
    return Gathered(facts, problems)


def public_key(facts: PeerFacts) -> bytes | None:
    """A WireGuard peer's key."""
    return None if facts.public_key is None else base64.b64decode(facts.public_key)


def _declared(config: Config, links: Mapping[str, Link]) -> Iterator[PeerFacts]:
    """The overhead comes from the device's kind where nothing else is said."""
    for peer in config.peer:
        if peer.public_key is not None:
            continue
        link = links.get(peer.device)
        overhead = peer.overhead
        kind = None if link is None else "wireguard" if link.is_wireguard else link.kind or None
        if overhead is None and link is not None:
            overhead = default_overhead(kind, 6 if peer.endpoint and peer.endpoint.count(":") > 1 else 4)
        # str(): the configuration's values are of types that check themselves, and no document is made of those.
        yield PeerFacts(
            id=str(peer.name),
            name=str(peer.name),
            device=str(peer.device),
            prefixes=peer.networks,
            endpoint=None if peer.endpoint is None else str(peer.endpoint),
            overhead=overhead,
            mtu=peer.mtu,
            mode=peer.mode,
            outer=None if peer.endpoint is None else _outer(str(peer.endpoint), tunnel_protocol(kind)),
            probe=peer.probe,
            probe_address=None if peer.probe_address is None else ip_address(peer.probe_address),
        )


def _outer(endpoint: str, protocol: int | None) -> Outer | None:
    """A declared endpoint, "ADDRESS", "ADDRESS:PORT" or "[ADDRESS]:PORT"; None where nobody knows its packets."""
    if protocol is None:
        return None
    address, port = endpoint, "0"
    if endpoint.startswith("["):
        address, _, port = endpoint.removeprefix("[").partition("]:")
    elif endpoint.count(":") == 1:
        address, _, port = endpoint.partition(":")
    return Outer(ip_address(address.rstrip("]")), protocol, int(port or 0))


def _found(
    device: str, peer: WireGuardPeer, said: PeerConfig | None, owners: Mapping[tuple[str, Network], str]
) -> PeerFacts:
    key = base64.urlsafe_b64encode(peer.public_key).decode().rstrip("=")
    overhead = None if said is None else said.overhead
    if overhead is None and peer.endpoint is not None:
        overhead = wireguard_overhead(peer.endpoint.version)
    return PeerFacts(
        id=f"{device}:{key}",
        name=f"{device}:{key[:_KEY_CHARACTERS]}" if said is None else str(said.name),
        device=device,
        prefixes=tuple(network for network in dict.fromkeys(peer.allowed) if (device, network) not in owners),
        kind="wireguard",
        public_key=_text(peer.public_key),
        endpoint=None if peer.endpoint is None else str(peer.endpoint),
        overhead=overhead,
        mtu=None if said is None else said.mtu,
        mode=None if said is None else said.mode,
        outer=None
        if peer.endpoint is None
        else Outer(peer.endpoint.address, PROTOCOL_UDP, peer.endpoint.port, peer.mark, peer.listen_port),
        probe=said is None or said.probe,
        probe_address=None if said is None or said.probe_address is None else ip_address(said.probe_address),
    )


def _taken(found: PeerFacts, peer: WireGuardPeer, owners: Mapping[tuple[str, Network], str]) -> Iterator[str]:
    """A sentence for each other peer that has prefixes which this one holds too."""
    lost: dict[str, list[str]] = {}
    for network in dict.fromkeys(peer.allowed):
        owner = owners.get((found.device, network))
        if owner is not None:
            lost.setdefault(owner, []).append(str(network))
    for owner, networks in lost.items():
        more = f" and {len(networks) - 1} more" if len(networks) > 1 else ""
        yield (
            f"{found.device}: {networks[0]}{more} of the WireGuard peer {found.name} counts as {owner}'s, which has it "
            f"too; name {owner} by its public_key in place of prefixes"
        )


def _not_found(config: Config, links: Mapping[str, Link], told: Mapping[str, Peers]) -> Iterator[str]:
    """A sentence for each [[peer]] with a key that no device told."""
    for peer in config.peer:
        if peer.public_key is None:
            continue
        link = links.get(peer.device)
        if link is None:
            yield f"peer {peer.name}: there is no device {peer.device} now"
        elif not link.is_wireguard:
            yield f"peer {peer.name}: {peer.device} is no WireGuard device, so nobody there has a public key"
        elif peer.device in told and base64.b64decode(peer.public_key) not in told[peer.device]:
            yield f"peer {peer.name}: {peer.device} has no peer with the key {peer.public_key}"


def _text(key: bytes) -> str:
    """As `wg show` writes it."""
    return base64.b64encode(key).decode()
