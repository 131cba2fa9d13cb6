"""A path that gets smaller under transfers, and says nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from .bpf import TcProgram, swallow_above
from .clampd import Clampd
from .command import LabError, wait_for
from .namespace import Namespace
from .upload import Upload

ETHERNET_HEADER = 14
PRIORITY = 5

HEAL_SECONDS = 5.0
"""A second is what is promised on a machine that has nothing else to do."""


@contextlib.contextmanager
def narrowed(namespace: Namespace, device: str, size: int) -> Iterator[None]:
    """While inside, IP packets of more than `size` bytes that come in by the device vanish without a word."""
    (shown,) = namespace.ip_json(f"link show dev {device}")
    link = ETHERNET_HEADER if shown["link_type"] == "ether" else 0
    with TcProgram(namespace, device, "ingress", swallow_above(size, link=link), priority=PRIORITY):
        try:
            yield
        finally:
            namespace.tc(f"filter del dev {device} ingress pref {PRIORITY}")


def hang(uploads: Sequence[Upload], seconds: float) -> None:
    """Until all have stalled, and then for so long that not one byte arrives; LabError if one does."""
    for upload in uploads:
        upload.wait_stalled()
    arrived = [upload.received for upload in uploads]
    time.sleep(seconds)
    if [upload.received for upload in uploads] != arrived:
        raise LabError(
            f"not all hang: {arrived} bytes had arrived, and {seconds:g} s later {[u.received for u in uploads]}"
        )


def heal(
    clampd: Clampd, peer: str, uploads: Sequence[Upload], namespace: Namespace, device: str, *, learned: int, size: int
) -> float:
    """Two ways in which uploads meet a lower MTU; LabError where one takes over HEAL_SECONDS.

    First the peer is pinned to `learned` while all are in full flight: super-packets are answered. Then the path
    shrinks to `size`, at least 40 bytes less, where it comes in at the device, until all hang, and the peer is pinned
    to that: the segments that TCP sends again are answered. Returns how long it took them to go on, seconds.
    """
    try:
        for upload in uploads:
            upload.goes_on()
        clampd.ctl("pin", peer, str(learned))
        _wait_for_path_mtu(uploads, learned)
        for upload in uploads:
            upload.goes_on()
        with narrowed(namespace, device, size):
            for upload in uploads:
                upload.wait_stalled()
            clampd.ctl("pin", peer, str(size))
            pinned = time.monotonic()
            for upload in uploads:
                upload.goes_on(timeout=max(0.0, pinned + HEAL_SECONDS - time.monotonic()))
            took = time.monotonic() - pinned
        _wait_for_path_mtu(uploads, size)
        return took
    finally:
        clampd.ctl("unpin", peer)


def _wait_for_path_mtu(uploads: Sequence[Upload], size: int) -> None:
    wait_for(
        lambda: {upload.path_mtu for upload in uploads} == {size},
        f"everybody to learn of {size} bytes",
        timeout=HEAL_SECONDS,
    )
