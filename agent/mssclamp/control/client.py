"""Talking to the daemon: one method for each request, over its Unix socket, in typed documents.

Synchronous. Each request has a connection of its own, so that a daemon may come and go between two.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from mssclamp.control.protocol import (
    SCHEMA,
    DeviceRequest,
    Done,
    ErrorDocument,
    Event,
    ModeRequest,
    PeerDocument,
    PeersDocument,
    PinRequest,
    ProbeResult,
    ProbeRound,
    Status,
)
from mssclamp.errors import (
    AmbiguousError,
    ClampdError,
    ConfigError,
    ConflictError,
    DatapathError,
    ForbiddenError,
    NoDaemonError,
    NotFoundError,
    RequestError,
    StoreError,
)

T = TypeVar("T")

SOCKET_NAME = "clampd.sock"
TIME_LIMIT = 10.0
"""Seconds that the daemon may be silent while a request is under way."""
SEARCH_LIMIT = 60.0
"""Seconds that a search may take: twice what it takes at most, since it may have to wait for its turn."""

_CODES: dict[str, type[ClampdError]] = {
    kind.code: kind
    for kind in (
        ClampdError,
        ConfigError,
        RequestError,
        NotFoundError,
        AmbiguousError,
        ForbiddenError,
        ConflictError,
        DatapathError,
        StoreError,
    )
}
_STATUSES: dict[int, type[ClampdError]] = {
    400: RequestError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
}
_EVENT_HEAD = frozenset(Event.__struct_fields__) - {"details"}


class Client:
    """The daemon of one run directory.

    Every method raises the ClampdError that the daemon answers with, NoDaemonError where nobody does, and
    ForbiddenError where the socket may not be opened. `wire` is the body of the last answer as it came.
    """

    def __init__(self, run_dir: Path, time_limit: float = TIME_LIMIT) -> None:
        self.path = run_dir / SOCKET_NAME
        self.wire = b""
        self._time_limit = time_limit

    def is_running(self) -> bool:
        """Whether anybody listens on the socket. Raises ForbiddenError where that cannot be found out."""
        try:
            self._connect().close()
        except NoDaemonError:
            return False
        return True

    def status(self) -> Status:
        """The daemon in one document."""
        return self._ask("GET", "/v1/status", Status)

    def peers(self, device: str | None = None, state: str | None = None) -> PeersDocument:
        """All peers, or those of one device or state; follows the pages if there are several."""
        query = {"device": device, "state": state}
        first = page = self._ask("GET", "/v1/peers", PeersDocument, query=query)
        if first.next is None:
            return first
        whole = msgspec.json.decode(self.wire)
        while page.next is not None:
            page = self._ask("GET", "/v1/peers", PeersDocument, query=query | {"after": page.next})
            whole["peers"] += msgspec.json.decode(self.wire)["peers"]
        self.wire = msgspec.json.encode(whole | {"next": None})
        return self._decode(self.wire, PeersDocument)

    def peer(self, reference: str, device: str | None = None) -> PeerDocument:
        """One peer by name, id, public key (or its first characters) or inner address."""
        return self._ask("GET", _peer_path(reference), PeerDocument, query={"device": device})

    def pin(self, reference: str, mtu: int, device: str | None = None) -> PeerDocument:
        """Fixes the peer's MTU (bytes)."""
        path = _peer_path(reference, "pin")
        return self._ask("POST", path, PeerDocument, query={"device": device}, body=PinRequest(mtu=mtu))

    def unpin(self, reference: str, device: str | None = None) -> PeerDocument:
        """Returns to what is known without the pin."""
        return self._ask("POST", _peer_path(reference, "unpin"), PeerDocument, query={"device": device})

    def forget(self, reference: str, device: str | None = None) -> PeerDocument:
        """Drops what was learned of the peer."""
        return self._ask("POST", _peer_path(reference, "forget"), PeerDocument, query={"device": device})

    def probe(self, reference: str, device: str | None = None) -> PeerDocument:
        """Begins a search for the peer's MTU, and does not wait for it."""
        return self._ask("POST", _peer_path(reference, "probe"), PeerDocument, query={"device": device})

    @contextlib.contextmanager
    def search(
        self, reference: str, device: str | None = None, seconds: float = SEARCH_LIMIT
    ) -> Iterator[tuple[PeerDocument, Iterator[ProbeRound | ProbeResult]]]:
        """Begins a search for the peer's MTU and follows it: the peer at its begin, the rounds as they end, the result.

        The iterator's last item is the result. It raises ClampdError where there is none after so many seconds, and
        NotFoundError when the peer goes meanwhile.
        """
        with self.follow(seconds=seconds) as events:  # opened first, so that nothing is missed
            document = self.probe(reference, device)
            yield document, self._search_of(document, events, seconds)

    def set_mode(self, request: ModeRequest) -> Done:
        """Enforces, observes, or confirms a trial."""
        return self._ask("POST", "/v1/mode", Done, body=request)

    def attach(self, device: str | None = None) -> Done:
        """Puts the programs on one device or all."""
        return self._ask("POST", "/v1/attach", Done, body=DeviceRequest(device=device))

    def detach(self, device: str | None = None) -> Done:
        """Takes the programs off one device or all, and keeps them off."""
        return self._ask("POST", "/v1/detach", Done, body=DeviceRequest(device=device))

    def reload(self) -> Done:
        """Reads the configuration again."""
        return self._ask("POST", "/v1/reload", Done)

    def events(self, since: int | None = None) -> Iterator[Event]:
        """Events as they come, after number `since` (None: from now on); waits without limit.

        Ends only by an exception: NoDaemonError when the daemon goes away. Reconnecting is the caller's choice.
        While an event is looked at, `wire` is its line.
        """
        with self.follow(since) as events:
            yield from events

    @contextlib.contextmanager
    def follow(self, since: int | None = None, *, seconds: float | None = None) -> Iterator[Iterator[Event]]:
        """The same, listening from the moment the block is entered; the iterator ends after so many `seconds`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._request("GET", "/v1/events", query={"since": since}) as (connection, answer):
            self._check(answer)
            yield self._events(connection, answer, deadline)

    def _events(
        self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, deadline: float | None
    ) -> Iterator[Event]:
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            if connection.sock is not None:
                connection.sock.settimeout(left)
            try:
                line = answer.readline()
            except TimeoutError:
                return
            if not line:
                raise NoDaemonError("the daemon has gone away", fix="see its log, or start it again")
            self.wire = line.rstrip(b"\n")
            yield self._event(self._decode(self.wire, dict[str, Any]))

    def _search_of(
        self, document: PeerDocument, events: Iterator[Event], seconds: float
    ) -> Iterator[ProbeRound | ProbeResult]:
        """What the events tell of this peer's search."""
        peer = document.peer
        for event in events:
            if event.peer != peer.id:
                continue
            if event.event == "peer-removed":
                raise NotFoundError(f"{peer.name} is no longer a peer", fix="`clampctl peers` lists them")
            if event.event == "probe-round":
                told = self._probe_round(event)
                yield told
                if isinstance(told, ProbeResult):
                    return
        raise ClampdError(
            f"{peer.name}: no result within {seconds:g} s", fix="`clampctl show` tells it when there is one"
        )

    def _probe_round(self, event: Event) -> ProbeRound | ProbeResult:
        try:
            if event.details.get("done") is True:
                return msgspec.convert(event.details, ProbeResult)
            return msgspec.convert(event.details, ProbeRound)
        except msgspec.ValidationError as error:
            raise self._strange(str(error)) from None

    # -- one request --------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        query: Mapping[str, object] | None = None,
        body: msgspec.Struct | None = None,
    ) -> T:
        with self._request(method, path, query=query, body=body) as (_, answer):
            self._check(answer)
            self.wire = answer.read()
        return self._decode(self.wire, kind)

    @contextlib.contextmanager
    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: msgspec.Struct | None = None,
    ) -> Iterator[tuple[http.client.HTTPConnection, http.client.HTTPResponse]]:
        """Sends a request; the answer's head is there, its body is read inside the block."""
        wanted = {key: value for key, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(wanted)}" if wanted else path
        content = None if body is None else msgspec.json.encode(body)
        with contextlib.closing(self._connect()) as connection:
            try:
                connection.request(
                    method, target, content, {"Content-Type": "application/json"} if content is not None else {}
                )
                with connection.getresponse() as answer:
                    yield connection, answer
            except TimeoutError:
                silence = f"the daemon on {self.path} has said nothing for {self._time_limit:g} s"
                raise NoDaemonError(silence, fix="see its log") from None
            except (http.client.HTTPException, ConnectionError) as error:
                broken = f"the daemon on {self.path} broke off in the middle ({type(error).__name__})"
                raise NoDaemonError(broken, fix="see its log, or start it again") from None

    def _connect(self) -> _UnixConnection:
        connection = _UnixConnection(self.path, self._time_limit)
        try:
            connection.connect()
        except PermissionError:
            fix = "use sudo, or join the group clampd"
            raise ForbiddenError(f"you may not open {self.path}", fix=fix) from None
        except OSError as error:
            if isinstance(error, ConnectionRefusedError):
                what = f"nobody listens on {self.path}: its daemon has ended"
            elif isinstance(error, FileNotFoundError | NotADirectoryError):
                what = f"no daemon there: {self.path} does not exist"
            else:
                what = f"no daemon there: {self.path}: {error.strerror or error}"
            raise NoDaemonError(what, fix="start clampd, or name its directory with --run-dir") from None
        return connection

    def _check(self, answer: http.client.HTTPResponse) -> None:
        """Raises what the daemon answers with, unless it is a success."""
        if answer.status < 300:
            return
        try:
            error = msgspec.json.decode(answer.read(), type=ErrorDocument).error
        except msgspec.DecodeError:
            raise self._strange(f"it answers {answer.status} {answer.reason}") from None
        kind = _CODES.get(error.code) or _STATUSES.get(answer.status, ClampdError)
        raised = kind(error.message, fix=error.fix)
        raised.code = error.code
        raise raised

    def _decode(self, wire: bytes, kind: type[T]) -> T:
        try:
            document = msgspec.json.decode(wire, type=kind)
        except msgspec.DecodeError as error:
            raise self._strange(str(error)) from None
        schema = document.get("schema") if isinstance(document, dict) else getattr(document, "schema", None)
        if schema != SCHEMA:
            raise self._strange(f"its documents have schema {schema}, ours {SCHEMA}")
        return document

    def _event(self, flat: dict[str, Any]) -> Event:
        """The flat object of the wire; an event of a name that is new to us is taken too."""
        details = {key: value for key, value in flat.items() if key not in _EVENT_HEAD}
        try:
            return Event(seq=flat["seq"], at=flat["at"], event=flat["event"], peer=flat.get("peer"), details=details)
        except KeyError as error:
            raise self._strange(f"an event without {error}") from None

    def _strange(self, what: str) -> ClampdError:
        from mssclamp import __version__

        return ClampdError(
            f"the answer of the daemon on {self.path} is not understood: {what}",
            fix=f"use the clampctl of its version; this one is {__version__}",
        )


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, time_limit: float) -> None:
        super().__init__("localhost", timeout=time_limit)
        self._path = path

    def connect(self) -> None:
        """Opens the socket, once. Raises OSError."""
        if self.sock is not None:
            return
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            fresh.settimeout(self.timeout)
            fresh.connect(str(self._path))
        except BaseException:
            fresh.close()
            raise
        self.sock = fresh


def _peer_path(reference: str, action: str = "") -> str:
    if not reference:
        raise RequestError("the peer's name is empty", fix="`clampctl peers` lists them")
    path = f"/v1/peers/{quote(reference, safe='')}"
    return f"{path}/{action}" if action else path
