"""From the daemon's state to the documents of the control API.

PURE: everything comes in as values.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from mssclamp.control import protocol
from mssclamp.daemon.resolve import Resolved
from mssclamp.datapath import abi
from mssclamp.pmtu.table import Observation, Peer
from mssclamp.wire.mtu import fixed_headers, mss_for_mtu


def instant(unix: float) -> str:
    """RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def peer_document(peer: Peer, counters: abi.Counters, enforced: bool, *, with_evidence: bool = False) -> protocol.Peer:
    """One peer as `peers --json` shows it, with its evidence for `show`."""
    facts, value = peer.facts, peer.value
    return protocol.Peer(
        id=facts.id,
        name=facts.name,
        device=facts.device,
        kind=facts.kind,
        public_key=facts.public_key,
        prefixes=[str(network) for network in facts.prefixes],
        endpoint=facts.endpoint,
        overhead=facts.overhead,
        mode="enforce" if enforced else "observe",
        state=value.state,
        mtu=value.mtu,
        mss4=None if value.mtu is None else mss_for_mtu(value.mtu, 4),
        mss6=None if value.mtu is None else mss_for_mtu(value.mtu, 6),
        source=value.source,
        why=value.why,
        changed=instant(peer.changed),
        counters=protocol.Counters(
            clamped=counters.clamped,
            would_clamp=counters.would_clamp,
            oversize=counters.oversize,
            oversize_df_clear=counters.oversize_df_clear,
            oversize_largest=counters.largest,
            too_big_sent=counters.too_big_sent,
            would_answer=counters.would_answer,
            suppressed=counters.suppressed,
            unanswerable=counters.unanswerable,
        ),
        evidence=[_evidence(each) for each in peer.evidence] if with_evidence else msgspec.UNSET,
    )


def address_document(resolved: Resolved, enforced: bool) -> protocol.Address | None:
    """What meets packets to and from an address of the peer; None unless the peer was found by address."""
    if resolved.address is None or resolved.prefix is None:
        return None
    facts, value = resolved.peer.facts, resolved.peer.value
    version: Literal[4, 6] = 4 if resolved.address.version == 4 else 6
    if value.mtu is None:
        syn = full = f"nothing: {value.why}"
    else:
        mss = mss_for_mtu(value.mtu, version)
        lowered = "is lowered" if enforced else "would be lowered (observe mode changes nothing)"
        syn = f"an MSS above {mss} {lowered} to {mss}: {value.mtu} less {fixed_headers(version)} of headers"
        full = f"up to {value.mtu} bytes fit; a larger packet is not answered by this version"
    costs = (
        f"{facts.overhead} bytes of outer headers on every packet"
        if facts.overhead
        else "no outer headers that clampd knows of"
    )
    directions: Sequence[Literal["to-peer", "from-peer"]] = ("to-peer", "from-peer")
    return protocol.Address(
        address=str(resolved.address),
        device=facts.device,
        prefix=str(resolved.prefix),
        limited_by=value.why,
        costs=costs,
        meets=[
            *(protocol.Meets(packet="syn", direction=each, text=syn) for each in directions),
            *(protocol.Meets(packet="full-size", direction=each, text=full) for each in directions),
        ],
    )


def _evidence(observation: Observation) -> protocol.Evidence:
    return protocol.Evidence(
        at=instant(observation.at),
        source=observation.source,
        size=observation.size,
        verdict=observation.verdict,
        text=observation.text,
    )
