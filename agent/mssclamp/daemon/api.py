"""The routes of the control API: requests to calls of the daemon, documents to bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import msgspec

from mssclamp.control.protocol import DeviceRequest, ModeRequest, PinRequest
from mssclamp.control.server import Request, Response
from mssclamp.daemon.daemon import Daemon
from mssclamp.errors import ForbiddenError, NotFoundError, RequestError

T = TypeVar("T")

_MAX_TRIAL = 7 * 24 * 3600.0
_MAX_PAGE = 100_000
_STATES = ("unprobed", "searching", "confirmed", "blackhole", "hinted", "pinned")


class Api:
    """Answers requests; called in the daemon's thread."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def answer(self, request: Request) -> Response:
        """Answers one request, or raises the ClampdError to answer with."""
        match request.method, request.path:
            case "GET", ("v1", "status"):
                return _json(self._daemon.status())
            case "GET", ("v1", "peers"):
                return self._peers(request)
            case "GET", ("v1", "peers", reference):
                return _json(self._daemon.peer(reference, request.query.get("device")))
            case "GET", ("v1", "events"):
                since = _number(request, "since", 2**63)
                return Response(self._daemon.events.lines(since), content_type="application/x-ndjson")
            case "POST", ("v1", *rest):
                return self._change(request, tuple(rest))
            case _:
                raise _unknown(request)

    def _peers(self, request: Request) -> Response:
        state = request.query.get("state")
        if state is not None and state not in _STATES:
            raise RequestError(f"there is no state {state!r}", fix=f"one of {', '.join(_STATES)}")
        limit = _number(request, "limit", _MAX_PAGE)
        if limit == 0:
            raise RequestError("a page of 0 peers makes no sense", fix="leave limit away to get all")
        return _json(self._daemon.peers(request.query.get("device"), state, limit, request.query.get("after")))

    def _change(self, request: Request, path: tuple[str, ...]) -> Response:
        action = self._action(request, path)
        if not request.may_change:
            raise ForbiddenError("you may look, not change", fix="be root, or in the group clampd-admin")
        return _json(action())

    def _action(self, request: Request, path: tuple[str, ...]) -> Callable[[], object]:
        device = request.query.get("device")
        match path:
            case ("peers", reference, "pin"):
                return lambda: self._daemon.pin(reference, device, _body(request, PinRequest).mtu)
            case ("peers", reference, "unpin"):
                return lambda: self._daemon.unpin(reference, device)
            case ("peers", reference, "probe"):
                return lambda: self._daemon.probe(reference, device)
            case ("peers", reference, "forget"):
                return lambda: self._daemon.forget(reference, device)
            case ("mode",):
                return lambda: self._mode(_body(request, ModeRequest))
            case ("attach",):
                return lambda: self._daemon.attach(_body(request, DeviceRequest).device)
            case ("detach",):
                return lambda: self._daemon.detach(_body(request, DeviceRequest).device)
            case ("reload",):
                return self._daemon.reload
            case _:
                raise _unknown(request)

    def _mode(self, wanted: ModeRequest) -> object:
        if wanted.mode == "confirm":
            if wanted.device is not None or wanted.seconds is not None:
                raise RequestError("confirm takes neither device nor seconds")
            return self._daemon.confirm()
        if wanted.seconds is not None:
            if wanted.mode != "enforce":
                raise RequestError("only enforce can be for a time")
            if not (math.isfinite(wanted.seconds) and 0 < wanted.seconds <= _MAX_TRIAL):
                raise RequestError("a trial of that length makes no sense", fix="choose up to 7 days")
        return self._daemon.set_mode(wanted.mode, wanted.device, wanted.seconds)


def _json(document: object) -> Response:
    return Response(msgspec.json.encode(document))


def _body(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the request's body does not fit: {error}") from error


def _number(request: Request, key: str, largest: int) -> int | None:
    text = request.query.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > largest:
        raise RequestError(f"{key}={text!r} is not a number from 0 to {largest}")
    return int(text)


def _unknown(request: Request) -> NotFoundError:
    return NotFoundError(f"there is no {request.method} /{'/'.join(request.path)}")
