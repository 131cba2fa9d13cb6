"""The peers that the configuration declares, as the table takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mssclamp.config import Config
from mssclamp.datapath.links import Link
from mssclamp.pmtu.table import PeerFacts
from mssclamp.wire.mtu import default_overhead


def from_config(config: Config, links: Mapping[str, Link]) -> Iterator[PeerFacts]:
    """Every [[peer]]; the overhead comes from the device's kind where nothing else is said."""
    for peer in config.peer:
        link = links.get(peer.device)
        overhead = peer.overhead
        if overhead is None and link is not None:
            kind = "wireguard" if link.is_wireguard else link.kind or None
            overhead = default_overhead(kind, 6 if peer.endpoint and peer.endpoint.count(":") > 1 else 4)
        # str(): the configuration's values are of types that check themselves, and no document is made of those.
        yield PeerFacts(
            id=str(peer.name),
            name=str(peer.name),
            device=str(peer.device),
            prefixes=peer.networks,
            kind="wireguard" if peer.public_key else "static",
            public_key=_text(peer.public_key),
            endpoint=_text(peer.endpoint),
            overhead=overhead,
            mtu=peer.mtu,
            mode=peer.mode,
        )


def _text(value: str | None) -> str | None:
    return None if value is None else str(value)
