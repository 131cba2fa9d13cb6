"""`attach` and `detach` where no daemon answers."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from mssclamp.cli import offline
from mssclamp.errors import StoreError
from mssclamp.store.database import EVERY_DEVICE, Store, path_for


class Kernel:
    """In place of `detach_all`: what it was asked, and what it says it removed."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.removed: list[str] = []

    def detach_all(self, device: str | None) -> list[str]:
        self.asked.append(device)
        return self.removed


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_dir: Path) -> Kernel:  # noqa: ARG001
    """Root in a namespace of its own, as far as clampctl can tell."""
    made = Kernel()
    monkeypatch.setattr("mssclamp.datapath.attach.detach_all", made.detach_all)
    monkeypatch.setattr("mssclamp.daemon.namespace._NAME", f"\0clampd test {tmp_path}")
    monkeypatch.setattr(offline.os, "geteuid", lambda: 0)
    monkeypatch.setenv("CLAMPD_STATE_DIR", str(tmp_path / "state"))
    return made


def marks(tmp_path: Path) -> set[str]:
    with closing(Store.open(path_for(tmp_path / "state"))) as store:
        return store.detached()


def test_detach_everything(kernel, tmp_path, clampctl):
    kernel.removed = ["wg0: filter clampd_l3_in on ingress", "wg0: qdisc clsact"]
    result = clampctl("detach")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "no daemon; removed wg0: filter clampd_l3_in on ingress, wg0: qdisc clsact; kept off until `clampctl attach`\n"
    )
    assert kernel.asked == [None]
    assert marks(tmp_path) == {EVERY_DEVICE}


def test_detach_a_device(kernel, tmp_path, clampctl):
    assert clampctl("detach", "wg0").out == "no daemon; nothing was attached; kept off until `clampctl attach wg0`\n"
    assert kernel.asked == ["wg0"]
    assert marks(tmp_path) == {"wg0"}


def test_attach_takes_the_mark_away(kernel, tmp_path, clampctl):
    clampctl("detach", "wg0")
    clampctl("detach", "wg1")
    assert clampctl("attach", "wg0").out == "no daemon; kept off no longer: wg0; clampd attaches when it starts\n"
    assert marks(tmp_path) == {"wg1"}
    assert clampctl("attach").out == "no daemon; kept off no longer: any device; clampd attaches when it starts\n"
    assert marks(tmp_path) == set()
    assert kernel.asked == ["wg0", "wg1"]


def test_attach_one_where_all_is_detached(kernel, tmp_path, clampctl):  # noqa: ARG001
    clampctl("detach")
    result = clampctl("attach", "wg0")
    assert result.code == 1
    assert result.err == (
        "clampctl: clampd is detached from everything; `clampctl attach` lets it back, then detach the rest\n"
    )
    assert marks(tmp_path) == {EVERY_DEVICE}


def test_json(kernel, clampctl):  # noqa: ARG001
    document = clampctl("detach", "--json").json
    assert document["schema"] == 1
    assert document["text"].startswith("no daemon; ")


def test_only_root(kernel, monkeypatch, clampctl):
    monkeypatch.setattr(offline.os, "geteuid", lambda: 1000)
    for command in ("attach", "detach"):
        result = clampctl(command)
        assert (result.code, result.out) == (1, "")
        assert result.err == "clampctl: without the daemon only root may do this; use sudo\n"
    assert kernel.asked == []


def test_a_daemon_with_another_run_directory(kernel, run_dir, clampctl):
    with closing(socket.socket(socket.AF_UNIX)) as other:
        from mssclamp.daemon import namespace

        other.bind(namespace._NAME)
        other.listen()
        result = clampctl("detach")
    assert result.code == 1
    assert result.err.startswith("clampctl: another clampd (pid ")
    assert result.err.endswith(f"but not on {run_dir}/clampd.sock; name its directory with --run-dir\n")
    assert kernel.asked == []


def test_the_state_directory_comes_from_the_configuration(kernel, tmp_path, monkeypatch, clampctl):  # noqa: ARG001
    monkeypatch.delenv("CLAMPD_STATE_DIR")
    config = tmp_path / "clampd.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\n')
    assert clampctl("--config", str(config), "detach").code == 0
    assert marks(tmp_path) == {EVERY_DEVICE}


def test_a_bad_configuration_does_not_keep_the_programs_on(kernel, tmp_path, monkeypatch, clampctl):
    monkeypatch.delenv("CLAMPD_STATE_DIR")
    opened = []

    def refuse(path: Path) -> Store:
        opened.append(path)
        raise StoreError("not here")

    monkeypatch.setattr("mssclamp.store.database.Store.open", refuse)
    config = tmp_path / "clampd.toml"
    config.write_text("nonsense")
    result = clampctl("--config", str(config), "detach")
    assert result.err == "clampctl: not here\n"
    assert kernel.asked == [None]
    assert opened[0].parent == Path("/var/lib/clampd")
