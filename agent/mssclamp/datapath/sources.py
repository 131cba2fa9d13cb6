"""Where the programs' C sources are, and which build they are."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from mssclamp.errors import DatapathError

_PACKAGE = Path(__file__).resolve().parent.parent


@functools.cache
def directory() -> Path:
    """The folder with clampd.c: CLAMPD_BPF_DIR, else the wheel's, else the source tree's."""
    named = os.environ.get("CLAMPD_BPF_DIR")
    places = [Path(named)] if named else [_PACKAGE / "bpf", _PACKAGE.parent.parent / "bpf"]
    for place in places:
        if (place / "clampd.c").is_file():
            return place
    raise DatapathError(f"the BPF sources are not in {' or '.join(map(str, places))}", fix="install the package again")


def build_id() -> bytes:
    """SHA-256 (32 bytes) over every source file: what tells one version of the programs from another."""
    digest = hashlib.sha256()
    root = directory()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".c", ".h"):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode() + content)
    return digest.digest()
