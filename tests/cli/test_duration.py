"""Lengths of time as people type them."""

from __future__ import annotations

import click
import pytest

from mssclamp.cli.duration import Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2h", 7200), ("1h1m1s", 3661), ("1h5s", 3605), ("007m", 420)],
)
def test_good(text, seconds):
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "10", "m", "0s", "0h0m", "-5m", "1.5h", "10 m", "10min", "30m1h", "1m1m", "1M", "inf", "٣m", "9999999s"],
)
def test_bad(text):
    with pytest.raises(click.BadParameter, match="write it like 90s, 10m or 1h30m"):
        Duration().convert(text, None, None)
