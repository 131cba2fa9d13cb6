"""Real topologies for the tests that need root: namespaces, tunnels, captures, traffic, and clampd in them.

No test framework in here: everything is a context manager that a `Lab` enters and leaves in reverse order,
so that nothing outlives it, whatever happens in its body. What the kernel cannot do raises `Unsupported`.
"""

from __future__ import annotations

from .capture import Capture, Frame
from .clampd import Clampd, Refused, another_version, peer_table
from .command import LabError, Unsupported, run, wait_for
from .counters import checksum_errors
from .datagrams import Datagrams, TooBig
from .lab import Lab
from .namespace import Namespace
from .packet import Segment, build_syn, parse_segment
from .process import Process
from .shrinking import hang, heal, narrowed
from .traffic import Connection, SynSender, transfer
from .upload import Upload
from .wireguard import WireGuard

__all__ = [
    "Capture",
    "Clampd",
    "Connection",
    "Datagrams",
    "Frame",
    "Lab",
    "LabError",
    "Namespace",
    "Process",
    "Refused",
    "Segment",
    "SynSender",
    "TooBig",
    "Unsupported",
    "Upload",
    "WireGuard",
    "another_version",
    "build_syn",
    "checksum_errors",
    "hang",
    "heal",
    "narrowed",
    "parse_segment",
    "peer_table",
    "run",
    "transfer",
    "wait_for",
]
