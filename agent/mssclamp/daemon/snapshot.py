"""From the daemon's state to the documents of the control API.

PURE: everything comes in as values.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from mssclamp.control import protocol
from mssclamp.daemon.resolve import Resolved
from mssclamp.datapath import abi
from mssclamp.datapath.attach import Filter
from mssclamp.pmtu.table import Observation, Peer
from mssclamp.wire.mtu import IPV6_MIN_MTU, fixed_headers, mss_for_mtu


def instant(unix: float) -> str:
    """RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def peer_document(
    peer: Peer,
    counters: abi.Counters,
    enforced: bool,
    *,
    last_handshake: float | None = None,
    with_evidence: bool = False,
) -> protocol.Peer:
    """One peer as `peers --json` shows it, with its evidence for `show`. `last_handshake`: Unix seconds."""
    facts, value, learned = peer.facts, peer.value, peer.learned
    probed = learned if learned is not None and learned.source == "probe" else None
    return protocol.Peer(
        id=facts.id,
        name=facts.name,
        device=facts.device,
        kind=facts.kind,
        public_key=facts.public_key,
        prefixes=[str(network) for network in facts.prefixes],
        endpoint=facts.endpoint,
        last_handshake=None if last_handshake is None else instant(last_handshake),
        rtt=None if probed is None or probed.rtt is None else round(probed.rtt, 6),
        overhead=facts.overhead,
        mode="enforce" if enforced else "observe",
        state=value.state,
        mtu=value.mtu,
        path_mtu=None if probed is None or facts.overhead is None else probed.mtu + facts.overhead,
        direction=None if learned is None else learned.direction,
        exact=None if learned is None else learned.exact,
        floor=None if probed is None else probed.mtu,
        ceiling=None if probed is None else probed.mtu + 1 if probed.exact and not probed.ceiling else probed.ceiling,
        mss4=None if value.mtu is None else mss_for_mtu(value.mtu, 4),
        mss6=None if value.mtu is None else mss_for_mtu(value.mtu, 6),
        source=value.source,
        why=value.why,
        changed=instant(peer.changed),
        checked=None if learned is None else instant(learned.checked),
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
            blackholes=peer.tally.blackholes,
            retransmits=counters.resent,
            hints=peer.tally.hints,
            hints_refuted=peer.tally.hints_refuted,
            probes=peer.tally.probes,
            rounds=peer.tally.rounds,
        ),
        evidence=[_evidence(each) for each in peer.evidence] if with_evidence else msgspec.UNSET,
    )


def program(found: Filter, is_shadowed: bool) -> protocol.Program:
    """One filter on a device; only one of ours can be shadowed."""
    return protocol.Program(
        hook=found.hook,
        name=found.name or found.kind,
        owner="clampd" if found.ours else "foreign",
        priority=found.priority,
        shadowed=found.ours and is_shadowed,
        id=found.program_id,
    )


def address_document(resolved: Resolved, *, enforced: bool, clamped: bool, answered: bool) -> protocol.Address | None:
    """What meets packets to and from an address of the peer; None unless the peer was found by address.

    `clamped` and `answered` say what clampd is to do for the peer, `enforced` whether it does.
    """
    if resolved.address is None or resolved.prefix is None:
        return None
    facts, value = resolved.peer.facts, resolved.peer.value
    version: Literal[4, 6] = 4 if resolved.address.version == 4 else 6
    if value.mtu is None:
        syn = to_peer = from_peer = f"nothing: {value.why}"
    else:
        syn = _syn_text(value.mtu, version, enforced) if clamped else "nothing: clamping is off for this device"
        to_peer = _full_size_text(value.mtu, version, enforced, answered)
        from_peer = "nothing here: what TCP sends is limited by the SYN, the rest is the far side's to answer"
    costs = (
        f"{facts.overhead} bytes of outer headers on every packet"
        if facts.overhead
        else "no outer headers that clampd knows of"
    )
    return protocol.Address(
        address=str(resolved.address),
        device=facts.device,
        prefix=str(resolved.prefix),
        limited_by=value.why,
        costs=costs,
        meets=[
            protocol.Meets(packet="syn", direction="to-peer", text=syn),
            protocol.Meets(packet="syn", direction="from-peer", text=syn),
            protocol.Meets(packet="full-size", direction="to-peer", text=to_peer),
            protocol.Meets(packet="full-size", direction="from-peer", text=from_peer),
        ],
    )


def _syn_text(mtu: int, version: Literal[4, 6], enforced: bool) -> str:
    mss = mss_for_mtu(mtu, version)
    lowered = "is lowered" if enforced else "would be lowered (observe mode changes nothing)"
    return f"an MSS above {mss} {lowered} to {mss}: {mtu} less {fixed_headers(version)} of headers"


def _full_size_text(mtu: int, version: Literal[4, 6], enforced: bool, answered: bool) -> str:
    said = mtu if version == 4 else max(mtu, IPV6_MIN_MTU)
    if not answered:
        return f"up to {said} bytes fit; a larger packet is left to the kernel"
    told = "is answered" if enforced else "would be answered (observe mode changes nothing)"
    clear = "; without DF it passes" if version == 4 else ""
    return f'up to {said} bytes fit; a larger packet {told} with ICMP "too big, {said}"{clear}'


def _evidence(observation: Observation) -> protocol.Evidence:
    return protocol.Evidence(
        at=instant(observation.at),
        source=observation.source,
        size=observation.size,
        verdict=observation.verdict,
        text=observation.text,
    )
