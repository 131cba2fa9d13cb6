"""Lengths of time as people type them."""

from __future__ import annotations

import re

import click

_FORM = re.compile(r"(?=.)(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)


class Duration(click.ParamType[float]):
    """Hours, minutes and seconds: 90s, 10m, 1h30m. The value is in seconds."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails with a usage error that says the form."""
        if not isinstance(value, str):
            return value
        match = _FORM.fullmatch(value)
        hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
        total = hours * 3600 + minutes * 60 + seconds
        if not total:
            self.fail(f"{value!r} is not a length of time: write it like 90s, 10m or 1h30m", param, ctx)
        return float(total)
