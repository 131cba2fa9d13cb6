"""What happened, in sentences for people: events, and the results of searches.

PURE. An event's details come as they are on the wire; what no sentence knows is told behind it, never hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mssclamp.cli import words
from mssclamp.control.protocol import Event, ProbeResult, ProbeRound

Details = dict[str, Any]

DIRECTIONS = {"both": "both ways", "to-peer": "towards the peer only"}
_METHODS = {"echo": "both", "tcp": "to-peer"}
"""What each kind of probe measures: an echo comes back as large as it went, a TCP probe's answer is small."""
_NAMES = {"echo": "echo", "tcp": "TCP"}

_FAMILIES = {4: "IPv4", 6: "IPv6"}


def event(of: Event) -> str:
    """One event as a sentence, without its time."""
    details = {key: value for key, value in of.details.items() if value is not None}
    device, why = details.pop("device", None), details.pop("why", None)
    subject = of.peer or device or ("all devices" if of.event == "mode-changed" else "clampd")
    sentence = _SENTENCES.get(of.event)
    told = sentence(details) if sentence is not None else str(of.event)
    rest = ", ".join(f"{key} {value}" for key, value in details.items())
    return f"{subject}: {told}{f' ({rest})' if rest else ''}{f': {why}' if why else ''}"


def result(of: ProbeResult) -> str:
    """How a search ended: "MTU 1328, exact, both ways: 1328 answered in 12 ms; 1344 lost three times beside it"."""
    match of.verdict:
        case "away":
            return f"{of.text}; the MTU stays"
        case "held":
            return f"no verdict: {of.text}; the MTU stays"
    return f"{measured(of.mtu, of.exact, _METHODS.get(of.method or ''))}: {of.text}"


def measured(mtu: int | None, exact: bool | None, direction: str | None) -> str:
    """An MTU, how far it is known and which way: "MTU at least 1328, towards the peer only"."""
    least = "at least " if exact is False else ""
    parts = [f"MTU {least}{words.size(mtu)}", "exact" if exact else "", DIRECTIONS.get(direction or "", "")]
    return ", ".join(filter(None, parts))


def effort(of: ProbeResult) -> str:
    """What a search took: "echo to 10.99.0.4, 3 rounds, 22 probes"."""
    by = f"{_NAMES[of.method]} to {of.address}" if of.method and of.address else ""
    return ", ".join(filter(None, (by, words.number(of.rounds, "round"), words.number(of.probes, "probe"))))


def _mtu_changed(details: Details) -> str:
    return f"MTU {details.pop('old', 'unknown')} -> {details.pop('new', 'unknown')}"


def _peer_added(details: Details) -> str:
    return f"new peer, MTU {details.pop('mtu', 'unknown')}"


def _mode_changed(details: Details) -> str:
    trial = f" for {words.span(details.pop('seconds'))}" if "seconds" in details else ""
    return f"{details.pop('mode', '?')}{trial}"


def _blackhole(details: Details) -> str:
    size, mtu, flows = details.pop("size", None), details.pop("mtu", None), details.pop("flows", None)
    what = f"packets of {size} bytes vanish" if size else "large packets vanish"
    now = f", MTU {mtu} from now on" if mtu else ""
    return f"black hole: {what}{now}" + (f", {words.number(flows, 'stalled flow')} told" if flows else "")


def _probe_round(details: Details) -> str:
    try:
        if details.pop("done", False) is True:
            end = msgspec.convert(details, ProbeResult)
            _leave_out(details, ProbeResult)
            return f"search ended ({effort(end)}): {result(end)}"
        one = msgspec.convert(details, ProbeRound)
    except msgspec.ValidationError:
        return "probe-round"  # of another version: all that it says is told behind it
    _leave_out(details, ProbeRound)
    return f"round {one.round}: {one.text}"


def _leave_out(details: Details, told: type[ProbeResult] | type[ProbeRound]) -> None:
    for name in told.__struct_fields__:
        details.pop(name, None)


def _hint(details: Details) -> str:
    kind = details.pop("hint", None)
    refuted = ", refuted by probes" if details.pop("refuted", False) is True else ""
    told = _HINTS.get(kind or "")
    return f"hint{refuted}: {told(details) if told else kind or 'unnamed'}"


def _oversize(details: Details) -> str:
    return f"{_packet(details)} is over the MTU{_of(details)}"


def _oversize_df_clear(details: Details) -> str:
    return f"{_packet(details)} without DF is over the MTU{_of(details)} and goes on unanswered"


def _resent(details: Details) -> str:
    size = details.pop("size", None)
    segment = f"a TCP segment of {size} bytes" if size else "a large TCP segment"
    details.pop("mtu", None)
    details.pop("family", None)
    return f"{segment} left again after silence"


def _icmp(details: Details) -> str:
    sender, mtu, size = details.pop("from", None), details.pop("mtu", None), details.pop("size", None)
    says = f"{sender or 'somebody on the underlay'} says: too big"
    return says + (f", MTU {mtu}" if mtu else "") + (f", about an outer packet of {size} bytes" if size else "")


def _packet(details: Details) -> str:
    size, family = details.pop("size", None), _FAMILIES.get(details.pop("family", 0), "")
    return f"{'an' if family else 'a'} {family + ' ' if family else ''}packet" + (f" of {size} bytes" if size else "")


def _of(details: Details) -> str:
    mtu = details.pop("mtu", None)
    return f" of {mtu}" if mtu else ""


_HINTS: Mapping[str, Callable[[Details], str]] = {
    "oversize": _oversize,
    "oversize-df-clear": _oversize_df_clear,
    "resent": _resent,
    "icmp": _icmp,
}

_SENTENCES: Mapping[str, Callable[[Details], str]] = {
    "mtu-changed": _mtu_changed,
    "peer-added": _peer_added,
    "peer-removed": lambda _: "no longer a peer",
    "device-attached": lambda _: "programs attached",
    "device-detached": lambda _: "programs no longer attached",
    "mode-changed": _mode_changed,
    "blackhole": _blackhole,
    "probe-round": _probe_round,
    "hint": _hint,
    "suppressed": lambda details: f"no answer for {_packet(details)} over the MTU{_of(details)}",
}
"""Each takes out of the details what it tells."""
