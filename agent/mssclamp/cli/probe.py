"""`clampctl probe`: a peer by the daemon; any other address from here, without it."""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import click

from mssclamp.cli.app import App, device_option, json_option, pass_app
from mssclamp.errors import ClampdError, ForbiddenError, NoDaemonError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mssclamp.control.client import Client
    from mssclamp.control.protocol import Peer, ProbeResult, ProbeRound

REACHABLE = "see that the peer is up, or name an address there that answers ping: probe_address in its [[peer]]"


@click.command(short_help="Measure a peer's MTU, or the path to an address, now.")
@click.argument("peer", metavar="PEER|ADDRESS")
@device_option
@json_option
@pass_app
def probe(app: App, *, peer: str, device: str | None, as_json: bool) -> None:
    """Has the daemon measure a peer's MTU now, shows the rounds as they end, and the result, which is then in force.

    Fails if nothing answers, or if the probes cannot prove anything. An address that belongs to a peer is that peer.

    For an address of no peer, or where no daemon runs: measures the largest packet that reaches it from here and comes
    back (ICMP echo that must not be fragmented), and changes nothing. Needs root or CAP_NET_RAW then.
    """
    address = _address(peer)
    client = app.client()
    with ExitStack() as search:
        try:
            document, told = search.enter_context(client.search(peer, device))
        except (NoDaemonError, NotFoundError, ForbiddenError):
            if address is None:
                raise
        else:
            _follow(app, client, document.peer, told, as_json)
            return
    from mssclamp.cli.measure import measure

    measure(app, address, device, as_json)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _follow(app: App, client: Client, begun: Peer, told: Iterator[ProbeRound | ProbeResult], as_json: bool) -> None:
    """Shows a search of the daemon to its end. Raises ClampdError unless it says what passes."""
    from mssclamp.cli import sentences, words
    from mssclamp.control.protocol import ProbeResult

    if not as_json:
        app.say(f"{begun.name}: searching; MTU {words.size(begun.mtu)} in force meanwhile")
    rounds: list[ProbeRound] = []
    result: ProbeResult | None = None
    for each in told:
        if isinstance(each, ProbeResult):
            result = each
        else:
            rounds.append(each)
            if not as_json:
                _show_round(app, each)
    assert result is not None, "a search that is told to its end has a result"
    found = client.peer(begun.id).peer
    if as_json:
        app.say_json(_document(client.wire, rounds, result))
    if result.verdict in ("away", "held"):
        fix = result.fix or (REACHABLE if result.verdict == "away" else f"`clampctl show {found.name}` tells more")
        raise ClampdError(f"{found.name}: {sentences.result(result)}", fix=fix)
    if not as_json:
        app.say(sentences.effort(result))
        app.say(f"{found.name}: {sentences.result(result)}")
        if found.mtu != result.mtu:
            app.say(f"{found.name}: in force all the same: {words.in_force(found)}")


def _show_round(app: App, each: ProbeRound) -> None:
    if not app.is_terminal:
        app.say(f"round {each.round}: {each.text}")
        return
    from mssclamp.cli import render

    answered, lost = [one.size for one in each.answered], [one.size for one in each.lost]
    app.show(render.probe_round(each.round, answered, lost))


def _document(peer_wire: bytes, rounds: list[ProbeRound], result: ProbeResult) -> bytes:
    """The peer as the daemon tells it, and how that was found."""
    import msgspec

    from mssclamp.control.protocol import SCHEMA

    peer = msgspec.json.decode(peer_wire)["peer"]
    return msgspec.json.encode({"schema": SCHEMA, "peer": peer, "rounds": rounds, "result": result})
