"""What must outlive a restart: pins, modes that the operator chose, devices that clampd is to keep off, routes changed,
and what was learned of paths.

One SQLite file for each network namespace (WAL), under the state directory. A file that cannot be used is set aside,
never a reason not to start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

from mssclamp.errors import StoreError
from mssclamp.pmtu.table import Learned

log = logging.getLogger(__name__)

EVERY_DEVICE = "*"

NAMED_NAMESPACES = Path("/run/netns")
"""Where `ip netns` keeps them."""

_SCHEMA_VERSION = 3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pin (
    peer TEXT PRIMARY KEY, mtu INTEGER NOT NULL CHECK (mtu BETWEEN 576 AND 65535), at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mode (
    scope TEXT PRIMARY KEY, mode TEXT NOT NULL CHECK (mode IN ('observe', 'enforce'))
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trial (
    scope TEXT PRIMARY KEY, until_ns INTEGER NOT NULL, boot TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS detached (device TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS route (
    message BLOB, mtu INTEGER, boot TEXT NOT NULL, PRIMARY KEY (message, mtu)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS learned (
    peer TEXT PRIMARY KEY, mtu INTEGER NOT NULL CHECK (mtu BETWEEN 1 AND 65535), ceiling INTEGER,
    exact INTEGER NOT NULL, why TEXT NOT NULL, found REAL NOT NULL, checked REAL NOT NULL,
    direction TEXT CHECK (direction IN ('both', 'to-peer')), rtt REAL
) STRICT, WITHOUT ROWID;
"""
# scope: a device's name, or EVERY_DEVICE. until_ns: CLOCK_BOOTTIME of the boot named beside it.
# message: the kernel's word for a route as it was before we wrote an MTU into it (wire.route).
# The checks are for reading: quick_check applies them to what lies in the file.

_TABLES = ("pin", "mode", "trial", "detached", "route", "learned")

_NOT_DAMAGE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)
"""SQLite's errors about disks, permissions and locks. The others are about the content."""


class Store:
    """The open database. Every method that changes something has it on disk when it returns."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens or creates the file; a damaged one is renamed to `….damaged-TIME` and begun anew.

        Raises StoreError where the directory cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return cls(_connect(path), path)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not _is_damage(error):
                    raise
                aside = _set_aside(path)
                log.error("the database %s is damaged (%s): set aside as %s, begun anew; "
                          "pins and modes set with clampctl are gone", path, error, aside.name)  # fmt: skip
                return cls(_connect(path), path)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"the state database {path} cannot be opened: {error}",
                fix="make the directory writable or choose another with --state-dir",
            ) from error

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def pins(self) -> dict[str, tuple[int, float]]:
        """MTU (bytes) and time (Unix seconds) of each pin, by peer id."""
        rows = self._read("SELECT peer, mtu, at FROM pin")
        return {peer: (mtu, at) for peer, mtu, at in rows}

    def set_pin(self, peer: str, mtu: int | None, at: float) -> None:
        """Keeps the operator's value for a peer, or drops it (None)."""
        with self._write():
            if mtu is None:
                self._db.execute("DELETE FROM pin WHERE peer = ?", (peer,))
            else:
                self._db.execute("INSERT OR REPLACE INTO pin VALUES (?, ?, ?)", (peer, mtu, at))

    def modes(self) -> dict[str, Literal["observe", "enforce"]]:
        """Modes chosen with clampctl, by scope."""
        return dict(self._read("SELECT scope, mode FROM mode"))

    def trials(self, boot: str) -> dict[str, int]:
        """Ends (CLOCK_BOOTTIME ns) of `enforce --for`, by scope, as far as they are of this boot."""
        return dict(self._read("SELECT scope, until_ns FROM trial WHERE boot = ?", boot))

    def replace_modes(self, modes: dict[str, Literal["observe", "enforce"]], trials: dict[str, int], boot: str) -> None:
        """Keeps exactly these modes and trials."""
        with self._write():
            self._db.execute("DELETE FROM mode")
            self._db.execute("DELETE FROM trial")
            self._db.executemany("INSERT INTO mode VALUES (?, ?)", modes.items())
            self._db.executemany(
                "INSERT INTO trial VALUES (?, ?, ?)", [(scope, until, boot) for scope, until in trials.items()]
            )

    def detached(self) -> set[str]:
        """Devices to keep off, or EVERY_DEVICE."""
        return {device for (device,) in self._read("SELECT device FROM detached")}

    def set_detached(self, device: str, off: bool) -> None:
        """Keeps clampd off a device (or EVERY_DEVICE), or lets it back; EVERY_DEVICE lets all back."""
        with self._write():
            if off:
                self._db.execute("INSERT OR IGNORE INTO detached VALUES (?)", (device,))
            elif device == EVERY_DEVICE:
                self._db.execute("DELETE FROM detached")
            else:
                self._db.execute("DELETE FROM detached WHERE device = ?", (device,))

    def routes(self, boot: str) -> dict[bytes, frozenset[int]]:
        """MTUs (bytes) that may stand in a route by our doing, by what the route was before, as far as of this boot."""
        found: dict[bytes, frozenset[int]] = {}
        for message, mtu in self._read("SELECT message, mtu FROM route WHERE boot = ?", boot):
            found[message] = found.get(message, frozenset()) | {mtu}
        return found

    def add_routes(self, rows: Iterable[tuple[bytes, int]], boot: str) -> None:
        """Keeps more of them; those of another boot go."""
        with self._write():
            self._db.execute("DELETE FROM route WHERE boot != ?", (boot,))
            self._db.executemany("INSERT OR REPLACE INTO route VALUES (?, ?, ?)", [(*row, boot) for row in rows])

    def drop_routes(self, rows: Iterable[tuple[bytes, int]]) -> None:
        """Forgets some of them."""
        with self._write():
            self._db.executemany("DELETE FROM route WHERE message = ? AND mtu = ?", list(rows))

    def learned(self) -> dict[str, Learned]:
        """What probes found, by peer id; not trusted until it is checked."""
        rows = self._read("SELECT peer, mtu, ceiling, exact, why, found, checked, direction, rtt FROM learned")
        return {
            peer: Learned(mtu, ceiling, bool(exact), "probe", why, found, checked, direction, rtt, trusted=False)
            for peer, mtu, ceiling, exact, why, found, checked, direction, rtt in rows
        }

    def set_learned(self, peer: str, learned: Learned | None) -> None:
        """Keeps what probes found, or drops it (None). What a router said is not kept."""
        with self._write():
            if learned is None or learned.source != "probe":
                self._db.execute("DELETE FROM learned WHERE peer = ?", (peer,))
                return
            row = (peer, learned.mtu, learned.ceiling, int(learned.exact), learned.why, learned.found, learned.checked,
                   learned.direction, learned.rtt)  # fmt: skip
            self._db.execute("INSERT OR REPLACE INTO learned VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _read(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"the state database {self._path} cannot be read: {error}") from error

    @contextlib.contextmanager
    def _write(self) -> Iterator[None]:
        try:
            with self._db:
                yield
        except sqlite3.Error as error:
            raise StoreError(f"the state database {self._path} cannot be written: {error}") from error


def path_for(state_dir: Path) -> Path:
    """This network namespace's file: `clampd.db`, or `clampd-NAME.db` in a namespace other than the first.

    Named namespaces (`ip netns`) are told by name, others by inode: so several daemons may share a state directory.
    """
    name = _namespace_name()
    return state_dir / (f"clampd-{name}.db" if name else "clampd.db")


def _namespace_name() -> str:
    here = os.stat("/proc/self/ns/net")
    with contextlib.suppress(OSError):
        for place in NAMED_NAMESPACES.iterdir():
            if os.path.samestat(os.stat(place), here):
                return place.name
    with contextlib.suppress(OSError):
        if not os.path.samestat(os.stat("/proc/1/ns/net"), here):
            return str(here.st_ino)
    return ""  # the first namespace, or a container that may not look at process 1


def _connect(path: Path) -> sqlite3.Connection:
    if path.exists() and not path.is_file():
        raise sqlite3.DatabaseError("it is not a file")
    db = sqlite3.connect(path, timeout=5)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"it is of a later version ({version})")
        if version < _SCHEMA_VERSION:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT")
        _verify(db)
    except BaseException:
        db.close()
        raise
    return db


def _verify(db: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError for content that is not of our making."""
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        model.executescript(_SCHEMA)
        if not _tables(model) <= _tables(db):
            raise sqlite3.DatabaseError("its tables are not clampd's")
    for table in _TABLES:
        db.execute(f"SELECT * FROM {table}").fetchall()  # text that is not UTF-8 shows only here


def _tables(db: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"))


def _is_damage(error: Exception) -> bool:
    """Whether the content is at fault. (A UnicodeDecodeError is SQLite quoting damaged names in its message.)"""
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF not in _NOT_DAMAGE  # above the low byte: details


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
