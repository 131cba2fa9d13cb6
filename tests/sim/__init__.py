"""A path with faults and a virtual clock, for what must be right whatever the network does. No sockets, no sleeping."""

from __future__ import annotations

from .drive import Outcome, drive
from .path import Path, Policer

__all__ = ["Outcome", "Path", "Policer", "drive"]
