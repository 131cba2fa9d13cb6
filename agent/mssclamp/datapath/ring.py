"""The ring buffer's reading end, through libbpf, in a thread of its own."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

from mssclamp.datapath.bpf import Map, libbpf

_PATIENCE_MS = 200
"""How long a wait lasts at most: then the reader looks whether it is to end."""

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class RingReader:
    """Hands every record of a ring buffer to `take`, which is called in the reader's thread."""

    def __init__(self, ring: Map, take: Callable[[bytes], object]) -> None:
        self._take = take
        self._callback = _Callback(self._on_record)  # held here: libbpf keeps a bare pointer to it
        new = libbpf().ring_buffer__new
        new.restype = ctypes.c_void_p
        self._ring = ctypes.c_void_p(new(ring.fd, self._callback, None, None))
        if not self._ring:
            raise OSError(ctypes.get_errno(), "ring_buffer__new")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read, name="ring", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and lets go of the buffer."""
        self._ending.set()
        self._thread.join()
        libbpf().ring_buffer__free(self._ring)

    def _read(self) -> None:
        while not self._ending.is_set():
            libbpf().ring_buffer__poll(self._ring, _PATIENCE_MS)

    def _on_record(self, _context: int, data: int, size: int) -> int:
        self._take(ctypes.string_at(data, size))
        return 0
