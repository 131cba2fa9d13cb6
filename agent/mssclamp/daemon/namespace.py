"""One daemon in a network namespace."""

from __future__ import annotations

import contextlib
import socket
import struct

from mssclamp.errors import ConflictError

_NAME = "\0clampd"
"""An abstract address: there is one of it in each network namespace, and it goes with its owner, however that ends."""


def claim() -> socket.socket:
    """Makes this process the namespace's daemon for as long as the socket is open.

    Raises ConflictError naming the process that already is.
    """
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claimed.bind(_NAME)
    except OSError:
        claimed.close()
        raise ConflictError(
            f"another clampd ({_owner()}) already runs in this network namespace",
            fix="stop that one first; one daemon serves all devices of a namespace",
        ) from None
    claimed.listen(1)
    return claimed


def _owner() -> str:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        probe.connect(_NAME)
        pid, _, _ = struct.unpack("=iii", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"pid {pid}"
    return "pid unknown"
