"""Classic BPF filters of raw sockets: what is not ours is left in the kernel, whatever the machine's own traffic is."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from mssclamp.wire.mtu import IpVersion

_SO_ATTACH_FILTER = 26

_INSTRUCTION = struct.Struct("=HBBI")
# code | jump if true | jump if false | k

# linux/bpf_common.h, linux/filter.h
_X_IS_IPV4_HEADER, _X_IS = 0xB1, 0x01
_LOAD = {1: 0x50, 2: 0x48}
_AND, _JUMP_IF_EQUAL, _RETURN = 0x54, 0x15, 0x06
_EVERYTHING = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Field:
    """`size` bytes (1 or 2) at `offset` of the transport header, of which the bits in `mask` must be `value`."""

    size: int
    offset: int
    mask: int
    value: int


def attach(to: socket.socket, version: IpVersion, fields: Iterable[Field]) -> None:
    """Lets only packets in that match all fields. Raw sockets of IPv4 see the IP header, those of IPv6 do not."""
    code = [(_X_IS_IPV4_HEADER if version == 4 else _X_IS, 0, 0, 0)]
    for field in fields:
        code += [
            (_LOAD[field.size], 0, 0, field.offset),
            (_AND, 0, 0, field.mask),
            (_JUMP_IF_EQUAL, 1, 0, field.value),
            (_RETURN, 0, 0, 0),
        ]
    code.append((_RETURN, 0, 0, _EVERYTHING))
    program = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*each) for each in code))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(code), ctypes.addressof(program)))
