"""What is to be done with which device and peer: the configuration, and what the operator said by clampctl."""

from __future__ import annotations

from dataclasses import dataclass

from mssclamp.config import Config
from mssclamp.daemon import clock
from mssclamp.datapath import pair
from mssclamp.datapath.links import Link
from mssclamp.pmtu.modes import EVERY_DEVICE, FOREVER, Mode, Modes
from mssclamp.pmtu.table import Peer


@dataclass
class Policy:
    """`detached`: devices that clampd is kept off, or EVERY_DEVICE."""

    config: Config
    modes: Modes
    detached: set[str]

    # devices

    def manages(self, link: Link) -> bool:
        """Whether clampd looks after this device."""
        return link.name != "lo" and not pair.is_ours(link.name) and self.config.manages(link.name, link.is_wireguard)

    def is_detached(self, device: str) -> bool:
        """Whether clampd is kept off it."""
        return EVERY_DEVICE in self.detached or device in self.detached

    def may_carry(self, device: str) -> bool:
        """Whether programs may be attached to it because it carries outer packets."""
        return not (self.config.excludes(device) or self.is_detached(device) or device == "lo")

    def writes_routes(self, device: str) -> bool:
        """Whether its peers' MTUs go into its routes."""
        entry = self.config.device_for(device)
        return entry is not None and entry.route_mtu

    def probes(self, device: str) -> bool:
        """Whether its peers' MTUs are found by probes."""
        entry = self.config.device_for(device)
        return entry is None or entry.probe

    def mode(self) -> Mode:
        """Of all devices about which nothing else is said."""
        return self.modes.chosen.get(EVERY_DEVICE) or self.config.mode

    def device_mode(self, device: str) -> Mode:
        """Of peers about which nothing else is said."""
        until = self.modes.enforce_until(device, self._configured_mode(device), None)
        return "enforce" if until == FOREVER or until > clock.boot_ns() else "observe"

    def _configured_mode(self, device: str) -> Mode:
        entry = self.config.device_for(device)
        return (entry.mode if entry is not None else None) or self.config.mode

    # peers

    def enforce_until(self, peer: Peer) -> int:
        """CLOCK_BOOTTIME ns; 0 or FOREVER."""
        device = peer.facts.device
        return self.modes.enforce_until(device, self._configured_mode(device), peer.facts.mode)

    def is_enforced(self, peer: Peer) -> bool:
        """Whether something is done for it just now."""
        return self.enforce_until(peer) > clock.boot_ns()

    def clamps(self, peer: Peer) -> bool:
        """Whether its SYNs are rewritten, where it is enforced."""
        entry = self.config.device_for(peer.facts.device)
        return entry is None or entry.clamp

    def may_answer(self, peer: Peer) -> bool:
        """Whether packets over its MTU may be answered at all."""
        entry = self.config.device_for(peer.facts.device)
        return entry is None or entry.too_big

    def answers(self, peer: Peer) -> bool:
        """Only values with evidence: what is known of nothing but the device is the kernel's to answer."""
        return self.may_answer(peer) and peer.value.has_evidence
