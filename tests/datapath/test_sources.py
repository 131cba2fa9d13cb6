"""Where the programs' sources are, and what makes two builds differ."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mssclamp.datapath import sources
from mssclamp.errors import DatapathError


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CLAMPD_BPF_DIR", raising=False)
    sources.directory.cache_clear()
    yield
    sources.directory.cache_clear()


def use(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAMPD_BPF_DIR", str(directory))
    sources.directory.cache_clear()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "bpf"
    shutil.copytree(sources.directory(), copy)
    use(copy, monkeypatch)
    return copy


def test_found_without_a_word() -> None:
    assert (sources.directory() / "clampd.c").is_file()
    assert (sources.directory() / "abi.h").is_file()


def test_the_environment_decides(copy: Path) -> None:
    assert sources.directory() == copy


def test_a_named_directory_that_is_none_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path, monkeypatch)
    with pytest.raises(DatapathError, match=f"the BPF sources are not in {tmp_path}; install the package again"):
        sources.directory()


def test_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_PACKAGE", tmp_path / "a" / "mssclamp")
    with pytest.raises(DatapathError, match=f"not in {tmp_path}/a/mssclamp/bpf or {tmp_path}/bpf;"):
        sources.directory()


def test_the_wheels_go_before_the_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "agent" / "mssclamp"
    for place in (package / "bpf", tmp_path / "bpf"):
        place.mkdir(parents=True)
        (place / "clampd.c").touch()
    monkeypatch.setattr(sources, "_PACKAGE", package)
    assert sources.directory() == package / "bpf"


def test_a_copy_is_the_same_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = sources.build_id()
    assert len(here) == 32
    shutil.copytree(sources.directory(), tmp_path / "bpf")
    use(tmp_path / "bpf", monkeypatch)
    assert sources.build_id() == here


def edit(copy: Path) -> None:
    with (copy / "tcp_mss.h").open("a") as source:
        source.write("\n")


def edit_shim(copy: Path) -> None:
    with (copy / "shim/include/linux/types.h").open("a") as source:
        source.write("\n")


def rename(copy: Path) -> None:
    (copy / "packet.h").rename(copy / "packets.h")


def add(copy: Path) -> None:
    (copy / "empty.h").touch()


def swap(copy: Path) -> None:
    first, second = (copy / "tcp_mss.h").read_bytes(), (copy / "packet.h").read_bytes()
    (copy / "tcp_mss.h").write_bytes(second)
    (copy / "packet.h").write_bytes(first)


def move_the_border(copy: Path) -> None:
    """The same bytes in the same order, cut at another place."""
    first, second = sorted(each for each in copy.iterdir() if each.suffix == ".h")[:2]
    whole = first.read_bytes() + second.read_bytes()
    cut = len(first.read_bytes()) - 10
    first.write_bytes(whole[:cut])
    second.write_bytes(whole[cut:])


@pytest.mark.parametrize("change", [edit, edit_shim, rename, add, swap, move_the_border])
def test_another_build(change: Callable[[Path], None], copy: Path) -> None:
    before = sources.build_id()
    change(copy)
    assert sources.build_id() != before


def test_what_is_no_source_does_not_count(copy: Path) -> None:
    before = sources.build_id()
    (copy / "README.md").write_text("words")
    (copy / "clampd.c~").write_text("an editor's backup")
    (copy / "__pycache__").mkdir()
    assert sources.build_id() == before
