"""What holds for every command: exit statuses, one line of complaint, JSON as it came, a fast start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mssclamp
from fake_daemon import FakeDaemon, a_peer, a_status
from mssclamp.control.protocol import Done, PeerDocument, PeersDocument

ROOT = Path(mssclamp.__file__).parent.parent

COMMANDS = {
    ("status",): ("GET", "/v1/status"),
    ("peers",): ("GET", "/v1/peers"),
    ("show", "branch-7"): ("GET", "/v1/peers/branch-7"),
    ("enforce",): ("POST", "/v1/mode"),
    ("observe",): ("POST", "/v1/mode"),
    ("confirm",): ("POST", "/v1/mode"),
    ("pin", "branch-7", "1380"): ("POST", "/v1/peers/branch-7/pin"),
    ("unpin", "branch-7"): ("POST", "/v1/peers/branch-7/unpin"),
    ("attach",): ("POST", "/v1/attach"),
    ("detach",): ("POST", "/v1/detach"),
    ("reload",): ("POST", "/v1/reload"),
}
"""Every command that asks one thing, with what it asks."""

SEVERAL_QUESTIONS = (("forget", "branch-7"), ("probe", "branch-7"))

DOCUMENTS = {
    "/v1/status": a_status(),
    "/v1/peers": PeersDocument(peers=[a_peer()]),
    "/v1/mode": Done(text="done"),
    "/v1/attach": Done(text="done"),
    "/v1/detach": Done(text="done"),
    "/v1/reload": Done(text="done"),
}

every_command = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


@pytest.fixture
def answering(daemon: FakeDaemon) -> FakeDaemon:
    """A daemon that is content with everything."""
    for method, path in COMMANDS.values():
        daemon.answers(method, path, DOCUMENTS.get(path, PeerDocument(peer=a_peer())))
    return daemon


@every_command
def test_asks_once_and_is_done(words, answering, clampctl):
    result = clampctl(*words)
    assert (result.code, result.err) == (0, "")
    assert result.out.strip()
    assert [(asked.method, asked.path) for asked in answering.asked] == [COMMANDS[words]]


@every_command
def test_json_is_what_the_daemon_said(words, answering, clampctl):
    method, path = COMMANDS[words]
    plain = clampctl(*words, "--json").json
    later = plain | {"invented later": [1, {"x": None}], "schema": 1}
    answering.answers(method, path, later)
    result = clampctl(*words, "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json == later


@every_command
def test_what_the_daemon_refuses_is_one_line_and_status_1(words, daemon, clampctl):
    daemon.refuses(*COMMANDS[words], 409, "conflict", "this is not to be had", "wait")
    result = clampctl(*words)
    assert (result.code, result.out) == (1, "")
    assert result.err == "clampctl: this is not to be had; wait\n"


NEED_THE_DAEMON = [*(each for each in COMMANDS if each[0] not in ("attach", "detach")), *SEVERAL_QUESTIONS]


@pytest.mark.parametrize("words", NEED_THE_DAEMON, ids=" ".join)
def test_no_daemon_is_status_3(words, run_dir, clampctl):
    result = clampctl(*words)
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"clampctl: no daemon there: {run_dir}/clampd.sock does not exist; "
        "start clampd, or name its directory with --run-dir\n"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("pin", "branch-7"), "Missing argument 'MTU'"),
        (("pin", "branch-7", "575"), "575 is not in the range 576<=x<=65535"),
        (("peers", "--state", "happy"), "'happy' is not one of"),
        (("enforce", "--for", "10"), "'10' is not a length of time: write it like 90s, 10m or 1h30m"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("status", "now"), "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_status_2(words, complaint, clampctl):
    result = clampctl(*words)
    assert (result.code, result.out) == (2, "")
    assert complaint in result.err


def test_version(clampctl):
    result = clampctl("--version")
    assert (result.code, result.out) == (0, f"clampctl {mssclamp.__version__}\n")


def test_the_option_beats_the_environment(run_dir, tmp_path, clampctl):
    with FakeDaemon(tmp_path / "elsewhere") as other:
        other.answers("POST", "/v1/reload", Done(text="reloaded elsewhere"))
        assert clampctl("--run-dir", str(tmp_path / "elsewhere"), "reload").out == "reloaded elsewhere\n"
    assert not run_dir.exists()


def test_several_mistakes_of_a_configuration_are_a_line_each(daemon, clampctl):
    daemon.refuses("POST", "/v1/reload", 400, "config", "a.toml:1: x: wrong; y\na.toml:2: z: wrong; y")
    result = clampctl("reload")
    assert (result.code, result.out) == (1, "")
    assert result.err == "clampctl: a.toml:1: x: wrong; y\nclampctl: a.toml:2: z: wrong; y\n"


def test_problems_are_told_after_what_was_done(daemon, clampctl):
    daemon.answers("POST", "/v1/attach", Done(text="attached: wg0", problems=["wg1: refused"]))
    assert clampctl("attach").out == "attached: wg0\nproblem: wg1: refused\n"


def run_apart(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        **options,
    )


def test_help_imports_nothing_heavy():
    result = run_apart("-X", "importtime", "-m", "mssclamp.cli", "--help")
    assert result.returncode == 0
    imported = set(re.findall(r"\| +([\w.]+)$", result.stderr, re.MULTILINE))
    assert "mssclamp.cli.watch" in imported
    heavy = {"pyroute2", "bcc", "rich", "msgspec", "http.client", "asyncio", "sqlite3", "tomllib", "h11"}
    assert not imported & heavy


def test_a_table_needs_no_kernel_code(daemon):
    daemon.answers("GET", "/v1/peers", PeersDocument(peers=[a_peer()]))
    code = (
        "import sys, mssclamp.cli as cli; assert cli._run(['--run-dir', sys.argv[1], 'peers']) == 0;"
        "print(*sorted(m for m in sys.modules if m.startswith(('mssclamp.d', 'mssclamp.store', 'pyroute2'))))"
    )
    result = run_apart("-c", code, str(daemon.run_dir))
    assert result.stdout.splitlines()[-1] == "", result.stderr


def test_a_reader_that_leaves_is_no_failure(daemon):
    daemon.answers("GET", "/v1/peers", PeersDocument(peers=[a_peer(f"branch-{n}") for n in range(5000)]))
    command = [sys.executable, "-m", "mssclamp.cli", "--run-dir", str(daemon.run_dir), "peers"]
    reading, writing = os.pipe()
    with subprocess.Popen(
        command, stdout=writing, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as child:
        os.close(writing)
        os.close(reading)
        assert child.stderr is not None
        assert child.stderr.read() == b""
    assert child.returncode == 0
