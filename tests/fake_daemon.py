"""A daemon's socket without the daemon: canned documents, events on demand, and a record of what was asked."""

from __future__ import annotations

import json
import queue
import socketserver
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from mssclamp.control import protocol


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: Any = None


@dataclass(frozen=True)
class Answer:
    """A status and the body's bytes."""

    status: int
    body: bytes


@dataclass
class FakeDaemon:
    """Listens on `run_dir`/clampd.sock between `start()` and `stop()`, as often as one likes."""

    run_dir: Path
    asked: list[Asked] = field(default_factory=list)
    breaks_off: bool = False
    """Whether a stream of events ends without its end, as when the daemon is killed."""

    def __post_init__(self) -> None:
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self._tells: dict[tuple[str, str], tuple[protocol.Event | dict[str, Any], ...]] = {}
        self._streams: list[queue.SimpleQueue[bytes | None]] = []
        self._streaming = threading.Condition()
        self._server: _Server | None = None

    def __enter__(self) -> FakeDaemon:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # what it says

    def answers(self, method: str, path: str, *documents: object, status: int = 200) -> None:
        """From now on the answer to these requests; of several, each once and the last one for ever."""
        encoded = [Answer(status, each if isinstance(each, bytes) else msgspec.json.encode(each)) for each in documents]
        self._answers[method, path] = encoded

    def refuses(self, method: str, path: str, status: int, code: str, message: str, fix: str | None = None) -> None:
        """From now on the answer to these requests is this error."""
        body = protocol.ErrorBody(code=code, message=message, fix=fix)
        self.answers(method, path, protocol.ErrorDocument(error=body), status=status)

    def tell(self, *events: protocol.Event | dict[str, Any]) -> None:
        """Sends events to everyone who watches; waits until somebody does."""
        with self._streaming:
            assert self._streaming.wait_for(lambda: self._streams, timeout=5), "nobody watches"
            for event in events:
                line = msgspec.json.encode(event.flat() if isinstance(event, protocol.Event) else event) + b"\n"
                for stream in self._streams:
                    stream.put(line)

    def tells_after(self, method: str, path: str, *events: protocol.Event | dict[str, Any]) -> None:
        """From now on each of these requests is followed by these events, told to everyone who watches."""
        self._tells[method, path] = events

    # its life

    def start(self) -> None:
        self.run_dir.mkdir(exist_ok=True)
        path = self.run_dir / "clampd.sock"
        path.unlink(missing_ok=True)
        self._server = _Server(str(path), _Handler)
        self._server.daemon = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), name="fake daemon").start()

    def stop(self) -> None:
        """Ends as a daemon that was killed: its socket's file stays."""
        if self._server is None:
            return
        self._server.shutdown()
        with self._streaming:
            for stream in self._streams:
                stream.put(None)
        self._server.server_close()
        self._server = None

    # for the handler

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        documents = self._answers.get((asked.method, asked.path))
        if not documents:
            error = protocol.ErrorBody(code="not-found", message=f"there is no {asked.method} {asked.path}")
            return Answer(404, msgspec.json.encode(protocol.ErrorDocument(error=error)))
        return documents.pop(0) if len(documents) > 1 else documents[0]

    def after(self, asked: Asked) -> None:
        if events := self._tells.get((asked.method, asked.path)):
            self.tell(*events)

    def open_stream(self) -> queue.SimpleQueue[bytes | None]:
        stream: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with self._streaming:
            self._streams.append(stream)
            self._streaming.notify_all()
        return stream

    def close_stream(self, stream: queue.SimpleQueue[bytes | None]) -> None:
        with self._streaming:
            self._streams.remove(stream)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon: FakeDaemon
    request_queue_size = 16


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.close_connection = True
        target = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, unquote(target.path), dict(parse_qsl(target.query)), json.loads(body or "null"))
        if asked.path == "/v1/events":
            self.server.daemon.asked.append(asked)
            self._stream()
            return
        answer = self.server.daemon.answer(asked)
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        self.server.daemon.after(asked)

    def _stream(self) -> None:
        daemon = self.server.daemon
        stream = daemon.open_stream()
        try:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while (line := stream.get()) is not None:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            if not daemon.breaks_off:
                self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            pass
        finally:
            daemon.close_stream(stream)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


# canned documents


def a_peer(name: str = "branch-7", **values: Any) -> protocol.Peer:
    """A declared peer behind gre7, pinned by the configuration."""
    plain: dict[str, Any] = {
        "id": name,
        "name": name,
        "device": "gre7",
        "kind": "static",
        "prefixes": ["10.7.0.0/16", "2001:db8:7::/48"],
        "endpoint": "192.0.2.7",
        "overhead": 24,
        "mode": "enforce",
        "state": "pinned",
        "mtu": 1380,
        "mss4": 1340,
        "mss6": 1320,
        "source": "pin",
        "why": "pinned by the configuration",
        "changed": "2026-01-31T12:00:00Z",
        "counters": protocol.Counters(clamped=12, would_clamp=3),
    }
    return protocol.Peer(**plain | values)


def a_status(**values: Any) -> protocol.Status:
    """A daemon with one attached device."""
    plain: dict[str, Any] = {
        "version": "0.1.0",
        "pid": 812,
        "mode": "enforce",
        "uptime": 7500.0,
        "devices": [
            protocol.Device(
                name="gre7",
                kind="gre",
                mtu=1476,
                mode="enforce",
                attached=True,
                programs=[
                    protocol.Program(hook="ingress", name="clampd_l3_in", owner="clampd", priority=49, id=31),
                    protocol.Program(hook="egress", name="clampd_l3_eg", owner="clampd", priority=49, id=32),
                    protocol.Program(hook="egress", name="other", owner="foreign", priority=1, id=7),
                ],
            )
        ],
        "peers": {"pinned": 1},
        "detached": [],
        "trials": [],
        "reasons": {"clamped": 12, "fits": 40, "no_mss": 0},
        "problems": [],
    }
    return protocol.Status(**plain | values)


def an_event(seq: int = 1, event: str = "mtu-changed", peer: str | None = "branch-7", **details: Any) -> protocol.Event:
    """An event at noon."""
    return protocol.Event(seq=seq, at="2026-01-31T12:00:00Z", event=event, peer=peer, details=details)  # type: ignore[arg-type]


def a_search(peer: str = "branch-7", **result: Any) -> list[protocol.Event]:
    """The events of a search in two rounds, at noon, which finds 1328 (or ends with `result`)."""
    rounds = [
        {
            "round": 1,
            "probes": 4,
            "answered": [{"size": 1280, "rtt": 0.011}, {"size": 1328, "rtt": 0.012}],
            "lost": [{"size": 1392, "times": 1}, {"size": 1420, "times": 1}],
            "text": "1280 and 1328 answered; 1392 and 1420 lost once",
            "done": False,
        },
        {
            "round": 2,
            "probes": 4,
            "answered": [{"size": 1328, "rtt": 0.012}],
            "lost": [{"size": 1344, "times": 3}],
            "text": "1328 answered; 1344 lost three times",
            "done": False,
        },
    ]
    end: dict[str, Any] = {
        "done": True,
        "verdict": "exact",
        "mtu": 1328,
        "exact": True,
        "text": "1328 answered in 12 ms; 1344 lost three times beside it",
        "address": "10.7.0.1",
        "method": "echo",
        "rounds": 2,
        "probes": 8,
    }
    return [an_event(10 + n, "probe-round", peer, **each) for n, each in enumerate([*rounds, end | result])]
