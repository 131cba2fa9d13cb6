"""Compiles and loads the programs in a process of its own, and hands their descriptors over.

bcc brings LLVM, which would cost a daemon 60 MB for good: so the compiler runs in a child that lives for a second.
This is the only module that imports bcc, and it does so in the child alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys

from mssclamp.datapath import abi, sources
from mssclamp.datapath.bpf import Map, Program
from mssclamp.datapath.instance import Instance
from mssclamp.errors import DatapathError

TIMEOUT = 300.0
"""Seconds for the child. It needs about one; a loaded small router may need many."""

_SOCKET_FD = "CLAMPD_LOADER_FD"


def load(max_peers: int) -> Instance:
    """Compiles bpf/, loads every program with empty maps of its own.

    Raises DatapathError with the compiler's or the verifier's last words.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        os.set_inheritable(theirs.fileno(), True)
        environment = os.environ | {
            _SOCKET_FD: str(theirs.fileno()),
            "BCC_KERNEL_SOURCE": str(sources.directory() / "shim"),
        }
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "mssclamp.datapath.loader", str(max_peers)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(theirs.fileno(),),
        )
        try:
            said, _ = child.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise DatapathError(f"compiling the BPF programs took over {TIMEOUT:.0f} s") from None
        theirs.close()
        if child.returncode:
            raise DatapathError(f"the BPF programs cannot be loaded: {_last_words(said)}")
        count = len(abi.PROGRAMS) + len(abi.MAPS)
        message, fds, _, _ = socket.recv_fds(ours, 4096, count)
    names = json.loads(message)
    if len(fds) != len(names):
        for fd in fds:
            os.close(fd)
        raise DatapathError("the loader's descriptors did not arrive", fix="raise the limit of open files")
    by_name = dict(zip(names, fds, strict=True))
    return Instance(
        programs={name: Program(by_name[name]) for name in abi.PROGRAMS},
        maps={name: Map(by_name[name]) for name in abi.MAPS},
    )


def _last_words(output: bytes) -> str:
    """The line of the child's output that says most."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    for line in lines:
        if "error:" in line or "No module named 'bcc'" in line:
            return line + ("; install python3-bpfcc" if "'bcc'" in line else "")
    return lines[-1] if lines else "the loader died without a word"


def main() -> None:
    """The child: compile, load, send, leave."""
    max_peers = int(sys.argv[1])
    out = socket.socket(fileno=int(os.environ[_SOCKET_FD]))

    from bcc import BPF

    directory = sources.directory()
    compiled = BPF(  # owns the descriptors until this process ends
        src_file=str(directory / "clampd.c"),
        cflags=[f"-I{directory}", f"-DCLAMPD_MAX_PEERS={max_peers}"],
    )
    programs = {name: Program(compiled.load_func(name, BPF.SCHED_CLS).fd) for name in abi.PROGRAMS}
    maps = {name: Map(compiled[name].map_fd) for name in abi.MAPS}
    maps["clampd_meta"].put(bytes(4), bytes(abi.Meta(abi.ABI, max_peers, tuple(sources.build_id()))))
    for program in programs.values():
        for held in maps.values():  # whichever stays attached keeps all of them
            program.bind_map(held)
    fds = {name: held.fd for name, held in (programs | maps).items()}
    with contextlib.closing(out):
        socket.send_fds(out, [json.dumps(list(fds)).encode()], list(fds.values()))


if __name__ == "__main__":
    main()
