"""`clampctl peers` and `clampctl show`."""

from __future__ import annotations

import click

from mssclamp.cli.app import App, device_option, json_option, pass_app

STATES = ("unprobed", "searching", "confirmed", "blackhole", "hinted", "pinned")


@click.command(short_help="All peers in a table.")
@click.option("--device", metavar="DEVICE", help="Only the peers behind this device.")
@click.option("--state", type=click.Choice(STATES), help="Only the peers in this state.")
@json_option
@pass_app
def peers(app: App, *, device: str | None, state: str | None, as_json: bool) -> None:
    """All peers in a table.

    \b
    mtu      the largest inner packet, in force
    path     the largest outer packet that was proven to reach the endpoint
    mss      what SYNs are clamped to, IPv4/IPv6
    checked  how long ago a probe last said so
    clamped  SYNs that were clamped; in observe mode: that would have been
    """
    client = app.client()
    document = client.peers(device, state)
    if as_json:
        app.say_json(client.wire)
        return
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    if not document.peers:
        app.say("no peers")
    elif app.is_terminal:
        from mssclamp.cli import render

        app.show(render.peers(document, now, app.width))
    else:
        from mssclamp.cli import words

        app.say(words.table(words.PEER_COLUMNS, [words.peer_row(peer, now) for peer in document.peers]))


@click.command(short_help="One peer, or who is behind an address.")
@click.argument("peer", metavar="PEER|ADDRESS")
@device_option
@click.option("--history", is_flag=True, help="All the evidence that is kept, not only the latest.")
@json_option
@pass_app
def show(app: App, *, peer: str, device: str | None, history: bool, as_json: bool) -> None:
    """One peer: the value in force and why, how exactly it is known, which way and since when; the evidence; what
    happened to its packets; what would help where nothing could be measured.

    For an address also the prefix that leads to it, and what its packets meet each way.
    """
    client = app.client()
    document = client.peer(peer, device)
    if as_json:
        app.say_json(client.wire)
        return
    from datetime import UTC, datetime

    from mssclamp.cli import render

    app.show(render.peer(document, datetime.now(UTC), history=history))
