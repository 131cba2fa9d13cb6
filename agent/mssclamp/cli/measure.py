"""A path measured from here: what `clampctl probe` does where no daemon can, changing nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mssclamp.errors import ClampdError
from mssclamp.probe import echo

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from mssclamp.cli.app import App
    from mssclamp.pmtu.search import Round, Search
    from mssclamp.probe.raw import Hint

UNCHANGED = "nothing was changed"


def measure(app: App, address: IPv4Address | IPv6Address, device: str | None, as_json: bool) -> None:
    """Searches by echo, shows the rounds and the result. Raises ClampdError where nothing answers."""
    if not as_json:
        app.say(f"{address}: measuring from here by echo; {UNCHANGED}")
    with echo.EchoProber(address, device) as prober:
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
    from mssclamp.cli import render

    app.show(render.probe_round(each.number, each.answered, each.lost))


def _show_result(app: App, address: IPv4Address | IPv6Address, search: Search, hints: list[Hint]) -> None:
    for hint in hints:
        app.say(f"hint, not believed: {hint.text}")
    result = search.result
    if result is None or result.mtu is None:
        return
    least = "" if result.exact else "at least "
    app.say(f"{address}: path MTU {least}{result.mtu}, both ways: {result.text}")
