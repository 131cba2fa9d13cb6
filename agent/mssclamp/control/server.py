"""HTTP/1.1 over the Unix socket: bytes in, one handler call per request, bytes out.

h11 speaks the protocol; asyncio moves the bytes. Who is asking comes from the kernel (SO_PEERCRED), never from the
request.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import msgspec

from mssclamp.control.protocol import ErrorBody, ErrorDocument
from mssclamp.errors import (
    ClampdError,
    ConfigError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RequestError,
)

log = logging.getLogger(__name__)

READERS_GROUP = "clampd"
ADMINS_GROUP = "clampd-admin"

_MAX_BODY = 64 * 1024
_IDLE = 60.0
"""Seconds that a connection may take for its next request."""

_SO_PEERGROUPS = 59  # socket(7); not in Python's socket module
_MAX_OPTION = 1024
"""Bytes of a socket option that Python reads: 256 supplementary groups."""


@dataclass(frozen=True)
class Request:
    """One request. `path` holds the decoded segments: /v1/peers/a%2Fb is ("v1", "peers", "a/b")."""

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    body: bytes
    may_change: bool


@dataclass(frozen=True)
class Response:
    """What a handler answers: whole bytes, or lines that come as they come."""

    body: bytes | AsyncGenerator[bytes, None]
    content_type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """The control socket. Create it, `start()` it in a running loop, `close()` it."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens.

        Raises ConflictError where a living daemon already listens there, ClampdError where the path will not do.
        """
        if _somebody_listens(self._path):
            raise ConflictError(
                f"another clampd listens on {self._path}", fix="give this one a directory of its own with --run-dir"
            )
        try:
            listener = _bound(self._path)
        except OSError as error:
            raise ClampdError(
                f"cannot listen on {self._path}: {error.strerror or error}",
                fix="choose another directory with --run-dir",
            ) from error
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def close(self) -> None:
        """Stops listening, drops the connections, takes the socket's file away."""
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            pass
        except Exception:
            log.exception("a control connection failed")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        may_change = _may_change(writer.get_extra_info("socket"))
        connection = h11.Connection(h11.SERVER)
        while True:
            try:
                async with asyncio.timeout(_IDLE):
                    request = await _next_request(connection, reader, may_change)
            except h11.RemoteProtocolError as error:
                if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    refusal = RequestError(f"the request cannot be read: {error}")
                    await _send(connection, writer, _error_response(refusal, error.error_status_hint))
                return
            if request is None:
                return
            try:
                response = await self._handler(request)
            except ClampdError as error:
                response = _error_response(error)
            except Exception:
                log.exception("%s /%s failed", request.method, "/".join(request.path))
                response = _error_response(ClampdError("clampd made a mistake; its log tells more"))
            if isinstance(response.body, bytes):
                await _send(connection, writer, response, with_body=request.method != "HEAD")
            else:
                await _stream(connection, reader, writer, response)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()


async def _next_request(connection: h11.Connection, reader: asyncio.StreamReader, may_change: bool) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MAX_BODY:
                raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            try:
                target = urlsplit(head.target.decode("ascii", "replace"))
            except ValueError as error:
                raise h11.RemoteProtocolError(str(error)) from error
            return Request(
                method=head.method.decode("ascii"),
                path=tuple(unquote(part) for part in target.path.split("/") if part),
                query=dict(parse_qsl(target.query, keep_blank_values=True)),
                body=body,
                may_change=may_change,
            )
        else:
            return None


async def _send(
    connection: h11.Connection, writer: asyncio.StreamWriter, response: Response, *, with_body: bool = True
) -> None:
    assert isinstance(response.body, bytes)
    head = _head(response, {"content-length": str(len(response.body))})
    writer.write(connection.send(head) or b"")
    if with_body:
        writer.write(connection.send(h11.Data(data=response.body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()


async def _stream(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: Response
) -> None:
    """Sends lines until they end or the client goes (which shows as end of file on a connection that is ours)."""
    told = asyncio.create_task(_send_lines(connection, writer, response))
    gone = asyncio.create_task(reader.read(1))
    try:
        await asyncio.wait((told, gone), return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            told.result()
    finally:
        told.cancel()
        gone.cancel()
        await asyncio.gather(told, gone, return_exceptions=True)


async def _send_lines(connection: h11.Connection, writer: asyncio.StreamWriter, response: Response) -> None:
    assert not isinstance(response.body, bytes)
    writer.write(connection.send(_head(response, {"transfer-encoding": "chunked"})) or b"")
    await writer.drain()
    async with contextlib.aclosing(response.body) as lines:
        async for line in lines:
            writer.write(connection.send(h11.Data(data=line)) or b"")
            await writer.drain()
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()


def _head(response: Response, framing: Mapping[str, str]) -> h11.Response:
    headers = {"content-type": response.content_type} | dict(framing) | dict(response.headers)
    return h11.Response(status_code=response.status, headers=list(headers.items()))


def _error_response(error: ClampdError, status: int | None = None) -> Response:
    if status is None:
        match error:
            case NotFoundError():
                status = 404
            case ForbiddenError():
                status = 403
            case ConflictError():
                status = 409
            case RequestError() | ConfigError():
                status = 400
            case _:
                status = 500
    document = ErrorDocument(error=ErrorBody(code=error.code, message=error.message, fix=error.fix))
    return Response(msgspec.json.encode(document), status=status)


def _bound(path: Path) -> socket.socket:
    """A socket at this path, in place of one whose owner is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        mask = os.umask(0o177)  # nobody else gets in before owner and mode are right
        try:
            bound.bind(str(path))
        finally:
            os.umask(mask)
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam(READERS_GROUP).gr_gid)
        os.chmod(path, 0o660)
    except OSError:
        bound.close()
        raise
    return bound


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _may_change(connection: socket.socket) -> bool:
    """Root, and members of the admins' group."""
    _, uid, gid = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid == 0:
        return True
    try:
        admins = grp.getgrnam(ADMINS_GROUP).gr_gid
    except KeyError:
        return False
    with contextlib.suppress(OSError):
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION)
        return admins == gid or admins in struct.unpack(f"={len(raw) // 4}I", raw)
    return bool(admins == gid)
