"""The event log: order, memory, and watchers in another thread's loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable

from mssclamp.daemon.events import KEPT, EventLog

BEGAN = 1_000.5
FIRST = 1_000_500  # in ms


def watched(scenario: Callable[[EventLog], Awaitable[object]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(5):
            await scenario(EventLog(BEGAN))

    asyncio.run(main())


def add(log: EventLog, *peers: str) -> None:
    for peer in peers:
        log.add("2026-01-31T12:00:00Z", "peer-added", peer, {"mtu": 1400})


async def next_peer(lines: AsyncGenerator[bytes, None]) -> str:
    return json.loads(await anext(lines))["peer"]


def test_an_event_is_one_flat_line() -> None:
    async def scenario(log: EventLog) -> None:
        add(log, "branch-7")
        lines = log.lines(0)
        line = await anext(lines)
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        assert json.loads(line) == {
            "schema": 1,
            "seq": FIRST + 1,
            "at": "2026-01-31T12:00:00Z",
            "event": "peer-added",
            "peer": "branch-7",
            "mtu": 1400,
        }
        await lines.aclose()

    watched(scenario)


def test_numbers_grow_by_one() -> None:
    async def scenario(log: EventLog) -> None:
        add(log, "a", "b", "c")
        lines = log.lines(0)
        assert [json.loads(await anext(lines))["seq"] for _ in range(3)] == [FIRST + 1, FIRST + 2, FIRST + 3]
        await lines.aclose()

    watched(scenario)


def test_since_is_exclusive() -> None:
    async def scenario(log: EventLog) -> None:
        add(log, "a", "b", "c")
        lines = log.lines(FIRST + 2)
        assert await next_peer(lines) == "c"
        await lines.aclose()

    watched(scenario)


def test_without_since_from_now_on() -> None:
    async def scenario(log: EventLog) -> None:
        add(log, "a")
        lines = log.lines(None)
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        assert not waiting.done()
        add(log, "b")
        assert json.loads(await waiting)["peer"] == "b"
        await lines.aclose()

    watched(scenario)


def test_everybody_is_told_everything_in_order() -> None:
    async def scenario(log: EventLog) -> None:
        watchers = [log.lines(0), log.lines(None), log.lines(0)]
        waiting = [asyncio.ensure_future(anext(lines)) for lines in watchers]
        await asyncio.sleep(0)
        add(log, "a", "b")
        assert {json.loads(await first)["peer"] for first in waiting} == {"a"}
        add(log, "c")  # while they hold a line
        for lines in watchers:
            assert [await next_peer(lines), await next_peer(lines)] == ["b", "c"]
            await lines.aclose()

    watched(scenario)


def test_the_oldest_are_forgotten() -> None:
    async def scenario(log: EventLog) -> None:
        add(log, *map(str, range(KEPT + 10)))
        lines = log.lines(0)
        assert await next_peer(lines) == "10"
        await lines.aclose()

    watched(scenario)


def test_a_watcher_that_falls_behind_misses_the_oldest_and_goes_on() -> None:
    async def scenario(log: EventLog) -> None:
        add(log, "first")
        lines = log.lines(0)
        assert await next_peer(lines) == "first"
        add(log, *map(str, range(KEPT + 10)))
        assert await next_peer(lines) == "10"
        await lines.aclose()

    watched(scenario)


def test_a_watcher_that_left_is_woken_no_more() -> None:
    log = EventLog(BEGAN)

    async def leave() -> None:
        lines = log.lines(None)
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await lines.aclose()

    asyncio.run(leave())
    add(log, "after its loop has ended")


def test_the_writer_may_be_another_thread() -> None:
    async def scenario(log: EventLog) -> None:
        lines = log.lines(0)
        writing = asyncio.create_task(asyncio.to_thread(add, log, *map(str, range(500))))
        assert [await next_peer(lines) for _ in range(500)] == [str(number) for number in range(500)]
        await writing
        await lines.aclose()

    watched(scenario)
