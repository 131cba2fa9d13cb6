"""Compiling and loading: what comes back, and what a person is told when it fails."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mssclamp
from mssclamp.datapath import abi, loader, sources
from mssclamp.datapath.bpf import Program
from mssclamp.datapath.instance import Instance
from mssclamp.errors import DatapathError
from support import require_bpf

pytestmark = pytest.mark.bpf


@pytest.fixture(autouse=True)
def _needs() -> None:
    require_bpf()


def descriptors() -> set[str]:
    """What this process has open, without the directory that tells it."""
    names = os.listdir("/proc/self/fd")
    return {name for name in names if os.path.lexists(f"/proc/self/fd/{name}")}


@pytest.fixture
def no_leak() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture
def bpf_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of bpf/ to break."""
    copy = tmp_path / "bpf"
    shutil.copytree(sources.directory(), copy)
    monkeypatch.setenv("CLAMPD_BPF_DIR", str(copy))
    sources.directory.cache_clear()
    yield copy
    sources.directory.cache_clear()


def refusal() -> str:
    """What a person reads when loading fails."""
    with pytest.raises(DatapathError) as caught:
        loader.load(16)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.usefixtures("no_leak")
def test_everything_comes_back() -> None:
    instance = loader.load(300)
    assert set(instance.programs) == set(abi.PROGRAMS)
    assert {name: held.name for name, held in instance.maps.items()} == {name: name for name in abi.MAPS}
    assert instance.maps["clampd_peer"].max_entries == 300
    meta = instance.meta()
    assert (meta.abi, meta.max_peers, bytes(meta.build)) == (abi.ABI, 300, sources.build_id())
    assert instance.prefixes() == {}
    assert set(instance.reasons().values()) == {0}
    instance.close()
    instance.close()


@pytest.mark.usefixtures("no_leak")
def test_all_maps_live_as_long_as_one_program() -> None:
    """Only filters hold programs while no daemon runs; so each program must hold everything else."""
    instance = loader.load(16)
    instance.note_qdisc(7, ours=True)
    name = abi.PROGRAMS[-1]
    held = Program.by_id(instance.programs[name].id)
    instance.close()
    (found,) = Instance.find([held.id])
    assert set(found.programs) == {name}
    assert set(found.maps) == set(abi.MAPS)
    assert found.meta().max_peers == 16
    assert found.qdisc_is_ours(7)
    found.close()
    held.close()


@pytest.mark.usefixtures("no_leak")
def test_a_source_that_does_not_compile(bpf_dir: Path) -> None:
    with (bpf_dir / "tcp_mss.h").open("a") as source:
        source.write("\nthis is no C;\n")
    text = refusal()
    assert text.startswith("the BPF programs cannot be loaded: ")
    assert "tcp_mss.h:" in text
    assert "error: " in text


@pytest.mark.usefixtures("no_leak")
def test_a_program_that_the_verifier_refuses(bpf_dir: Path) -> None:
    source = bpf_dir / "clampd.c"
    changed, times = source.read_text(), 0
    for name in abi.PROGRAMS:
        before = f"int {name}(struct __sk_buff *skb)\n{{\n"
        times += changed.count(before)
        changed = changed.replace(before, before + "\tif (*(volatile char *)(long)skb->data)\n\t\treturn 0;\n")
    assert times == len(abi.PROGRAMS)
    source.write_text(changed)
    text = refusal()
    assert text.startswith("the BPF programs cannot be loaded: ")
    assert abi.PROGRAMS[0] in text


@pytest.mark.usefixtures("no_leak")
def test_sources_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAMPD_BPF_DIR", str(tmp_path))
    sources.directory.cache_clear()
    try:
        assert refusal() == f"the BPF sources are not in {tmp_path}; install the package again"
    finally:
        sources.directory.cache_clear()


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script in the place of the child's Python."""

    def put(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))
        monkeypatch.setenv("PYTHONPATH", str(Path(mssclamp.__file__).parent.parent))

    return put


@pytest.mark.usefixtures("no_leak")
def test_without_bcc(child: Callable[[str], None]) -> None:
    child(f'exec "{sys.executable}" -S "$@"')  # -S: no site-packages, where bcc is
    text = refusal()
    assert text.startswith("the BPF programs cannot be loaded: ")
    assert text.endswith("No module named 'bcc'; install python3-bpfcc")


@pytest.mark.usefixtures("no_leak")
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 3", "the loader died without a word"),
        ("kill -9 $$", "the loader died without a word"),
        ("echo one; echo two >&2; exit 1", "two"),
        ("printf 'a\\nclampd.c:1: error: no\\nb\\n'; exit 1", "clampd.c:1: error: no"),
        ("printf '\\377\\376'; exit 1", "\ufffd\ufffd"),
    ],
)
def test_the_childs_last_words(script: str, says: str, child: Callable[[str], None]) -> None:
    child(script)
    assert refusal() == f"the BPF programs cannot be loaded: {says}"


@pytest.mark.usefixtures("no_leak")
def test_a_child_that_does_not_end(child: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    child("exec sleep 600")
    monkeypatch.setattr(loader, "TIMEOUT", 0.05)
    assert refusal().startswith("compiling the BPF programs took over ")
    with pytest.raises(ChildProcessError):  # it has been waited for
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.usefixtures("no_leak")
def test_descriptors_that_do_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = socket.recv_fds
    monkeypatch.setattr(socket, "recv_fds", lambda sock, size, count: receive(sock, size, count - 3))
    assert refusal() == "the loader's descriptors did not arrive; raise the limit of open files"
