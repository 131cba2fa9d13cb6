"""What arrives of an upload, window by window, and when it is enough again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .upload import Upload

WINDOW_SECONDS = 0.05
LASTING_WINDOWS = 10
SHARE = 0.8
"""Of the rate before that has to be back."""


@dataclass(frozen=True)
class Recovery:
    """`seconds` until the rate was back for good, None if it never was; bytes in each window of `WINDOW_SECONDS`."""

    seconds: float | None
    windows: list[int]


def rate_of(upload: Upload, seconds: float) -> float:
    """Bytes a second that arrive now."""
    before = upload.received
    time.sleep(seconds)
    return (upload.received - before) / seconds


def watch(upload: Upload, began: float, rate: float, *, limit: float) -> Recovery:
    """Watch from `began` (monotonic seconds) on, until a window holds enough, and those after it do together: a short
    burst is no recovery. At most `limit` seconds; LabError if the connection breaks."""
    enough = SHARE * rate * WINDOW_SECONDS
    edges = [upload.received]
    windows: list[int] = []
    for number in range(1, int(limit / WINDOW_SECONDS) + 1):
        time.sleep(max(0.0, began + number * WINDOW_SECONDS - time.monotonic()))
        upload.check()
        edges.append(upload.received)
        windows.append(edges[-1] - edges[-2])
        lasting = windows[-LASTING_WINDOWS:]
        if lasting[0] >= enough and sum(lasting) >= LASTING_WINDOWS * enough:
            return Recovery(round((number - LASTING_WINDOWS + 1) * WINDOW_SECONDS, 2), windows)
    return Recovery(None, windows)
