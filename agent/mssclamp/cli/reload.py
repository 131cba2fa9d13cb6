"""`clampctl reload`."""

from __future__ import annotations

import click

from mssclamp.cli.app import App, json_option, pass_app


@click.command(short_help="Read the configuration again.")
@json_option
@pass_app
def reload(app: App, *, as_json: bool) -> None:
    """Has the daemon read its configuration again. If there is a mistake in it everything stays as it was."""
    client = app.client()
    done = client.reload()
    app.say_done(done, client.wire, as_json=as_json)
