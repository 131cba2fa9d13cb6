"""Runs in a test machine: makes objects of tools.py there and calls their methods, as standard input asks.

A line each way, JSON. Asked are
    {"id": 1, "make": "Capture", "with": {"namespace": "host", "device": "lan"}}   -> a number for the object
    {"id": 2, "of": 7, "call": "sizes", "arguments": [], "with": {}}               -> what the method returned
    {"id": 3, "drop": 7}                                                           -> the object's `close` was called
and answered is {"id", "result"} or {"id", "error"}, in any order: every request has a thread of its own.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import traceback
from typing import Any

import tools


class Agent:
    """The objects that were made, and the one way out."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._numbers = itertools.count(1)
        self._output = threading.Lock()

    def serve(self) -> None:
        """Answer until standard input ends, then close what is still there."""
        for line in sys.stdin:
            threading.Thread(target=self._answer, args=(json.loads(line),), daemon=True).start()
        for left in list(self._objects.values()):
            left.close()

    def _answer(self, request: dict[str, Any]) -> None:
        answer = {"id": request["id"]}
        try:
            answer["result"] = self._do(request)
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
            if not isinstance(error, tools.LabError):
                answer["error"] += "\n" + traceback.format_exc()
        with self._output:
            print(json.dumps(answer), flush=True)

    def _do(self, request: dict[str, Any]) -> Any:
        if "make" in request:
            number = next(self._numbers)
            self._objects[number] = getattr(tools, request["make"])(**request["with"])
            return number
        if "drop" in request:
            return self._objects.pop(request["drop"]).close()
        return getattr(self._objects[request["of"]], request["call"])(*request["arguments"], **request["with"])


if __name__ == "__main__":
    Agent().serve()
