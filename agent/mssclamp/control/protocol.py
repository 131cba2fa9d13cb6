"""What goes over the control socket: documents that the daemon answers and bodies that it takes.

PURE. Field names and meanings are the project's public JSON contract (docs/api.md). Unknown values are
None, never absent. Sizes are bytes, times seconds; instants are RFC 3339 text in UTC.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SCHEMA = 1

Mode = Literal["observe", "enforce"]
State = Literal["unprobed", "searching", "confirmed", "blackhole", "hinted", "pinned"]
Source = Literal["device", "probe", "icmp", "kernel", "pin"]
EventName = Literal[
    "peer-added",
    "peer-removed",
    "mtu-changed",
    "hint",
    "blackhole",
    "probe-round",
    "device-attached",
    "device-detached",
    "suppressed",
    "mode-changed",
]


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one peer's packets since its programs were first attached."""

    clamped: int = 0
    would_clamp: int = 0
    oversize: int = 0
    oversize_df_clear: int = 0
    oversize_largest: int = 0
    """The largest size seen, bytes; 0 where none was over the MTU."""
    too_big_sent: int = 0
    would_answer: int = 0
    suppressed: int = 0
    unanswerable: int = 0
    blackholes: int = 0
    retransmits: int = 0
    hints: int = 0
    hints_refuted: int = 0
    probes: int = 0
    rounds: int = 0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One observation that led to a peer's MTU."""

    at: str
    source: str
    size: int | None
    verdict: str
    text: str


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One remote site as `peers --json` shows it."""

    id: str
    name: str
    device: str
    kind: Literal["wireguard", "tunnel", "static"]
    public_key: str | None = None
    prefixes: list[str] = []
    endpoint: str | None = None
    last_handshake: str | None = None
    rtt: float | None = None
    overhead: int | None = None
    mode: Mode = "observe"
    state: State = "unprobed"
    mtu: int | None = None
    path_mtu: int | None = None
    mtu_from_peer: int | None = None
    direction: Literal["both", "to-peer"] | None = None
    exact: bool | None = None
    mss4: int | None = None
    mss6: int | None = None
    floor: int | None = None
    ceiling: int | None = None
    source: Source | None = None
    why: str | None = None
    changed: str | None = None
    checked: str | None = None
    counters: Counters = Counters()
    evidence: list[Evidence] | msgspec.UnsetType = msgspec.UNSET
    """Present in `GET /v1/peers/{id}` alone."""


class Meets(msgspec.Struct, frozen=True, kw_only=True):
    """What a packet of one kind meets in one direction."""

    packet: Literal["syn", "full-size"]
    direction: Literal["to-peer", "from-peer"]
    text: str


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where an inner address leads: the answer to `show ADDRESS`."""

    address: str
    device: str
    prefix: str
    limited_by: str
    costs: str
    meets: list[Meets]


class PeersDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/peers`. `next` is the id to ask `after` when `limit` cut the list."""

    schema: int = SCHEMA
    peers: list[Peer]
    next: str | None = None


class PeerDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/peers/{id}`, and what pin, unpin, forget and probe answer."""

    schema: int = SCHEMA
    peer: Peer
    address: Address | None = None


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One filter on a device's tc hooks."""

    hook: Literal["ingress", "egress"]
    name: str
    owner: Literal["clampd", "foreign"]
    priority: int
    id: int | None = None
    shadowed: bool = False
    """Ours, but the device's packets go past it."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device that clampd manages, or is told to manage, or that carries outer packets of managed ones."""

    name: str
    kind: str
    mtu: int | None
    mode: Mode
    role: Literal["managed", "underlay"] = "managed"
    attached: bool
    programs: list[Program] = []
    problem: str | None = None
    """Why it is not attached, or what is wrong with it."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """`enforce --for`: falls back to observe at `until` unless confirmed."""

    device: str | None
    until: str
    seconds_left: float


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/status`."""

    schema: int = SCHEMA
    version: str
    pid: int
    mode: Mode
    uptime: float
    devices: list[Device]
    peers: dict[str, int]
    """Peers by state."""
    detached: list[str]
    """Devices (or "*") kept off by `clampctl detach`."""
    trials: list[Trial]
    reasons: dict[str, int]
    """Packets by named reason, all devices together."""
    problems: list[str]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `watch --json`; `details` are spread into the object on the wire."""

    schema: int = SCHEMA
    seq: int
    at: str
    event: EventName
    peer: str | None
    details: dict[str, Any] = {}

    def flat(self) -> dict[str, Any]:
        """The event as it goes over the wire: one flat object."""
        head: dict[str, Any] = {
            "schema": self.schema,
            "seq": self.seq,
            "at": self.at,
            "event": self.event,
            "peer": self.peer,
        }
        return head | self.details


class AnsweredSize(msgspec.Struct, frozen=True, kw_only=True):
    """A size (bytes) that was answered in a round. `rtt`: its first round trip, seconds."""

    size: int
    rtt: float


class LostSize(msgspec.Struct, frozen=True, kw_only=True):
    """A size (bytes) of which no probe was answered in a round, and how many were lost."""

    size: int
    times: int


class ProbeRound(msgspec.Struct, frozen=True, kw_only=True):
    """Details of an event `probe-round`: one round of a search, when it is over."""

    round: int
    probes: int
    answered: list[AnsweredSize]
    lost: list[LostSize]
    text: str


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """Details of the event `probe-round` that ends a search: the one with `done`.

    `text` says why. `mtu`: the largest size proven to pass, None if nothing was answered (`away`). `held`: the probes
    did not leave this machine as they were made, so they prove nothing. `fix`: what would help, where something would.
    """

    verdict: Literal["exact", "inexact", "away", "held"]
    mtu: int | None = None
    exact: bool
    text: str
    address: str | None = None
    method: Literal["echo", "tcp"] | None = None
    rounds: int
    probes: int
    fix: str | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """`{"error": {...}}` of every answer with status 400, 403, 404, 409 or 500."""

    code: str
    message: str
    fix: str | None = None


class ErrorDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that says what went wrong."""

    error: ErrorBody


class PinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/peers/{id}/pin`."""

    mtu: int


class ModeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/mode`: a mode for one device or all, for good or `seconds` long, or `confirm` of a trial."""

    mode: Literal["observe", "enforce", "confirm"]
    device: str | None = None
    seconds: float | None = None


class DeviceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/attach`, `POST /v1/detach`: one device, or all."""

    device: str | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a change that has no document of its own: what was done, for people."""

    schema: int = SCHEMA
    text: str
    problems: list[str] = []
