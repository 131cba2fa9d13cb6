"""`clampctl attach` and `detach`: these two work without the daemon as well."""

from __future__ import annotations

import click

from mssclamp.cli.app import App, json_option, pass_app


@click.command(short_help="Put clampd's programs back on.")
@click.argument("device", required=False)
@json_option
@pass_app
def attach(app: App, *, device: str | None, as_json: bool) -> None:
    """Lets clampd back on DEVICE, or on everything, after a `detach`.

    Without the daemon it only takes the mark away that `detach` left: the daemon attaches when it starts.
    """
    client = app.client()
    if client.is_running():
        done = client.attach(device)
        app.say_done(done, client.wire, as_json=as_json)
        return
    from mssclamp.cli import offline

    done = offline.attach(app, device)
    app.say_done(done, offline.wire(done), as_json=as_json)


@click.command(short_help="Take clampd's programs off, and keep them off.")
@click.argument("device", required=False)
@json_option
@pass_app
def detach(app: App, *, device: str | None, as_json: bool) -> None:
    """Takes every trace of clampd off DEVICE, or off everything, and keeps it off until `attach`.

    Works without the daemon too (as root), and holds over restarts.
    """
    client = app.client()
    if client.is_running():
        done = client.detach(device)
        app.say_done(done, client.wire, as_json=as_json)
        return
    from mssclamp.cli import offline

    done = offline.detach(app, device)
    app.say_done(done, offline.wire(done), as_json=as_json)
