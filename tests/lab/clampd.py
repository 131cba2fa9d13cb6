"""clampd in a namespace, with directories of its own, and `clampctl` to talk to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .command import LabError, wait_for
from .namespace import Namespace
from .process import Process

BPF = Path(__file__).resolve().parents[2] / "bpf"
START_SECONDS = 20.0
ANSWER_SECONDS = 5.0


class Refused(LabError):
    """clampd ended instead of starting; `status` is its exit status, `text` what it wrote."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"clampd ended with status {status}: {text.strip() or '(no output)'}")
        self.status = status
        self.text = text


class Clampd:
    """A daemon that can be started, killed and started again over the same files.

    Entering starts it and waits until it answers; leaving stops it. What it attached stays in the namespace,
    which is the point of a daemon that fails static, and goes with the namespace.
    """

    def __init__(self, namespace: Namespace, directory: Path, config: str) -> None:
        self.namespace = namespace
        self.directory = directory
        self.run_dir = directory / "run"
        self.state_dir = directory / "state"
        self.config = directory / "clampd.toml"
        self.log = directory / "clampd.log"
        self.config.write_text(config)
        self._process: Process | None = None

    def __enter__(self) -> Clampd:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.stop()

    # the process

    def start(self, *, env: Mapping[str, str] | None = None) -> None:
        """Start the daemon and wait until its socket answers; raises Refused if it ends instead."""
        written_before = len(self.output())
        process = self.launch(env=env)
        with contextlib.ExitStack() as undo:
            undo.callback(process.kill)
            wait_for(lambda: self._answers(written_before), "clampd's socket", timeout=START_SECONDS)
            undo.pop_all()

    def launch(self, *, env: Mapping[str, str] | None = None) -> Process:
        """Start the daemon and do not wait."""
        assert self._process is None or not self._process.running, "running already"
        self._process = Process(
            self.namespace.argv(
                _script("clampd"),
                "--config", str(self.config),
                "--run-dir", str(self.run_dir),
                "--state-dir", str(self.state_dir),
            ),
            self.log,
            env=env,
        )  # fmt: skip
        return self._process.__enter__()

    def stop(self) -> int:
        """SIGTERM; the daemon's exit status."""
        return self._running().stop()

    def kill(self) -> None:
        """kill -9."""
        self._running().kill()

    def hang_up(self) -> None:
        """SIGHUP: read the configuration again."""
        self._running().send(signal.SIGHUP)

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def output(self) -> str:
        """Everything that all its runs so far wrote to standard error."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def resident_bytes(self) -> int:
        """Memory that the daemon holds now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise LabError(f"no VmRSS of {self.pid}")

    # talking to it

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One request of the API: status code and JSON document."""
        connection = _UnixConnection(self.run_dir / "clampd.sock")
        with contextlib.closing(connection):
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def status(self) -> dict[str, Any]:
        """`GET /v1/status`."""
        code, document = self.request("GET", "/v1/status")
        if code != 200:
            raise LabError(f"GET /v1/status: {code}: {document}")
        return dict(document)

    def ctl(self, *arguments: str, check: bool = True, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        """`clampctl` with this daemon's directories."""
        return self.namespace.run(
            _script("clampctl"),
            *arguments,
            check=check,
            timeout=timeout,
            env={"CLAMPD_RUN_DIR": str(self.run_dir), "CLAMPD_STATE_DIR": str(self.state_dir)},
        )

    def ctl_json(self, *arguments: str) -> dict[str, Any]:
        """The one JSON document that `clampctl ARGUMENTS --json` prints."""
        document: dict[str, Any] = json.loads(self.ctl(*arguments, "--json").stdout)
        if document.get("schema") != 1:
            raise LabError(f"clampctl {' '.join(arguments)}: schema is {document.get('schema')!r}")
        return document

    def peer(self, name: str) -> dict[str, Any]:
        """One peer as `peers` shows it."""
        code, document = self.request("GET", f"/v1/peers/{name}")
        if code != 200:
            raise LabError(f"GET /v1/peers/{name}: {code}: {document}")
        return dict(document["peer"])

    def device(self, name: str) -> dict[str, Any] | None:
        """One device as `status` shows it; None if it is not listed."""
        return next((device for device in self.status()["devices"] if device["name"] == name), None)

    def events(self, wanted: Callable[[dict[str, Any]], bool], *, since: int = 0) -> list[dict[str, Any]]:
        """Events after `since`, up to the first one that is wanted; LabError if that does not come in time."""
        seen: list[dict[str, Any]] = []
        with contextlib.closing(_UnixConnection(self.run_dir / "clampd.sock")) as connection:
            connection.request("GET", f"/v1/events?since={since}")
            answer = connection.getresponse()
            with contextlib.closing(answer):
                while not (seen and wanted(seen[-1])):
                    try:
                        seen.append(json.loads(answer.readline()))
                    except TimeoutError:
                        raise LabError(f"waited in vain for an event; these came: {seen}") from None
        return seen

    def programs(self, device: str) -> list[int]:
        """The ids of clampd's programs on a device."""
        listed = (self.device(device) or {}).get("programs", [])
        return [program["id"] for program in listed if program["owner"] == "clampd"]

    def attached(self, *devices: str, timeout: float = 5.0) -> None:
        """Wait until the programs are on these devices."""
        for name in devices:
            wait_for(
                lambda name=name: (self.device(name) or {}).get("attached"),  # type: ignore[misc]
                f"clampd on {name}; it wrote:\n{self.output()}",
                timeout=timeout,
            )

    def _running(self) -> Process:
        assert self._process is not None, "never started"
        return self._process

    def _answers(self, written_before: int) -> bool:
        process = self._running()
        if not process.running:
            raise Refused(process.child.returncode, self.output()[written_before:])
        try:
            return bool(self.status()["pid"] == process.pid)
        except (OSError, http.client.HTTPException):
            return False


def peer_table(name: str, device: str, prefixes: list[str], mtu: int | None = None) -> str:
    """A [[peer]] table of the configuration."""
    pin = "" if mtu is None else f"mtu = {mtu}\n"
    return f'[[peer]]\nname = "{name}"\ndevice = "{device}"\nprefixes = {json.dumps(prefixes)}\n{pin}'


def another_version(directory: Path) -> dict[str, str]:
    """The environment of a clampd with other programs: their sources with one more comment, thus another build."""
    copy = directory / "bpf"
    shutil.copytree(BPF, copy)
    entry = copy / "clampd.c"
    entry.write_text(entry.read_text() + "/* another version */\n")
    return {"CLAMPD_BPF_DIR": str(copy)}


def _script(name: str) -> str:
    """A command of the project, installed beside this very interpreter."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise LabError(f"{path} is not there; install the project into this environment: make venv")
    return str(path)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise
