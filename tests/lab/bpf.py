"""As much of bpf(2) as the topologies need: small tc programs of our own, and which objects still live."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from types import TracebackType

from pyroute2 import IPRoute

from .command import LabError, Unsupported
from .namespace import Namespace

PROG_LOAD = 5
PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID = 13, 14
OBJ_GET_INFO_BY_FD = 15
PROG_TYPE_SCHED_CLS = 3
ATTR_BYTES = 128
INFO_BYTES = 256

SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_libc = ctypes.CDLL(None, use_errno=True)

TC_ACT_UNSPEC, TC_ACT_OK, TC_ACT_SHOT = -1, 0, 2
SKB_LEN, SKB_GSO_SIZE = 0, 176  # offsets in struct __sk_buff
ETH_P_8021Q_ON_WIRE = 0x0081
SKB_VLAN_PUSH, SKB_VLAN_POP = 18, 19
PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}


def _instruction(code: int, register: int = 0, immediate: int = 0, *, source: int = 0, offset: int = 0) -> bytes:
    # struct bpf_insn: u8 code; u8 destination:4, source:4; s16 offset; s32 immediate
    return struct.pack("=BBhi", code, source << 4 | register, offset, immediate)


def _move(register: int, value: int) -> bytes:
    return _instruction(0xB7, register, immediate=value)


def _call(helper: int) -> bytes:
    return _instruction(0x85, immediate=helper)


_EXIT = _instruction(0x95)
END = _move(0, TC_ACT_UNSPEC) + _EXIT

NOTHING = END
"""A program that has nothing to say: somebody else's filter."""

POP_VLAN = _call(SKB_VLAN_POP) + END
"""Takes the VLAN tag off, if there is one."""


def push_vlan(number: int) -> bytes:
    """A program that puts a tag on; as with 802.1Q devices, it goes into the packet's metadata."""
    return _move(2, ETH_P_8021Q_ON_WIRE) + _move(3, number) + _call(SKB_VLAN_PUSH) + END


def ends(action: int) -> bytes:
    """A program that ends the hook with this action, whatever comes: later filters never run."""
    return _move(0, action) + _EXIT


def swallow_above(size: int, *, link: int) -> bytes:
    """A program that drops what is an IP packet of more than `size` bytes on the wire, behind a link header of `link`
    bytes, and tells nobody.

    A GSO super-packet counts as its segments, which are taken to have no more than 40 bytes of headers.
    """
    return (
        _instruction(0x61, 2, source=1, offset=SKB_GSO_SIZE)
        + _instruction(0x15, 2, 0, offset=2)  # no super-packet: past the next two
        + _instruction(0x07, 2, 40 + link)
        + _instruction(0x05, offset=1)
        + _instruction(0x61, 2, source=1, offset=SKB_LEN)
        + _instruction(0x25, 2, size + link, offset=2)  # larger: past END
        + END
        + ends(TC_ACT_SHOT)
    )


class TcProgram:
    """A program of ours on one tc hook of a device, with the clsact qdisc made if it is missing.

    It stays until the device goes; leaving only closes the descriptor.
    """

    def __init__(self, namespace: Namespace, device: str, hook: str, code: bytes, *, priority: int) -> None:
        self._namespace = namespace
        self._device = device
        self._parent = PARENTS[hook]
        self._code = code
        self._priority = priority

    def __enter__(self) -> TcProgram:
        self._fd = _load(self._code)
        with self._namespace.entered(), IPRoute() as netlink:
            (index,) = netlink.link_lookup(ifname=self._device)
            kinds = [qdisc.get_attr("TCA_KIND") for qdisc in netlink.get_qdiscs(index=index)]
            if "clsact" not in kinds:
                netlink.tc("add", "clsact", index)
            netlink.tc(
                "add-filter", "bpf", index, parent=self._parent, prio=self._priority, handle=7, fd=self._fd,
                name="foreign", direct_action=True,
            )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


def program_lives(number: int) -> bool:
    """Whether the program with this id is still in the kernel."""
    return _lives(PROG_GET_FD_BY_ID, number)


def map_lives(number: int) -> bool:
    """Whether the map with this id is still in the kernel."""
    return _lives(MAP_GET_FD_BY_ID, number)


def maps_of(program: int) -> list[int]:
    """The ids of the maps that a program holds."""
    fd = _bpf(PROG_GET_FD_BY_ID, struct.pack("=I", program))
    try:
        ids = (ctypes.c_uint32 * 64)()
        info = ctypes.create_string_buffer(INFO_BYTES)
        # struct bpf_prog_info: nr_map_ids at 52, map_ids (a pointer) at 56
        struct.pack_into("=IQ", info, 52, len(ids), ctypes.addressof(ids))
        _bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
        (count,) = struct.unpack_from("=I", info, 52)
        return list(ids[:count])
    finally:
        os.close(fd)


def _load(code: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    addresses = ctypes.addressof(instructions), ctypes.addressof(licence)
    # union bpf_attr: u32 prog_type, insn_cnt; u64 insns, license
    return _bpf(PROG_LOAD, struct.pack("=IIQQ", PROG_TYPE_SCHED_CLS, len(code) // 8, *addresses))


def _lives(command: int, number: int) -> bool:
    try:
        os.close(_bpf(command, struct.pack("=I", number)))
    except LabError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise
    return True


def _bpf(command: int, attributes: bytes) -> int:
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise Unsupported(f"the number of bpf(2) on {platform.machine()} is not known here")
    attr = ctypes.create_string_buffer(attributes, ATTR_BYTES)
    result: int = _libc.syscall(number, command, attr, ATTR_BYTES)
    if result < 0:
        code = ctypes.get_errno()
        if code == errno.ENOENT:
            raise LabError(f"bpf command {command}: no such object") from FileNotFoundError(code)
        raise LabError(f"bpf command {command}: {os.strerror(code)}")
    return result
