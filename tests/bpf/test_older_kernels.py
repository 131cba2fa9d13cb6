"""What verifiers older than this kernel's refuse, as far as it can be seen in the bytecode.

Linux before 6.8 takes no loop whose way back is not a jump: `back-edge from insn 115 to 116`.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mssclamp.datapath import abi, sources
from support import require_bpf

pytestmark = pytest.mark.bpf

COMPILE = """
import sys
from bcc import BPF
directory, name = sys.argv[1:]
compiled = BPF(src_file=directory + "/clampd.c", cflags=["-I" + directory, "-DCLAMPD_MAX_PEERS=64"])
sys.stdout.buffer.write(compiled.dump_func(name))
"""

LONG_LOAD = 0x18
"""BPF_LD | BPF_DW | BPF_IMM takes two places."""

JUMPS = (5, 6)
EXIT, CALL, ALWAYS = 0x90, 0x80, 0x00


@pytest.mark.parametrize("name", abi.PROGRAMS)
def test_loops_go_back_by_jumps(name: str) -> None:
    require_bpf()
    directory = sources.directory()
    code = subprocess.run(
        [sys.executable, "-c", COMPILE, str(directory), name],
        capture_output=True,
        check=True,
        env=os.environ | {"BCC_KERNEL_SOURCE": str(directory / "shim")},
    ).stdout
    assert list(_back_edges_without_jump(code)) == []


def _back_edges_without_jump(code: bytes) -> Iterator[tuple[int, int]]:
    """Depth first, as the verifier's check_cfg."""
    instructions = [struct.unpack_from("<BBhi", code, at) for at in range(0, len(code), 8)]

    def ways(at: int) -> list[tuple[int, bool]]:
        """Where it goes on, and whether by a jump's instruction."""
        operation, _, offset, _ = instructions[at]
        if operation == LONG_LOAD:
            return [(at + 2, False)]
        if operation & 7 not in JUMPS or operation & 0xF0 == CALL:
            return [(at + 1, False)]
        if operation & 0xF0 == EXIT:
            return []
        taken = at + 1 + offset
        return [(taken, True)] if operation & 0xF0 == ALWAYS else [(at + 1, True), (taken, True)]

    under_way, done = {0}, set()
    stack = [(0, iter(ways(0)))]
    while stack:
        at, rest = stack[-1]
        for following, by_jump in rest:
            if following in under_way and not by_jump:
                yield at, following
            elif following not in under_way and following not in done:
                under_way.add(following)
                stack.append((following, iter(ways(following))))
                break
        else:
            under_way.discard(at)
            done.add(at)
            stack.pop()
