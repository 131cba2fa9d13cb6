"""The switch that makes unexpected skips failures (conftest.py), tried in a pytest of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest
import support

def test_needs_the_moon():
    support.require(False, "the moon")

@pytest.mark.skip(reason="not today")
def test_marked():
    pass

def test_has_all():
    support.require(True, "nothing")

@pytest.mark.xfail
def test_known_to_fail():
    assert False
"""

MODULE = """
import pytest
pytest.skip("not here", allow_module_level=True)
"""


@pytest.mark.parametrize(
    ("no_skip", "expected", "failures"),
    [
        ("", [], []),
        ("1", [], ["test_some.py::test_marked", "test_some.py::test_needs_the_moon", "test_whole.py"]),
        ("1", ["test_some.py::test_marked", "test_whole.py"], ["test_some.py::test_needs_the_moon"]),
        ("1", ["# a comment", "test_some.py", "test_whole.py"], []),
    ],
)
def test_skips(tmp_path: Path, no_skip: str, expected: list[str], failures: list[str]) -> None:
    here = Path(__file__).parent
    for name in ("conftest.py", "support.py"):
        shutil.copy(here / name, tmp_path)
    (tmp_path / "expected-skips").write_text("\n".join(expected))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_whole.py").write_text(MODULE)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "--continue-on-collection-errors"],
        cwd=tmp_path,
        env=os.environ | {"CLAMPD_TESTS_NO_SKIP": no_skip},
        capture_output=True,
        text=True,
        check=False,
    )
    words = [line.split() for line in result.stdout.splitlines()]
    failed = sorted(line[1] for line in words if line and line[0] in ("FAILED", "ERROR"))
    assert failed == failures, result.stdout
    assert result.returncode == (1 if failures else 0)
