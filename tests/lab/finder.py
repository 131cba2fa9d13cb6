"""A clampd at one end of a chain that is told nothing, and what it finds out about the other end."""

from __future__ import annotations

import base64
from typing import Any

from .chain import Chain
from .clampd import Clampd
from .command import LabError, wait_for
from .lab import Lab

FOUND_SECONDS = 20.0
"""One or two are what is promised on a machine that has nothing else to do."""


class Finder:
    """The daemon, and the peer that the other end is to it."""

    def __init__(self, clampd: Clampd, device: str, key: str) -> None:
        self.clampd = clampd
        self._device = device
        self.name = self.name_of(key)

    def name_of(self, key: str) -> str:
        """The id of the peer with this public key, as `wg` writes it."""
        return f"{self._device}:{base64.urlsafe_b64encode(base64.b64decode(key)).decode().rstrip('=')}"

    @property
    def peer(self) -> dict[str, Any]:
        """The other end as `peers --json` shows it."""
        return self.clampd.peer(self.name)

    def listed(self) -> dict[str, dict[str, Any]]:
        """All peers as `peers --json` shows them, by id."""
        return {peer["id"]: peer for peer in self.clampd.ctl_json("peers")["peers"]}

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.peer["counters"])

    def wait(self, mtu: int, *, state: str = "confirmed", timeout: float = FOUND_SECONDS) -> dict[str, Any]:
        """The peer, when this MTU is in force and it is in this state; LabError with its evidence if it never is."""

        def reached() -> dict[str, Any] | None:
            peer = self.peer
            return peer if (peer["mtu"], peer["state"]) == (mtu, state) else None

        try:
            return wait_for(reached, f"{self.name} to be {state} with MTU {mtu}", timeout=timeout)
        except LabError as error:
            raise LabError(f"{error}\n{self.clampd.ctl('show', self.name).stdout}\n{self.clampd.output()}") from None


def finder(lab: Lab, chain: Chain, *, end: int = 0, mode: str = "enforce", mtu: str = "") -> Finder:
    """Start clampd at an end; `mtu` is what stands in [mtu] of its configuration."""
    near, far = chain.ends[end], chain.ends[1 - end]
    clampd = lab.clampd(near.gateway, f'mode = "{mode}"\n' + (f"[mtu]\n{mtu}\n" if mtu else ""))
    clampd.attached(near.tunnel.name)
    found = Finder(clampd, near.tunnel.name, far.tunnel.public_key)
    wait_for(lambda: found.name in found.listed(), "clampd to find the peer")
    return found
