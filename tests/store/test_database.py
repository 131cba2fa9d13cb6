"""What outlives a restart, and that no file, however damaged, keeps the daemon from starting."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mssclamp.errors import StoreError
from mssclamp.pmtu.table import Learned
from mssclamp.store import database
from mssclamp.store.database import EVERY_DEVICE, Store, path_for
from support import require_root

NOBODY = 65534

PROVEN = Learned(1328, 1344, True, "probe", "1328 answered in 12 ms", 1e9, 1e9 + 30, "both", 0.012)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "clampd.db"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Store]:
    store = Store.open(path)
    try:
        yield store
    finally:
        store.close()


def filled(path: Path) -> bytes:
    """A database with something in every table; its bytes."""
    with opened(path) as store:
        for number in range(20):
            store.set_pin(f"branch-{number}", 1300 + number, 1e9 + number)
        store.replace_modes({EVERY_DEVICE: "enforce", "wg0": "observe"}, {"wg1": 10**15}, "boot-a")
        store.set_detached("gre7", True)
        store.set_learned("branch-7", PROVEN)
    return path.read_bytes()


def everything(store: Store) -> tuple[object, ...]:
    return store.pins(), store.modes(), store.trials("boot-a"), store.detached(), store.learned()


EMPTY = ({}, {}, {}, set(), {})


def set_aside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if "damaged" in each.name)


# -- what is kept


def test_everything_outlives_a_restart(path: Path) -> None:
    filled(path)
    with opened(path) as store:
        pins, *rest = everything(store)
        assert pins["branch-7"] == (1307, 1e9 + 7)
        assert len(pins) == 20
        untrusted = {"branch-7": replace(PROVEN, trusted=False)}
        assert rest == [{EVERY_DEVICE: "enforce", "wg0": "observe"}, {"wg1": 10**15}, {"gre7"}, untrusted]
    assert set_aside(path) == []


def test_a_new_database_is_empty(path: Path) -> None:
    with opened(path) as store:
        assert everything(store) == EMPTY


def test_what_was_written_is_there_without_a_close(path: Path, tmp_path: Path) -> None:
    """As after kill -9: what lies on disk now, write-ahead log and all, is enough."""
    copy = tmp_path / "copy"
    copy.mkdir()
    with opened(path) as store:
        store.set_pin("branch-7", 1380, 1.0)
        for each in path.parent.iterdir():
            (copy / each.name).write_bytes(each.read_bytes())
    assert (copy / "clampd.db-wal").stat().st_size > 0
    with opened(copy / "clampd.db") as store:
        assert store.pins() == {"branch-7": (1380, 1.0)}


def test_a_pin_is_replaced_and_dropped(path: Path) -> None:
    with opened(path) as store:
        store.set_pin("branch-7", 1380, 1.0)
        store.set_pin("branch-7", 1400, 2.0)
        assert store.pins() == {"branch-7": (1400, 2.0)}
        store.set_pin("branch-7", None, 3.0)
        store.set_pin("nobody", None, 3.0)
        assert store.pins() == {}


def test_modes_are_replaced_whole(path: Path) -> None:
    with opened(path) as store:
        store.replace_modes({EVERY_DEVICE: "enforce"}, {"wg0": 5}, "boot-a")
        store.replace_modes({"wg1": "observe"}, {}, "boot-a")
        assert store.modes() == {"wg1": "observe"}
        assert store.trials("boot-a") == {}


def test_a_trial_of_another_boot_is_over(path: Path) -> None:
    with opened(path) as store:
        store.replace_modes({}, {"wg0": 5}, "boot-a")
        assert store.trials("boot-b") == {}


def test_attaching_everything_lets_all_devices_back(path: Path) -> None:
    with opened(path) as store:
        for device in ("wg0", "wg0", "gre7", EVERY_DEVICE):
            store.set_detached(device, True)
        assert store.detached() == {"wg0", "gre7", EVERY_DEVICE}
        store.set_detached("wg0", False)
        assert store.detached() == {"gre7", EVERY_DEVICE}
        store.set_detached(EVERY_DEVICE, False)
        assert store.detached() == set()


def test_a_change_that_fails_leaves_the_old(path: Path) -> None:
    with opened(path) as store:
        store.replace_modes({EVERY_DEVICE: "enforce"}, {}, "boot-a")
        with pytest.raises(StoreError, match=r"clampd\.db cannot be written"):
            store.replace_modes({"wg0": "neither"}, {}, "boot-a")
        assert store.modes() == {EVERY_DEVICE: "enforce"}


names = st.text(min_size=1, max_size=8)


@settings(max_examples=30)
@given(
    st.dictionaries(names, st.sampled_from(("observe", "enforce"))), st.dictionaries(names, st.integers(0, 2**63 - 1))
)
def test_modes_come_back_as_they_were(modes: dict[str, str], trials: dict[str, int]) -> None:
    with contextlib.closing(Store(sqlite3.connect(":memory:"), Path("memory"))) as store:
        store._db.executescript(database._SCHEMA)
        store.replace_modes(modes, trials, "boot-a")
        assert (store.modes(), store.trials("boot-a")) == (modes, trials)


def test_routes_are_kept_with_every_mtu_that_may_stand_in_them(path: Path) -> None:
    with opened(path) as store:
        store.add_routes([(b"one", 1400), (b"one", 1328), (b"two", 1328)], "boot-a")
        store.drop_routes([(b"one", 1400), (b"three", 1400)])
    with opened(path) as store:
        assert store.routes("boot-a") == {b"one": {1328}, b"two": {1328}}
        assert store.routes("boot-b") == {}


def test_routes_of_another_boot_go(path: Path) -> None:
    with opened(path) as store:
        store.add_routes([(b"one", 1400), (b"two", 1400)], "boot-a")
        store.add_routes([(b"one", 1400)], "boot-b")
        assert (store.routes("boot-a"), store.routes("boot-b")) == ({}, {b"one": {1400}})


@pytest.mark.parametrize(("version", "lacks"), [(1, ("route", "learned")), (2, ("learned",))])
def test_a_database_of_an_earlier_version_gets_its_tables(path: Path, version: int, lacks: tuple[str, ...]) -> None:
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("".join(f"DROP TABLE {table};" for table in lacks) + f"PRAGMA user_version = {version}")
    with opened(path) as store:
        store.add_routes([(b"one", 1400)], "boot-a")
        assert store.learned() == {}
        store.set_learned("branch-7", PROVEN)
        assert len(store.pins()) == 20
    with opened(path) as store:
        assert list(store.learned()) == ["branch-7"]
    assert set_aside(path) == []


def test_what_is_learned_is_replaced_and_dropped(path: Path) -> None:
    bare = Learned(1420, None, False, "probe", "1420 answered", 3.0, 3.0)
    with opened(path) as store:
        store.set_learned("branch-7", PROVEN)
        store.set_learned("branch-7", bare)
        store.set_learned("branch-8", PROVEN)
        assert store.learned() == {
            "branch-7": replace(bare, trusted=False),
            "branch-8": replace(PROVEN, trusted=False),
        }
        store.set_learned("branch-7", None)
        store.set_learned("nobody", None)
        assert list(store.learned()) == ["branch-8"]


def test_what_a_router_said_is_not_kept(path: Path) -> None:
    hint = replace(PROVEN, source="icmp", direction="to-peer")
    with opened(path) as store:
        store.set_learned("branch-7", PROVEN)
        store.set_learned("branch-7", hint)
        assert store.learned() == {}


# -- damage


def a_later_version(path: Path) -> None:
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def other_columns(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE pin (who TEXT, what TEXT); PRAGMA user_version = 0")


def a_table_missing(path: Path) -> None:
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE detached")


def an_index_in_a_tables_place(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE other (a); CREATE INDEX pin ON other (a)")


def a_view_in_a_tables_place(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE VIEW pin AS SELECT 'x' AS peer, 1400 AS mtu, 0.0 AS at")


def values_of_another_kind(path: Path) -> None:
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("UPDATE mode SET mode = 'neither'")
        db.commit()


def an_mtu_that_is_none(path: Path) -> None:
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("UPDATE learned SET mtu = -1")
        db.commit()


def replaced_bytes(path: Path, old: bytes, new: bytes) -> None:
    data = filled(path)
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_bytes(b"this is not a database\n" * 100),
    "a few bytes": lambda path: path.write_bytes(b"\0\1\2"),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "half": lambda path: path.write_bytes(filled(path)[:9000]),
    "header alone": lambda path: path.write_bytes(filled(path)[:100]),
    "first page scratched": lambda path: path.write_bytes(filled(path)[:100] + b"\xaa" * 400 + filled(path)[500:]),
    "a name that is not UTF-8": lambda path: replaced_bytes(path, b"branch-7", b"branch\xff7"),
    "a schema that is not UTF-8": lambda path: replaced_bytes(path, b"detached", b"d\xe9tached"),
    "a later version": a_later_version,
    "other columns": other_columns,
    "a table missing": a_table_missing,
    "an index in a table's place": an_index_in_a_tables_place,
    "a view in a table's place": a_view_in_a_tables_place,
    "values of another kind": values_of_another_kind,
    "an MTU that is none": an_mtu_that_is_none,
    "a directory": lambda path: (path / "inside").mkdir(parents=True),
    "a fifo": os.mkfifo,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_is_set_aside(
    damage: Callable[[Path], object], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    damage(path)
    with opened(path) as store:
        assert everything(store) == EMPTY
        store.set_pin("branch-7", 1380, 1.0)
    (aside,) = set_aside(path)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    for word in (str(path), aside, "pins and modes set with clampctl are gone"):
        assert word in record.getMessage()
    with opened(path) as store:
        assert store.pins() == {"branch-7": (1380, 1.0)}
    assert set_aside(path) == [aside]


def test_what_is_set_aside_is_whole(path: Path) -> None:
    """Somebody may want to look at it. What lay beside it does not get into the new one."""
    path.parent.mkdir()
    path.write_bytes(b"garbage")
    Path(f"{path}-wal").write_bytes(b"its log")
    Path(f"{path}-shm").write_bytes(b"its index")
    with opened(path) as store:
        assert store.pins() == {}
    (aside,) = set_aside(path)
    assert (path.parent / aside).read_bytes() == b"garbage"
    assert sorted(each.name for each in path.parent.iterdir()) == ["clampd.db", aside]


@pytest.mark.parametrize("rest", [b"", b"\0" * 32, b"no log at all" * 500], ids=["empty", "short", "garbage"])
def test_the_leftover_of_a_log_harms_nothing(path: Path, rest: bytes) -> None:
    filled(path)
    Path(f"{path}-wal").write_bytes(rest)
    Path(f"{path}-shm").write_bytes(rest)
    with opened(path) as store:
        assert len(store.pins()) == 20
    assert set_aside(path) == []


def test_the_leftover_of_a_log_without_its_database_is_no_content(path: Path) -> None:
    with opened(path) as store:
        store.set_pin("branch-7", 1380, 1.0)
        log = Path(f"{path}-wal").read_bytes()
    path.unlink()
    Path(f"{path}-wal").write_bytes(log)
    with opened(path) as store:
        assert store.pins() == {}


@pytest.fixture(scope="module")
def whole() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        return filled(Path(directory) / "clampd.db")


def _opens_and_reads(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "clampd.db"
        path.write_bytes(data)
        with opened(path) as store:
            pins, modes, trials, detached, learned = everything(store)
    assert all(isinstance(peer, str) and 576 <= mtu <= 65535 for peer, (mtu, _) in pins.items())
    assert set(modes.values()) <= {"observe", "enforce"}
    assert all(isinstance(until, int) for until in trials.values())
    assert all(isinstance(device, str) for device in detached)
    for each in learned.values():
        assert 1 <= each.mtu <= 65535
        assert each.direction in (None, "both", "to-peer")
        assert isinstance(each.why, str)
        assert isinstance(each.found + each.checked + (each.rtt or 0), float)
        assert isinstance(each.ceiling or 0, int)


@settings(max_examples=60)
@given(data=st.data())
def test_truncated_anywhere(whole: bytes, data: st.DataObject) -> None:
    _opens_and_reads(whole[: data.draw(st.integers(0, len(whole)))])


@settings(max_examples=120)
@given(data=st.data())
def test_a_byte_changed_anywhere(whole: bytes, data: st.DataObject) -> None:
    """Whatever is read afterwards is of the right kind. (Most of the file is unused: choose bytes that are not.)"""
    used = [at for at, byte in enumerate(whole) if byte]
    at = data.draw(st.sampled_from(used))
    _opens_and_reads(whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :])


@settings(max_examples=20)
@given(st.binary(max_size=2000))
def test_random_bytes(data: bytes) -> None:
    _opens_and_reads(data)


# -- what no setting aside can help


def test_a_state_directory_that_is_a_file(path: Path) -> None:
    path.parent.write_text("in the way")
    with pytest.raises(StoreError, match=r"clampd\.db cannot be opened: .* choose another with --state-dir"):
        Store.open(path)


def test_a_locked_database_is_not_set_aside(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda where, **_: connect(where, timeout=0))
    with contextlib.closing(connect(path)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="locked"):
            Store.open(path)
    assert set_aside(path) == []


def _as_nobody(action: Callable[[], object]) -> str:
    """What `action` raised in a child process without privileges; "" if nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            action()
        except StoreError as error:
            os.write(writing, str(error).encode())
        except BaseException as error:
            os.write(writing, f"not a StoreError: {error!r}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def read_only_directory() -> Iterator[Path]:
    require_root()
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to others
        os.chmod(directory, 0o755)
        yield Path(directory)


def test_a_directory_that_cannot_be_written(read_only_directory: Path) -> None:
    path = read_only_directory / "clampd.db"
    said = _as_nobody(lambda: Store.open(path))
    assert said.startswith(f"the state database {path} cannot be opened: unable to open")
    assert list(read_only_directory.iterdir()) == []


def test_a_whole_database_that_cannot_be_written_is_left_alone(read_only_directory: Path) -> None:
    path = read_only_directory / "clampd.db"
    data = filled(path)
    os.chmod(path, 0o644)
    said = _as_nobody(lambda: Store.open(path))
    assert said.startswith(f"the state database {path} cannot be opened: ")
    assert (list(read_only_directory.iterdir()), path.read_bytes()) == ([path], data)


def test_a_damaged_database_that_cannot_be_set_aside(read_only_directory: Path) -> None:
    path = read_only_directory / "clampd.db"
    path.write_bytes(b"garbage" * 100)
    os.chmod(path, 0o666)
    said = _as_nobody(lambda: Store.open(path))
    assert said.startswith(f"the state database {path} cannot be opened: ")
    assert "make the directory writable" in said


# -- where


class Places:
    """Stands for the files that are network namespaces: numbers by path, None where one may not look."""

    def __init__(self, numbers: dict[Path, int | None]) -> None:
        self._numbers = numbers
        self._stat = os.stat

    def stat(self, path: Path | str | int, **how: object) -> os.stat_result:
        if isinstance(path, int) or Path(path) not in self._numbers:
            return self._stat(path, **how)
        number = self._numbers[Path(path)]
        if number is None:
            raise PermissionError(13, "Permission denied")
        return os.stat_result((0o100444, number, 4, 1, 0, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("first", "named", "file"),
    [
        (7, None, "clampd.db"),
        (7, 8, "clampd.db"),
        (1, 7, "clampd-blue.db"),
        (1, 8, "clampd-7.db"),
        (1, None, "clampd-7.db"),
        (None, 7, "clampd-blue.db"),
        (None, None, "clampd.db"),
    ],
)
def test_each_namespace_has_a_file_of_its_own(
    first: int | None, named: int | None, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """We are in namespace 7, process 1 in `first`; `ip netns` calls number `named` blue."""
    netns = tmp_path / "netns"
    numbers = {Path("/proc/self/ns/net"): 7, Path("/proc/1/ns/net"): first}
    if named is not None:
        netns.mkdir()
        (netns / "blue").touch()
        numbers[netns / "blue"] = named
    monkeypatch.setattr(database, "NAMED_NAMESPACES", netns)
    monkeypatch.setattr(os, "stat", Places(numbers).stat)
    assert path_for(tmp_path) == tmp_path / file
