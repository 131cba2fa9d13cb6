"""The control socket: bytes in, handler calls, bytes out; who may change; and what a bad client cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import grp
import itertools
import logging
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h11
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mssclamp.control import server as server_module
from mssclamp.control.protocol import ErrorBody, ErrorDocument
from mssclamp.control.server import Handler, Request, Response, Server
from mssclamp.errors import (
    AmbiguousError,
    ClampdError,
    ConfigError,
    ConflictError,
    DatapathError,
    ForbiddenError,
    NotFoundError,
    RequestError,
    StoreError,
)
from support import require, require_root

NOBODY = 65534


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> ErrorBody:
        return msgspec.json.decode(self.body, type=ErrorDocument).error


async def echo(request: Request) -> Response:
    """Answers with the request as it was understood."""
    return Response(repr((request.method, request.path, dict(request.query), request.body)).encode())


def understood(answer: Answer) -> object:
    assert answer.status == 200
    return eval(answer.body)


def run(handler: Handler, scenario: Callable[[Path], Awaitable[object]]) -> None:
    """Runs `scenario(path)` beside a server; whatever asyncio complains about is a failure."""
    complaints: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o755)
            path = Path(directory) / "run" / "clampd.sock"
            server = Server(path, handler)
            await server.start()
            try:
                await scenario(path)
            finally:
                await server.close()
                assert not path.exists()
            await asyncio.sleep(0)
            gc.collect()

    asyncio.run(main(), debug=False)
    assert complaints == []


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(path: Path, *pieces: bytes) -> bytes:
    """Sends the pieces one by one, then the end; returns everything that comes."""
    async with connected(path) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            for _ in range(3):  # let the server's side see it on its own
                await asyncio.sleep(0)
        writer.write_eof()
        received = b""
        with contextlib.suppress(ConnectionResetError):  # the server left something unread
            while piece := await reader.read(65536):
                received += piece
        return received


def parsed(received: bytes, *methods: str) -> list[Answer]:
    """The answers to requests of these methods; nothing may be left over."""
    connection = h11.Connection(h11.CLIENT)
    answers = []
    connection.receive_data(received)
    for method in methods:
        connection.send(h11.Request(method=method, target="/", headers=[("host", "clampd")]))
        connection.send(h11.EndOfMessage())
        head = connection.next_event()
        assert isinstance(head, h11.Response), head
        body = b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage), event
        headers = {name.decode(): value.decode() for name, value in head.headers}
        answers.append(Answer(head.status_code, headers, body))
        if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
            connection.start_next_cycle()
    assert connection.trailing_data[0] == b""
    return answers


def request(target: str, method: str = "GET", body: bytes = b"", headers: str = "") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {target} HTTP/1.1\r\nHost: clampd\r\n{length}{headers}\r\n".encode() + body


# -- requests


@pytest.mark.parametrize(
    ("sent", "means"),
    [
        (request("/v1/status"), ("GET", ("v1", "status"), {}, b"")),
        (request("/v1/peers/a%2Fb%2B=/pin"), ("GET", ("v1", "peers", "a/b+=", "pin"), {}, b"")),
        (request("/v1/peers/caf%C3%A9"), ("GET", ("v1", "peers", "café"), {}, b"")),
        (request("/v1/peers/%FF%zz"), ("GET", ("v1", "peers", "\ufffd%zz"), {}, b"")),
        (request("/v1/peers?a=b%20c&d=&e"), ("GET", ("v1", "peers"), {"a": "b c", "d": "", "e": ""}, b"")),
        (request("//v1//status/"), ("GET", ("status",), {}, b"")),
        (request("/"), ("GET", (), {}, b"")),
        (request("http://clampd/v1/status"), ("GET", ("v1", "status"), {}, b"")),
        (request("/v1/mode", "POST", b'{"mode": "enforce"}'), ("POST", ("v1", "mode"), {}, b'{"mode": "enforce"}')),
        (request("/v1/mode", "POST", b"x" * 65536), ("POST", ("v1", "mode"), {}, b"x" * 65536)),
        (
            request("/v1/mode", "POST", headers="Transfer-Encoding: chunked\r\n") + b"2\r\n{}\r\n0\r\n\r\n",
            ("POST", ("v1", "mode"), {}, b"{}"),
        ),
    ],
)
def test_a_request_is_understood(sent: bytes, means: object) -> None:
    async def scenario(path: Path) -> None:
        method = sent.split()[0].decode()
        (answer,) = parsed(await exchange(path, sent), method)
        assert understood(answer) == means
        assert answer.headers["content-type"] == "application/json"

    run(echo, scenario)


PIPELINE = (
    request("/v1/status")
    + request("/v1/peers/branch-7/pin", "POST", b'{"mtu": 1380}')
    + request("/v1/reload", "POST", headers="Transfer-Encoding: chunked\r\n")
    + b"5\r\nhello\r\n0\r\n\r\n"
    + request("/v1/peers?limit=3")
)


def assert_pipeline_answered(received: bytes) -> None:
    assert [understood(answer) for answer in parsed(received, "GET", "POST", "POST", "GET")] == [
        ("GET", ("v1", "status"), {}, b""),
        ("POST", ("v1", "peers", "branch-7", "pin"), {}, b'{"mtu": 1380}'),
        ("POST", ("v1", "reload"), {}, b"hello"),
        ("GET", ("v1", "peers"), {"limit": "3"}, b""),
    ]


def test_pipelined_requests_byte_by_byte() -> None:
    async def scenario(path: Path) -> None:
        assert_pipeline_answered(await exchange(path, *(bytes([byte]) for byte in PIPELINE)))

    run(echo, scenario)


@settings(max_examples=25)
@given(st.sets(st.integers(1, len(PIPELINE) - 1), max_size=5))
def test_pipelined_requests_in_any_pieces(cuts: set[int]) -> None:
    async def scenario(path: Path) -> None:
        edges = [0, *sorted(cuts), len(PIPELINE)]
        pieces = [PIPELINE[start:end] for start, end in itertools.pairwise(edges)]
        assert_pipeline_answered(await exchange(path, *pieces))

    run(echo, scenario)


@settings(max_examples=25)
@given(st.integers(0, len(PIPELINE) - 1))
def test_cut_off_anywhere(end: int) -> None:
    """A client that stops in the middle gets its whole requests answered, and at most one refusal."""

    async def scenario(path: Path) -> None:
        received = await exchange(path, PIPELINE[:end])
        assert received == b"" or received.startswith(b"HTTP/1.1 ")
        assert received.count(b"HTTP/1.1 4") <= 1

    run(echo, scenario)


def test_head_is_answered_without_a_body() -> None:
    async def scenario(path: Path) -> None:
        received = await exchange(path, request("/v1/status", "HEAD") + request("/v1/status"))
        head, get = parsed(received, "HEAD", "GET")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) == len(get.body) + 1  # the method is echoed

    run(echo, scenario)


def test_close_is_honoured() -> None:
    async def scenario(path: Path) -> None:
        received = await exchange(path, request("/a", headers="Connection: close\r\n") + request("/b"))
        (answer,) = parsed_first(received)
        assert understood(answer) == ("GET", ("a",), {}, b"")

    run(echo, scenario)


def parsed_first(received: bytes) -> list[Answer]:
    assert received.count(b"HTTP/1.1 ") == 1
    return parsed(received, "GET")


# -- what is no request

GARBAGE = {
    "zeros": bytes(100),
    "text": b"enforce please\r\n\r\n",
    "tls": bytes.fromhex("16030100a5010000a10303") + bytes(range(160)),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "bad target": request("//["),
    "bad chunk": request("/", "POST", headers="Transfer-Encoding: chunked\r\n") + b"zz\r\n",
    "endless header": b"GET / HTTP/1.1\r\nHost: " + b"a" * 70_000,
    "half": b"GET / HTT",
    "half a body": request("/", "POST", b"0123456789")[:-3],
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(path: Path) -> None:
        (answer,) = parsed_first(await exchange(path, sent))
        assert answer.status in (400, 431)
        assert answer.error.code == "bad-request"
        assert answer.error.message.startswith("the request cannot be read: ")
        (answer,) = parsed(await exchange(path, request("/after")), "GET")
        assert answer.status == 200

    run(echo, scenario)
    assert caplog.records == []


@settings(max_examples=40)
@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_harm_nothing(sent: bytes) -> None:
    async def scenario(path: Path) -> None:
        received = await exchange(path, sent)
        assert received == b"" or received.startswith(b"HTTP/1.1 ")

    run(echo, scenario)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_that_is_too_long(chunked: bool) -> None:
    body = b"x" * 65537
    if chunked:
        sent = request("/", "POST", headers="Transfer-Encoding: chunked\r\n") + b"10001\r\n" + body + b"\r\n0\r\n\r\n"
    else:
        sent = request("/", "POST", body)

    async def scenario(path: Path) -> None:
        (answer,) = parsed_first(await exchange(path, sent))
        assert answer.status == 413
        assert answer.error.message == "the request cannot be read: the body is too long"

    run(echo, scenario)


def test_a_connection_that_asks_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_IDLE", 0)

    async def scenario(path: Path) -> None:
        async with connected(path) as (reader, _):
            assert await reader.read() == b""

    run(echo, scenario)


# -- errors


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError("no", fix="yes"), 400, "bad-request"),
        (AmbiguousError("no"), 400, "ambiguous"),
        (ConfigError("no"), 400, "config"),
        (ForbiddenError("no"), 403, "forbidden"),
        (NotFoundError("no"), 404, "not-found"),
        (ConflictError("no"), 409, "conflict"),
        (StoreError("no"), 500, "store"),
        (DatapathError("no"), 500, "datapath"),
        (ClampdError("no"), 500, "failed"),
    ],
)
def test_errors_have_a_status_and_a_document(error: ClampdError, status: int, code: str) -> None:
    async def refuse(_: Request) -> Response:
        raise error

    async def scenario(path: Path) -> None:
        received = await exchange(path, request("/") + request("/"))
        for answer in parsed(received, "GET", "GET"):  # and the connection goes on
            assert answer.status == status
            assert answer.error == ErrorBody(code=code, message="no", fix=error.fix)

    run(refuse, scenario)


def test_a_mistake_of_ours_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: Request) -> Response:
        raise ZeroDivisionError("secret")

    async def scenario(path: Path) -> None:
        (answer, again) = parsed(await exchange(path, request("/v1/x") + request("/v1/x")), "GET", "GET")
        assert (answer.status, again.status) == (500, 500)
        assert "secret" not in answer.body.decode()

    run(fail, scenario)
    assert [record.getMessage() for record in caplog.records] == ["GET /v1/x failed"] * 2
    assert "secret" in caplog.text


# -- streams


class Stream:
    """A handler whose lines a test gives one by one; knows whether its stream was left."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.left = asyncio.Event()

    async def __call__(self, _: Request) -> Response:
        return Response(self._body(), content_type="application/x-ndjson")

    async def _body(self) -> AsyncIterator[bytes]:
        try:
            while (line := await self.lines.get()) is not None:
                yield line
        finally:
            self.left.set()


async def until(reader: asyncio.StreamReader, end: bytes) -> bytes:
    async with asyncio.timeout(5):
        return await reader.readuntil(end)


def test_lines_come_as_they_come() -> None:
    stream = Stream()

    async def scenario(path: Path) -> None:
        async with connected(path) as (reader, writer):
            writer.write(request("/v1/events"))
            head = await until(reader, b"\r\n\r\n")
            assert b"application/x-ndjson" in head
            assert b"chunked" in head.lower()
            for line in (b'{"seq": 1}\n', b'{"seq": 2}\n'):
                stream.lines.put_nowait(line)
                assert await until(reader, line + b"\r\n") == f"{len(line):x}\r\n".encode() + line + b"\r\n"
            stream.lines.put_nowait(None)
            assert await until(reader, b"\r\n\r\n") == b"0\r\n\r\n"
            # The stream has ended, the connection has not.
            stream.lines.put_nowait(None)
            writer.write(request("/v1/events"))
            assert (await until(reader, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

    run(stream, scenario)


def test_lines_for_an_old_client_end_with_the_connection() -> None:
    stream = Stream()

    async def scenario(path: Path) -> None:
        async with connected(path) as (reader, writer):
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            stream.lines.put_nowait(b"line\n")
            stream.lines.put_nowait(None)
            assert (await reader.read()).endswith(b"\r\n\r\nline\n")

    run(stream, scenario)


@pytest.mark.parametrize("moment", ["waiting", "with lines unread", "half closed"])
def test_a_client_goes_away_in_a_stream(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream()

    async def scenario(path: Path) -> None:
        async with connected(path) as (reader, writer):
            writer.write(request("/"))
            await until(reader, b"\r\n\r\n")
            if moment == "with lines unread":
                stream.lines.put_nowait(b"line\n" * 1000)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            if moment == "half closed":
                writer.write_eof()
                assert await reader.read() == b""
        async with asyncio.timeout(5):
            await stream.left.wait()

    run(stream, scenario)
    assert caplog.records == []


def test_a_client_that_does_not_read_goes_away(caplog: pytest.LogCaptureFixture) -> None:
    """While the server waits to send, not to have something to send."""
    stream = Stream()

    async def scenario(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect(str(path))
            client.send(request("/"))
            for _ in range(20):
                stream.lines.put_nowait(b"x" * 100_000)
            while stream.lines.qsize() == 20:
                await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await stream.left.wait()

    run(stream, scenario)
    assert caplog.records == []


def test_a_stream_that_fails_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def lines() -> AsyncIterator[bytes]:
        yield b"one\n"
        raise ZeroDivisionError

    async def fail(_: Request) -> Response:
        return Response(lines())

    async def scenario(path: Path) -> None:
        received = await exchange_open(path, request("/"))
        assert received.endswith(b"one\n\r\n")  # and no last chunk: the client sees that it is not whole

    run(fail, scenario)
    assert [record.getMessage() for record in caplog.records] == ["a control connection failed"]


async def exchange_open(path: Path, sent: bytes) -> bytes:
    """As `exchange`, without closing our side first."""
    async with connected(path) as (reader, writer):
        writer.write(sent)
        return await reader.read()


# -- the end


def test_close_ends_every_connection(caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream()

    async def scenario(path: Path) -> None:
        async with contextlib.AsyncExitStack() as clients:
            server = Server(path.with_name("other.sock"), stream)
            await server.start()
            readers = []
            for sent in (b"", b"GET / HT", request("/"), request("/")):
                reader, writer = await clients.enter_async_context(connected(path.with_name("other.sock")))
                writer.write(sent)
                readers.append(reader)
            await until(readers[2], b"\r\n\r\n")
            await until(readers[3], b"\r\n\r\n")
            await server.close()
            await server.close()
            async with asyncio.timeout(5):
                for reader in readers:
                    assert await reader.read() == b""
                await stream.left.wait()

    run(echo, scenario)
    assert caplog.records == []


def test_close_does_not_wait_for_a_client_that_does_not_read() -> None:
    stream = Stream()

    async def scenario(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            server = Server(path.with_name("other.sock"), stream)
            await server.start()
            client.setblocking(False)
            client.connect(str(path.with_name("other.sock")))
            client.send(request("/"))
            stream.lines.put_nowait(b"x" * 5_000_000)
            while not stream.lines.empty():
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await server.close()

    run(echo, scenario)


def test_a_server_that_never_started_closes() -> None:
    asyncio.run(Server(Path("/nowhere/clampd.sock"), echo).close())


# -- the path


def test_the_socket_is_for_owner_and_group_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    group = next(each for each in grp.getgrall() if each.gr_gid not in (0, os.getgid()))
    monkeypatch.setattr(server_module, "READERS_GROUP", group.gr_name)
    before = os.umask(0)
    os.umask(before)

    async def scenario(path: Path) -> None:
        status = path.stat()
        assert stat.S_IMODE(status.st_mode) == 0o660
        if os.geteuid() == 0:
            assert status.st_gid == group.gr_gid
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o777 & ~before

    run(echo, scenario)
    assert os.umask(before) == before


def test_without_the_group_the_socket_is_the_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "READERS_GROUP", "there-is-no-such-group")

    async def scenario(path: Path) -> None:
        assert path.stat().st_gid == os.getegid()

    run(echo, scenario)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "clampd.sock"


def test_a_stale_socket_is_replaced(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))

    async def main() -> None:
        server = Server(place, echo)
        await server.start()
        (answer,) = parsed(await exchange(place, request("/a")), "GET")
        assert understood(answer) == ("GET", ("a",), {}, b"")
        await server.close()

    asyncio.run(main())


def test_a_second_server_refuses_and_leaves_the_first_alone(place: Path) -> None:
    async def main() -> None:
        first, second = Server(place, echo), Server(place, echo)
        await first.start()
        with pytest.raises(ConflictError, match=f"another clampd listens on {place}; .*--run-dir"):
            await second.start()
        await second.close()
        (answer,) = parsed(await exchange(place, request("/a")), "GET")
        assert answer.status == 200
        await first.close()
        assert not place.exists()
        await second.start()
        await second.close()

    asyncio.run(main())


def a_directory(place: Path) -> Path:
    place.mkdir()
    return place


def a_long_name(place: Path) -> Path:
    return place.with_name("x" * 120)


def under_a_file(place: Path) -> Path:
    place.touch()
    return place / "clampd.sock"


@pytest.mark.parametrize("make", [a_directory, a_long_name, under_a_file])
def test_a_path_that_will_not_do(make: Callable[[Path], Path], place: Path) -> None:
    path = make(place)

    async def main() -> None:
        with pytest.raises(ClampdError) as caught:
            await Server(path, echo).start()
        assert str(caught.value).startswith(f"cannot listen on {path}: ")
        assert str(caught.value).endswith("choose another directory with --run-dir")
        assert "Errno" not in str(caught.value)

    asyncio.run(main())


# -- who may change


async def may_change(request: Request) -> Response:
    return Response(b"yes" if request.may_change else b"no")


def ask_as(path: Path, uid: int, gid: int, groups: list[int]) -> Awaitable[bytes]:
    """What a process of that user is told; asked in a child, while this process serves."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(path))
                client.sendall(request("/", headers="Connection: close\r\n"))
                received = b""
                while piece := client.recv(65536):
                    received += piece
            os.write(writing, received.rpartition(b"\r\n")[2])
        except OSError as error:
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)

    def result() -> bytes:
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        os.wait()
        return said

    return asyncio.to_thread(result)


@pytest.fixture
def admins(monkeypatch: pytest.MonkeyPatch) -> int:
    """The gid of a group that stands for clampd-admin."""
    require_root()
    group = next((each for each in grp.getgrall() if 0 < each.gr_gid < NOBODY), None)
    require(group, "a group besides root's")
    monkeypatch.setattr(server_module, "ADMINS_GROUP", group.gr_name)
    return group.gr_gid


@pytest.mark.parametrize(
    ("uid", "primary_is_admin", "supplementary_is_admin", "said"),
    [
        (0, False, False, b"yes"),
        (NOBODY, False, False, b"no"),
        (NOBODY, True, False, b"yes"),
        (NOBODY, False, True, b"yes"),
    ],
)
def test_who_may_change(
    uid: int, primary_is_admin: bool, supplementary_is_admin: bool, said: bytes, admins: int
) -> None:
    gid = admins if primary_is_admin else 0 if uid == 0 else NOBODY
    groups = [NOBODY + 1, admins] if supplementary_is_admin else [NOBODY + 1]

    async def scenario(path: Path) -> None:
        os.chmod(path, 0o666)
        assert await ask_as(path, uid, gid, groups) == said

    run(may_change, scenario)


def test_without_the_group_only_root_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    require_root()
    monkeypatch.setattr(server_module, "ADMINS_GROUP", "there-is-no-such-group")

    async def scenario(path: Path) -> None:
        os.chmod(path, 0o666)
        assert await ask_as(path, NOBODY, NOBODY, []) == b"no"
        assert await ask_as(path, 0, 0, []) == b"yes"

    run(may_change, scenario)


def test_strangers_may_not_even_look() -> None:
    require_root()

    async def scenario(path: Path) -> None:
        assert await ask_as(path, NOBODY, NOBODY, []) == b"PermissionError"

    run(may_change, scenario)


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING):
        yield
