"""`clampctl pin`, `unpin` and `forget`: what is done to one peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mssclamp.cli.app import App, device_option, json_option, pass_app

if TYPE_CHECKING:
    from mssclamp.control.client import Client
    from mssclamp.control.protocol import Peer, PeerDocument


@click.command(short_help="Fix a peer's MTU.")
@click.argument("peer")
@click.argument("mtu", type=click.IntRange(576, 65535))
@device_option
@json_option
@pass_app
def pin(app: App, *, peer: str, mtu: int, device: str | None, as_json: bool) -> None:
    """Fixes a peer's MTU: the largest inner packet in bytes, IP header included. Kept over restarts."""
    client = app.client()
    _tell(app, client, client.pin(peer, mtu, device), as_json)


@click.command(short_help="Give up a pin.")
@click.argument("peer")
@device_option
@json_option
@pass_app
def unpin(app: App, *, peer: str, device: str | None, as_json: bool) -> None:
    """Gives up what `pin` fixed: the peer returns to what is known without it."""
    client = app.client()
    _tell(app, client, client.unpin(peer, device), as_json)


@click.command(short_help="Drop what was learned of a peer, and search again.")
@click.argument("peer")
@device_option
@json_option
@pass_app
def forget(app: App, *, peer: str, device: str | None, as_json: bool) -> None:
    """Drops what was learned of a peer, and searches again. A pin stays."""
    client = app.client()
    if as_json:
        client.forget(peer, device)
        app.say_json(client.wire)
        return
    from mssclamp.cli import words

    before = client.peer(peer, device).peer
    after = client.forget(peer, device).peer
    app.say(f"{before.name}: {_dropped(before)}")
    app.say(f"{after.name}: in force now: {words.in_force(after)}")


def _dropped(before: Peer) -> str:
    from mssclamp.cli import words

    if before.floor is not None or before.ceiling is not None:
        return f"dropped: {words.bounds(before)}"
    if before.source in ("icmp", "kernel"):
        return f"dropped: MTU {words.size(before.mtu)} ({before.why})"
    return "nothing had been learned"


def _tell(app: App, client: Client, document: PeerDocument, as_json: bool) -> None:
    """The peer as it is now."""
    if as_json:
        app.say_json(client.wire)
        return
    from mssclamp.cli import words

    app.say(f"{document.peer.name}: {words.in_force(document.peer)}")
