"""The contract between programs and agent: bpf/abi.h, as the compiler sees it, against its mirror in Python.

A generated program writes every size, offset and number that the mirror claims into a map; so what is compared is
what the kernel runs, not what somebody read in the header.
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import pytest

from mssclamp.datapath import abi, instance, sources
from mssclamp.datapath.bpf import Map, Program
from mssclamp.wire import clamp
from support import require_bpf

pytestmark = pytest.mark.bpf

STRUCTS: dict[str, type[ctypes.Structure]] = {
    name: each
    for name, each in vars(abi).items()
    if isinstance(each, type) and issubclass(each, ctypes.Structure) and each is not ctypes.Structure
}
ENUMS: dict[str, type[IntEnum]] = {"REASON": abi.Reason, "EVENT": abi.EventKind}
NUMBERS = {f"CLAMPD_{name}": value for name, value in vars(abi).items() if isinstance(value, int) and name.isupper()}

KERNEL_ONLY = {"window", "burst", "stall", "clock"}
"""Structs that the agent never reads or writes."""


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def in_c(name: str) -> str:
    return f"struct clampd_{snake(name)}"


def claims() -> dict[str, int]:
    """C expressions, and what the mirror says that they are."""
    said: dict[str, int] = dict(NUMBERS)
    said["CLAMPD_SEEN"] = instance._SEEN_PLACES
    for name, mirror in STRUCTS.items():
        said[f"sizeof({in_c(name)})"] = ctypes.sizeof(mirror)
        for field, *_ in mirror._fields_:
            place = getattr(mirror, field)
            said[f"offsetof({in_c(name)}, {field})"] = place.offset
            said[f"sizeof((({in_c(name)} *)0)->{field})"] = place.size
    for prefix, enum in ENUMS.items():
        said |= {f"{prefix}_{member.name}": member.value for member in enum}
        said[f"{prefix}_COUNT"] = len(enum)
    return said


def program(expressions: list[str]) -> str:
    lines = "\n".join(f"    fact({index}, {text});" for index, text in enumerate(expressions))
    return f"""
#include "abi.h"
#undef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
BPF_ARRAY(facts, u64, {len(expressions)});
static inline __attribute__((always_inline)) void fact(u32 index, u64 value)
{{
    facts.update(&index, &value);
}}
int tell(struct __sk_buff *skb)
{{
{lines}
    return 0;
}}
"""


@pytest.fixture(scope="module")
def compiled() -> Iterator[dict[str, int]]:
    """The same expressions, and what they are in the kernel."""
    require_bpf()
    from bcc import BPF

    expressions = list(claims())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BCC_KERNEL_SOURCE", str(sources.directory() / "shim"))
        built = BPF(text=program(expressions).encode(), cflags=[f"-I{sources.directory()}"])
        verdict, _, _ = Program(built.load_func(b"tell", BPF.SCHED_CLS).fd).test_run(bytes(64))
    assert verdict == 0
    facts = Map(built[b"facts"].map_fd)
    values = [facts.get(struct.pack("=I", index)) or b"" for index in range(len(expressions))]
    yield {text: int.from_bytes(value, sys.byteorder) for text, value in zip(expressions, values, strict=True)}
    built.cleanup()


def test_sizes_offsets_and_numbers(compiled: dict[str, int]) -> None:
    assert compiled == claims()


@pytest.mark.parametrize("mirror", STRUCTS.values(), ids=STRUCTS)
def test_padding_is_explicit(mirror: type[ctypes.Structure]) -> None:
    """No field of the header can hide where the mirror has none."""
    end = 0
    for field, *_ in mirror._fields_:
        place = getattr(mirror, field)
        assert place.offset == end
        end += place.size
    assert ctypes.sizeof(mirror) == end


def header() -> str:
    return Path(sources.directory() / "abi.h").read_text()


def test_every_struct_of_the_header_has_its_mirror() -> None:
    declared = set(re.findall(r"^struct clampd_(\w+) \{", header(), re.MULTILINE))
    assert set(map(snake, STRUCTS)) == declared - KERNEL_ONLY


def test_every_enum_of_the_header_has_its_mirror() -> None:
    assert len(re.findall(r"^enum clampd_\w+ \{", header(), re.MULTILINE)) == len(ENUMS)


def test_the_model_has_the_same_reasons() -> None:
    assert {each.name: each.value for each in clamp.Reason} == {each.name: each.value for each in abi.Reason}
    assert [each.value for each in abi.Reason] == list(range(len(abi.Reason)))


def test_maps_and_programs_are_called_so_in_the_sources() -> None:
    source = (sources.directory() / "clampd.c").read_text()
    assert set(re.findall(r"^BPF_\w+\((\w+)", source, re.MULTILINE)) == set(abi.MAPS)
    assert set(re.findall(r"^int (clampd_\w+)\(struct __sk_buff", source, re.MULTILINE)) == set(abi.PROGRAMS)
    assert all(len(name) < 16 for name in (*abi.MAPS, *abi.PROGRAMS))  # BPF_OBJ_NAME_LEN, with its final zero
