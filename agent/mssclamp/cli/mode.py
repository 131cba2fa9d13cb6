"""`clampctl enforce`, `observe` and `confirm`."""

from __future__ import annotations

from typing import Literal

import click

from mssclamp.cli.app import App, json_option, pass_app
from mssclamp.cli.duration import Duration


@click.command(short_help="Act: clamp on one device or all.")
@click.argument("device", required=False)
@click.option(
    "--for",
    "seconds",
    type=Duration(),
    metavar="TIME",
    help="On trial: fall back after 90s, 10m, 1h30m … unless `clampctl confirm` follows.",
)
@json_option
@pass_app
def enforce(app: App, *, device: str | None, seconds: float | None, as_json: bool) -> None:
    """Acts, on DEVICE or everywhere: new connections get an MSS that fits.

    With --for it falls back by itself, even if the daemon is gone by then: safe to try over the very connection
    that it may hurt.
    """
    _set_mode(app, "enforce", device, seconds, as_json)


@click.command(short_help="Only watch: change no packet.")
@click.argument("device", required=False)
@json_option
@pass_app
def observe(app: App, *, device: str | None, as_json: bool) -> None:
    """Only watches, on DEVICE or everywhere: counts what would be done and changes no packet."""
    _set_mode(app, "observe", device, None, as_json)


@click.command(short_help="Keep what is on trial.")
@json_option
@pass_app
def confirm(app: App, *, as_json: bool) -> None:
    """Makes every `enforce --for` that is under way permanent."""
    _set_mode(app, "confirm", None, None, as_json)


def _set_mode(
    app: App, mode: Literal["observe", "enforce", "confirm"], device: str | None, seconds: float | None, as_json: bool
) -> None:
    from mssclamp.control.protocol import ModeRequest

    client = app.client()
    done = client.set_mode(ModeRequest(mode=mode, device=device, seconds=seconds))
    app.say_done(done, client.wire, as_json=as_json)
