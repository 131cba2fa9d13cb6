"""Loads clampd's programs on this kernel and measures them, with the installed package and tests/bench/programs.py.

Prints one JSON object: kernel, load (seconds to compile and load), programs (size, instructions that the verifier went
through, whether compiled), costs and empty (ns).
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from dataclasses import asdict

import programs

from mssclamp.datapath import loader
from mssclamp.datapath.bpf import Program, libbpf

# What is measured here is compared with itself: a tenth of the runs of `make bench` is enough.
programs.ROUNDS, programs.REPEAT, programs.SINGLE_RUNS = 5, 5_000, 200
programs.PREFIXES = (1, 1_000)

# struct bpf_prog_info: jited_prog_len at 16, xlated_prog_len at 20, verified_insns at 216
JITED, XLATED, VERIFIED, INFO_BYTES = 16, 20, 216, 232


def main() -> None:
    """Print the figures."""
    began = time.monotonic()
    instance = loader.load(64)
    took = time.monotonic() - began
    sizes = {name: _sizes(program) for name, program in instance.programs.items()}
    instance.close()
    costs = [asdict(cost) for cost in programs.measure()]
    empty = programs._empty_program().test_run(bytes(1000), repeat=programs.REPEAT)[2]
    print(
        json.dumps(
            {"kernel": os.uname().release, "load": round(took, 1), "programs": sizes, "costs": costs, "empty": empty}
        )
    )


def _sizes(program: Program) -> dict[str, int]:
    info = (ctypes.c_uint8 * INFO_BYTES)()
    length = ctypes.c_uint32(INFO_BYTES)
    assert libbpf().bpf_obj_get_info_by_fd(program.fd, info, ctypes.byref(length)) == 0

    def at(offset: int) -> int:
        return int.from_bytes(bytes(info[offset : offset + 4]), "little")

    return {"jited": at(JITED), "instructions": at(XLATED) // 8, "verified": at(VERIFIED)}


if __name__ == "__main__":
    main()
