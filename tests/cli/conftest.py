"""`clampctl` as it is run, in this process, against a daemon that is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fake_daemon import FakeDaemon
from mssclamp.cli import main


@dataclass(frozen=True)
class Result:
    """What one run said and how it ended."""

    code: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where clampctl looks for the daemon; nothing else of the environment reaches it."""
    for name in ("CLAMPD_STATE_DIR", "CLAMPD_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLAMPD_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def daemon(run_dir: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(run_dir) as fake:
        yield fake


@pytest.fixture
def clampctl(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> Run:  # noqa: ARG001
    def run(*arguments: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(arguments)
        out, err = capsys.readouterr()
        return Result(left.value.code, out, err)

    return run
