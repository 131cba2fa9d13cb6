"""`clampctl probe`: by the daemon where it knows how; to any address from here, without it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import click

from mssclamp.cli.app import App, device_option, json_option, pass_app
from mssclamp.errors import ClampdError, ConflictError, ForbiddenError, NoDaemonError, NotFoundError, NotYetError

if TYPE_CHECKING:
    from mssclamp.pmtu.search import Round, Search
    from mssclamp.probe.echo import Hint

UNCHANGED = "nothing was changed"


@click.command(short_help="Measure a peer's MTU, or the path to an address, now.")
@click.argument("peer", metavar="PEER|ADDRESS")
@device_option
@json_option
@pass_app
def probe(app: App, *, peer: str, device: str | None, as_json: bool) -> None:
    """Measures a peer's MTU now.

    For an address of no peer, or where no daemon runs: measures the largest packet that reaches it from here and comes
    back (ICMP echo that must not be fragmented), and changes nothing. Needs root or CAP_NET_RAW then.
    """
    address = _address(peer)
    client = app.client()
    try:
        document = client.probe(peer, device)
    except (NoDaemonError, NotFoundError, ForbiddenError):
        if address is None:
            raise
    except ConflictError as error:
        if address is None or error.code != NotYetError.code:
            raise
    else:
        from mssclamp.cli.pin import tell

        tell(app, client, document, as_json)
        return
    _measure(app, address, device, as_json)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _measure(app: App, address: IPv4Address | IPv6Address, device: str | None, as_json: bool) -> None:
    from mssclamp.probe.echo import EchoProber

    if not as_json:
        app.say(f"{address}: measuring from here by echo; {UNCHANGED}")
    with EchoProber(address, device) as prober:
        search = prober.measure((lambda _: None) if as_json else (lambda each: _show_round(app, each)))
    if as_json:
        app.say_json(_document(address, search, prober.hints))
    else:
        _show_result(app, address, search, prober.hints)
    assert search.result is not None
    if search.result.mtu is None:
        why = search.result.text.removeprefix("nothing answered")
        raise ClampdError(
            f"{address} does not answer{why}: its path cannot be measured by echo",
            fix="try an address there that `ping` reaches",
        )


def _document(address: IPv4Address | IPv6Address, search: Search, hints: list[Hint]) -> bytes:
    import msgspec

    from mssclamp.control.protocol import SCHEMA

    result = search.result
    assert result is not None
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "address": str(address),
        "path_mtu": result.mtu,
        "exact": result.exact,
        "rounds": [
            {
                "round": each.number,
                "probes": each.probes,
                "answered": [{"size": size, "rtt": round(rtt, 6)} for size, rtt in sorted(each.answered.items())],
                "lost": [{"size": size, "times": times} for size, times in sorted(each.lost.items())],
            }
            for each in search.rounds
        ],
        "hints": [{"from": hint.sender, "mtu": hint.mtu, "text": hint.text} for hint in hints],
        "text": f"{result.text}; {UNCHANGED}",
    }
    return msgspec.json.encode(document)


def _show_round(app: App, each: Round) -> None:
    if not app.is_terminal:
        app.say(f"round {each.number}: {each.text}")
        return
    from rich.text import Text

    line = Text(f"round {each.number}:", "bold")
    for size in sorted({*each.answered, *each.lost}):
        line.append(f" {size}", "green" if size in each.answered else "red")
    app.show(line.append(f"  ({len(each.answered)} answered, {len(each.lost)} lost)", "dim"))


def _show_result(app: App, address: IPv4Address | IPv6Address, search: Search, hints: list[Hint]) -> None:
    for hint in hints:
        app.say(f"hint, not believed: {hint.text}")
    result = search.result
    if result is None or result.mtu is None:
        return
    least = "" if result.exact else "at least "
    app.say(f"{address}: path MTU {least}{result.mtu}, both ways: {result.text}")
