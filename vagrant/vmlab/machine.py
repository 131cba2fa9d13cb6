"""One test machine: an ssh connection that stays, with guest/agent.py at its other end."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

VAGRANT = Path(__file__).resolve().parents[1]
TREE = VAGRANT.parent
WORK = Path(os.environ.get("CLAMPD_VM_DIR") or TREE / "build/vm")
SSH_CONFIG = WORK / "ssh.config"
LAB = ("capture", "command", "counters", "namespace", "packet", "process", "syn_sender", "traffic")
"""The modules of tests/lab that guest/tools.py needs."""

CALL_SECONDS = 90.0
BOOT_SECONDS = 240.0
SSH_FAILED = 255
"""ssh's own exit status where it could not connect."""


class MachineError(Exception):
    """A machine could not do what it was asked; the message names it and holds its own words."""


def wait_for(probe: Callable[[], T], what: str, *, timeout: float = 20.0, every: float = 0.3) -> T:
    """Ask `probe` until its answer is true, and return it; MachineError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise MachineError(f"waited {timeout:g} s in vain for {what}; last seen: {answer!r}")
        time.sleep(every)


class Remote:
    """Stands for an object of guest/tools.py; its methods are that object's."""

    def __init__(self, machine: Machine, number: int) -> None:
        self._machine = machine
        self._number = number

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            return self._machine.ask({"of": self._number, "call": method, "arguments": arguments, "with": keywords})

        return call

    def close(self) -> None:
        """End it; nothing happens where the machine has been started anew since."""
        with contextlib.suppress(MachineError):
            self._machine.ask({"drop": self._number})


class Machine:
    """Commands run as root. Entering connects; leaving ends the connection and all that was made through it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._sending = threading.Lock()
        self._agent: subprocess.Popen[str] | None = None

    def __repr__(self) -> str:
        return self.name

    def __enter__(self) -> Machine:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    # the connection

    @property
    def connected(self) -> bool:
        """Whether the agent runs."""
        return self._agent is not None and self._agent.poll() is None

    def connect(self) -> None:
        """Start the agent, and wait until it answers; one that has ended before is replaced."""
        self.disconnect()
        self.push(_agents_files(), "/opt/lab")
        self._agent = subprocess.Popen(
            self.ssh("sudo", "PYTHONPATH=/opt/lab", "python3", "-u", "/opt/lab/agent.py"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._agent,), daemon=True)
        self._reader.start()
        self._shell = self.make("Shell")

    def disconnect(self) -> None:
        """End the agent."""
        if self._agent is not None:
            assert self._agent.stdin is not None
            with contextlib.suppress(OSError):
                self._agent.stdin.close()
            try:
                self._agent.wait(10)
            except subprocess.TimeoutExpired:
                self._agent.kill()
                self._agent.wait()
            self._reader.join()
            self._agent = None

    def reboot(self) -> None:
        """Start the machine anew, and connect again once it has."""
        before = self.run("cat", "/proc/sys/kernel/random/boot_id")
        self.run("systemctl", "--no-block", "reboot")
        self.disconnect()
        # The connection that ssh shares would wait for a machine that is gone.
        subprocess.run(self.ssh(options=("-O", "exit")), capture_output=True)

        def again() -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                asked = subprocess.run(
                    self.ssh("cat", "/proc/sys/kernel/random/boot_id", options=("-o", "ControlPath=none")),
                    capture_output=True,
                    text=True,
                    timeout=10,
                )
                return asked.returncode == 0 and asked.stdout != before
            return False

        wait_for(again, f"{self.name} to boot", timeout=BOOT_SECONDS, every=1)
        self.connect()

    def ssh(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The command line that runs a command there as user vagrant."""
        return ["ssh", "-F", str(SSH_CONFIG), *options, self.name, *command]

    def push(self, files: dict[str, bytes], directory: str) -> None:
        """Write files there, by their names below `directory`."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mtime, member.mode = len(content), int(time.time()), 0o644
                archive.addfile(member, io.BytesIO(content))
        command = f"sudo mkdir -p {directory} && sudo tar -C {directory} --no-same-owner -xf -"
        done = subprocess.run(self.ssh(command), input=packed.getvalue(), capture_output=True, timeout=CALL_SECONDS)
        if done.returncode != 0:
            raise MachineError(f"{self.name}: {command}: {done.stderr.decode().strip()}")

    def pull(self, path: str) -> bytes:
        """A file's content; empty if it is not there."""
        done = subprocess.run(self.ssh("sudo", "cat", path), capture_output=True, timeout=CALL_SECONDS)
        if done.returncode == SSH_FAILED:
            raise MachineError(f"{self.name}: {done.stderr.decode().strip()}")
        return done.stdout

    def ask(self, request: dict[str, Any], *, timeout: float = CALL_SECONDS) -> Any:
        """One request to the agent; MachineError if it fails there."""
        number = next(self._numbers)
        answer: Future[Any] = Future()
        with self._sending:
            if not self.connected:
                raise MachineError(f"{self.name}: not connected")
            assert self._agent is not None
            assert self._agent.stdin is not None
            self._waiting[number] = answer
            try:
                self._agent.stdin.write(json.dumps(request | {"id": number}) + "\n")
                self._agent.stdin.flush()
            except OSError as error:
                raise MachineError(f"{self.name}: {error}") from None
        try:
            return answer.result(timeout)
        except TimeoutError:
            raise MachineError(f"{self.name}: no answer within {timeout:g} s to {request}") from None

    def _read(self, agent: subprocess.Popen[str]) -> None:
        assert agent.stdout is not None
        with agent.stdout:
            self._take(agent.stdout)
        for waiting in list(self._waiting.values()):
            if not waiting.done():
                waiting.set_exception(MachineError(f"{self.name}: the connection ended"))
        self._waiting.clear()

    def _take(self, lines: Iterable[str]) -> None:
        for line in lines:
            said = json.loads(line)
            waiting = self._waiting.pop(said["id"], None)
            if waiting is None:
                continue
            if "error" in said:
                waiting.set_exception(MachineError(f"{self.name}: {said['error']}"))
            else:
                waiting.set_result(said["result"])

    # what is done there

    def make(self, kind: str, **keywords: Any) -> Remote:
        """An object of guest/tools.py."""
        return Remote(self, self.ask({"make": kind, "with": keywords}))

    def run(
        self,
        *argv: str,
        namespace: str = "main",
        stdin: str | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> str:
        """Run a command to its end; its standard output."""
        request = {
            "of": self._shell._number,
            "call": "run",
            "arguments": [argv],
            "with": {"namespace": namespace, "stdin": stdin, "timeout": timeout},
        }
        status, output, error = self.ask(request, timeout=timeout + 10)
        if check and status != 0:
            raise MachineError(f"{self.name}: {' '.join(argv)}: exit {status}: {(error or output).strip()}")
        return str(output)

    def script(self, text: str, *, namespace: str = "main", timeout: float = 60) -> str:
        """Run shell commands, to the first that fails."""
        return self.run("sh", "-e", "-s", namespace=namespace, stdin=text, timeout=timeout)

    def ip(self, *commands: str, namespace: str = "main") -> None:
        """One or several `ip` commands, written as after the word `ip`."""
        self.run("ip", "-batch", "-", namespace=namespace, stdin="\n".join(commands) + "\n")

    def json(self, *argv: str, namespace: str = "main") -> Any:
        """What a command printed as JSON."""
        return json.loads(self.run(*argv, namespace=namespace) or "[]")

    def nft(self, rules: str) -> None:
        """Load nftables rules."""
        self.run("nft", "-f", "-", stdin=rules)

    def checksum_errors(self) -> dict[str, int]:
        """Packets that arrived with a wrong checksum, in either namespace."""
        return dict(self._shell.checksum_errors())

    @contextlib.contextmanager
    def undo(self, *argv: str) -> Iterator[None]:
        """Run a command at the end, whatever happened."""
        try:
            yield
        finally:
            self.run(*argv, check=False)


def _agents_files() -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in (VAGRANT / "guest").glob("*.py")}
    files["lab/__init__.py"] = b""
    for name in LAB:
        files[f"lab/{name}.py"] = (TREE / f"tests/lab/{name}.py").read_bytes()
    return files
