"""bpf(2) through libbpf: maps, programs and their identities. No compiler in here.

Errors come out as OSError with the kernel's errno; callers give them a meaning.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Iterator
from typing import Self

from mssclamp.errors import DatapathError

MAP_TYPE_PERCPU_HASH = 5
MAP_TYPE_PERCPU_ARRAY = 6


class _MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info; the kernel fills as much as we ask for."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    )


class _ProgInfo(ctypes.Structure):
    """The head of struct bpf_prog_info."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
    )


class _TestRunOpts(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf 1.x."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


@functools.cache
def libbpf() -> ctypes.CDLL:
    """Debian's libbpf1. Raises DatapathError where it is missing."""
    try:
        return ctypes.CDLL("libbpf.so.1")
    except OSError as error:
        raise DatapathError(f"libbpf cannot be loaded: {error}", fix="install Debian's package libbpf1") from error


@functools.cache
def possible_cpus() -> int:
    """How many values a per-CPU map holds for each key."""
    count: int = libbpf().libbpf_num_possible_cpus()
    if count < 0:
        raise OSError(-count, os.strerror(-count))
    return count


def _checked(result: int) -> int:
    """libbpf answers 0 or an fd, else -errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class _Fd:
    """Owns one file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Give the descriptor back; the kernel's object lives on while something else holds it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Map(_Fd):
    """One BPF map. Keys and values are bytes as they lie in the kernel's memory."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        info = _MapInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        _checked(libbpf().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)))
        self.name: str = info.name.decode()
        self.id: int = info.id
        self.key_size: int = info.key_size
        self.value_size: int = info.value_size
        self.max_entries: int = info.max_entries
        self.per_cpu = info.type in (MAP_TYPE_PERCPU_HASH, MAP_TYPE_PERCPU_ARRAY)
        if self.per_cpu:  # one value for each possible CPU, each rounded up to 8 bytes
            self.value_size = (info.value_size + 7) // 8 * 8 * possible_cpus()

    @classmethod
    def by_id(cls, map_id: int) -> Self:
        """The map with this id, while it lives."""
        return cls(_checked(libbpf().bpf_map_get_fd_by_id(map_id)))

    def get(self, key: bytes) -> bytes | None:
        """The value under `key` (for per-CPU maps all of them in a row), or None."""
        value = ctypes.create_string_buffer(self.value_size)
        result = libbpf().bpf_map_lookup_elem(self.fd, key, value)
        if result == -errno.ENOENT:
            return None
        _checked(result)
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Sets `key`, atomically for whoever looks it up."""
        if len(key) != self.key_size or len(value) != self.value_size:
            raise ValueError(f"{self.name}: key {len(key)}, value {len(value)} bytes")
        _checked(libbpf().bpf_map_update_elem(self.fd, key, value, ctypes.c_uint64(0)))

    def delete(self, key: bytes) -> None:
        """Takes `key` out; nothing happens where it is not in."""
        result = libbpf().bpf_map_delete_elem(self.fd, key)
        if result != -errno.ENOENT:
            _checked(result)

    def __iter__(self) -> Iterator[bytes]:
        """All keys. Do not delete while iterating: collect first."""
        key: bytes | None = None
        following = ctypes.create_string_buffer(self.key_size)
        while True:
            result = libbpf().bpf_map_get_next_key(self.fd, key, following)
            if result == -errno.ENOENT:
                return
            _checked(result)
            key = following.raw
            yield key


class Program(_Fd):
    """One loaded BPF program."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        info = self._info()
        self.name: str = info.name.decode()
        self.id: int = info.id

    @classmethod
    def by_id(cls, program_id: int) -> Self:
        """The program with this id, while it lives."""
        return cls(_checked(libbpf().bpf_prog_get_fd_by_id(program_id)))

    def _info(self, map_ids: ctypes.Array[ctypes.c_uint32] | None = None) -> _ProgInfo:
        info = _ProgInfo()
        if map_ids is not None:
            info.nr_map_ids = len(map_ids)
            info.map_ids = ctypes.addressof(map_ids)
        size = ctypes.c_uint32(ctypes.sizeof(info))
        _checked(libbpf().bpf_obj_get_info_by_fd(self.fd, ctypes.byref(info), ctypes.byref(size)))
        return info

    def map_ids(self) -> list[int]:
        """The ids of the maps that the program uses."""
        ids = (ctypes.c_uint32 * self._info().nr_map_ids)()
        self._info(ids)
        return list(ids)

    def bind_map(self, held: Map) -> None:
        """Keeps a map alive for as long as the program, though its code never touches it."""
        _checked(libbpf().bpf_prog_bind_map(self.fd, held.fd, None))

    def test_run(self, data: bytes, *, repeat: int = 1, ctx: bytearray | None = None) -> tuple[int, bytes, int]:
        """Runs the program on a packet `repeat` times (BPF_PROG_TEST_RUN).

        `ctx` is the struct __sk_buff that the packet comes with (its mark, gso_size and the few other fields that the
        kernel takes); it is overwritten with what the program made of it. Returns the verdict (signed), the packet
        as it left, and the mean duration of a run in ns.
        """
        out = ctypes.create_string_buffer(len(data) + 256)
        opts = _TestRunOpts()
        opts.sz = ctypes.sizeof(opts)
        opts.data_in = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)
        opts.data_size_in = len(data)
        opts.data_out = ctypes.addressof(out)
        opts.data_size_out = len(out)
        opts.repeat = repeat
        if ctx is not None:
            opts.ctx_in = opts.ctx_out = ctypes.addressof(ctypes.c_char.from_buffer(ctx))
            opts.ctx_size_in = opts.ctx_size_out = len(ctx)
        _checked(libbpf().bpf_prog_test_run_opts(self.fd, ctypes.byref(opts)))
        return ctypes.c_int32(opts.retval).value, out.raw[: opts.data_size_out], opts.duration
