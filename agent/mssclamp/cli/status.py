"""`clampctl status`."""

from __future__ import annotations

import click

from mssclamp.cli.app import App, json_option, pass_app


@click.command(short_help="The daemon in one screen.")
@json_option
@pass_app
def status(app: App, *, as_json: bool) -> None:
    """The daemon in one screen: mode, devices, programs on them, peers by state, packets by reason, problems."""
    client = app.client()
    document = client.status()
    if as_json:
        app.say_json(client.wire)
        return
    from mssclamp.cli import render

    app.show(render.status(document))
