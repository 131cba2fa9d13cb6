"""`clampctl watch`."""

from __future__ import annotations

import os
import select
import stat
import threading

import click

from mssclamp.cli.app import App, json_option, pass_app


@click.command(short_help="Events as they come.")
@json_option
@pass_app
def watch(app: App, *, as_json: bool) -> None:
    """Events as they come, one in a line, until Ctrl-C. Ends with status 3 when the daemon goes away."""
    from mssclamp.cli import sentences

    client = app.client()
    _end_with_the_reader()
    try:
        for event in client.events():
            app.say(client.wire.decode() if as_json else f"{event.at}  {sentences.event(event)}")
    except KeyboardInterrupt:
        return


def _end_with_the_reader() -> None:
    """In a pipe: ends when nobody reads it any more. Between two events no write would tell us."""
    if not stat.S_ISFIFO(os.fstat(1).st_mode):
        return
    pipe = select.poll()
    pipe.register(1, 0)  # errors alone

    def wait() -> None:
        pipe.poll()
        os._exit(0)  # from this thread there is no other way out of a blocking read, and nothing to clean up

    threading.Thread(target=wait, daemon=True).start()
