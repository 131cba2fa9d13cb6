"""The configuration: what an operator may write, and what it means.

TOML from one file and from `clampd.d/*.toml` beside it. Sizes are bytes, times seconds. Everything that is wrong is
told in one line: file, line, key, what is wrong; what would be right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mssclamp.config_values import (
    AbsolutePath,
    Address,
    DeviceName,
    DevicePattern,
    Endpoint,
    ListenAddress,
    PeerName,
    Prefix,
    PublicKey,
    quoted,
)
from mssclamp.control.protocol import Mode
from mssclamp.errors import ConfigError
from mssclamp.toml_lines import KeyPath
from mssclamp.toml_struct import TomlFile, convert, misfits, read

DEFAULT_PATH = Path("/etc/clampd/clampd.toml")
DROP_IN_DIR = "clampd.d"

_NOT_YET_TABLES = {
    "metrics_listen": "this version does not serve metrics over TCP yet",
    "tunnel": "this version does not run tunnels yet",
    "guard": "this version has no guard at XDP yet",
}

# Each description is what follows the word "write" in an error.
Switch = Annotated[bool, Meta(description="true or false")]
Size = Annotated[int, Meta(ge=576, le=65535, description="a whole number of bytes from 576 to 65535")]
Overhead = Annotated[int, Meta(ge=0, le=500, description="a whole number of bytes from 0 to 500")]
Seconds = Annotated[float, Meta(ge=1, le=86400, description="a number of seconds from 1 to 86400")]
Rate = Annotated[int, Meta(ge=0, le=1_000_000, description="a whole number from 0 to 1000000")]
ModeName = Annotated[Mode, Meta(description='"observe" or "enforce"')]


class MtuConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[mtu]: how MTUs are found and kept true."""

    min_outer: Size = 1280
    """Outer size that hints never lower below; proof may."""
    recheck: Seconds = 30
    """Seconds between checks of the size in force, of peers with large packets."""
    raise_: Seconds = msgspec.field(default=600, name="raise")
    """Seconds between looks upwards."""


class RateConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[rate]: what clampd may send, each second."""

    probes: Rate = 200
    """Probes, all peers together."""
    too_big_per_flow: Rate = 10
    """ICMP answers to the packets of one flow."""
    too_big_per_sender: Rate = 100
    """ICMP answers to one address."""
    too_big_per_peer: Rate = 1000
    """ICMP answers to packets towards one peer."""


class UnderlayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[underlay]: what may be done on devices that carry outer packets."""

    attach: Switch = True
    """Whether programs may be attached there."""
    take_icmp: Switch = True
    """In enforce mode: too-big messages about our tunnels are ours, the stack does not get them."""


class DeviceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[device]]: how to treat a device, or every device that a pattern fits."""

    name: DevicePattern
    """A name, or a pattern as in a shell."""
    mode: ModeName | None = None
    """None: the global mode."""
    clamp: Switch = True
    """Lower the MSS of SYNs."""
    too_big: Switch = True
    """Answer oversize packets with ICMP."""
    probe: Switch = True
    """Find out MTUs by probes."""
    route_mtu: Switch = False
    """Also write each peer's MTU into this device's routes inside the peer's prefixes."""


class PeerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[peer]]: names a WireGuard peer by its key, or declares a peer of any other device by its prefixes."""

    name: PeerName
    """Unique; without `public_key` it is the peer's id too."""
    device: DeviceName
    """The device that leads to the peer."""
    prefixes: tuple[Prefix, ...] = ()
    """Inner prefixes behind the peer; empty with `public_key`."""
    endpoint: Endpoint | None = None
    """Outer address, with or without a port."""
    public_key: PublicKey | None = None
    """In place of prefixes and endpoint: which WireGuard peer this is."""
    overhead: Overhead | None = None
    """Outer less inner packet size in bytes; None: from the device's kind."""
    probe_address: Address | None = None
    """An inner address that answers; None: found by itself."""
    mtu: Size | None = None
    """A pin: the MTU in force, in bytes."""
    probe: Switch = True
    """Find out the MTU by probes."""
    mode: ModeName | None = None
    """None: the device's mode."""

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The prefixes as networks."""
        return tuple(map(ip_network, self.prefixes))


class TunnelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[tunnel]]: one of clampd's own tunnels."""

    name: DeviceName
    """The device to create."""
    config: AbsolutePath
    """A wg-quick style file."""


class GuardConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[guard]]: the guard at XDP on one device."""

    device: DeviceName
    """The device; never over a foreign program."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that may stand in the files."""

    mode: ModeName = "observe"
    """For every device and peer that has none of its own."""
    state_dir: AbsolutePath = AbsolutePath("/var/lib/clampd")
    """The directory of the database."""
    run_dir: AbsolutePath = AbsolutePath("/run/clampd")
    """The directory of the control socket."""
    metrics_listen: ListenAddress | None = None
    """TCP address that serves /metrics; None: off."""
    exclude: tuple[DevicePattern, ...] = ()
    """Devices never to touch. Every file adds to it."""
    mtu: MtuConfig = MtuConfig()
    rate: RateConfig = RateConfig()
    underlay: UnderlayConfig = UnderlayConfig()
    device: tuple[DeviceConfig, ...] = ()
    peer: tuple[PeerConfig, ...] = ()
    tunnel: tuple[TunnelConfig, ...] = ()
    guard: tuple[GuardConfig, ...] = ()


class Config(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of all files together."""

    source: tuple[Path, ...] = ()
    """The files that were read, in order."""
    not_yet: tuple[str, ...] = ()
    """Sentences about what is configured and this version does not act on."""

    def excludes(self, name: str) -> bool:
        """Whether the device is never to be touched."""
        return any(fnmatchcase(name, pattern) for pattern in self.exclude)

    def device_for(self, name: str) -> DeviceConfig | None:
        """The [[device]] of this device: the one with exactly its name, else the first whose pattern fits.

        None if none does, or if it is excluded.
        """
        if self.excludes(name):
            return None
        exact = (entry for entry in self.device if entry.name == name)
        fitting = (entry for entry in self.device if fnmatchcase(name, entry.name))
        return next(exact, None) or next(fitting, None)

    def manages(self, name: str, is_wireguard: bool) -> bool:
        """Whether clampd looks after this device."""
        if self.excludes(name):
            return False
        if any(name == entry.device for entry in self.peer) or any(name == entry.name for entry in self.tunnel):
            return True
        return self.device_for(name) is not None if self.device else is_wireguard

    def mode_for(self, device: str, peer: PeerConfig | None = None) -> Mode:
        """The mode that the configuration asks for: the peer's own, else its device's, else the global one."""
        entry = self.device_for(device)
        return (peer and peer.mode) or (entry and entry.mode) or self.mode


def load(path: Path | None) -> Config:
    """Reads `path` and the drop-in directory beside it. None: the default file, which may be absent.

    Later files add their tables to the earlier ones' and override single values. Raises ConfigError; its message has
    a line for each thing that is wrong, as far as they can be told at once.
    """
    files = [read(each) for each in _files(path)]
    _refuse([each for file in files for each in misfits(file, Settings)])
    config = convert(_merge(files) | {"source": [str(file.path) for file in files]}, Config)
    _refuse(_contradictions(config, _Places(files)))
    return msgspec.structs.replace(config, not_yet=tuple(_not_yet(files)))


def _files(path: Path | None) -> list[Path]:
    main = path or DEFAULT_PATH
    drop_ins = main.parent / DROP_IN_DIR
    try:
        names = sorted(os.listdir(drop_ins))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise ConfigError(f"{drop_ins}: cannot be read: {error.strerror}", fix="make it readable") from None
    found = [drop_ins / name for name in names if name.endswith(".toml") and not name.startswith(".")]
    # An absent file that was asked for is an error, which reading it tells.
    return [main, *found] if path is not None or os.path.lexists(main) else found


def _merge(files: list[TomlFile]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for file in files:
        for key, value in file.data.items():
            if isinstance(value, list):
                merged[key] = merged.get(key, []) + value
            elif isinstance(value, dict):
                merged[key] = merged.get(key, {}) | value
            else:
                merged[key] = value
    return merged


def _refuse(complaints: list[str]) -> None:
    if complaints:
        raise ConfigError("\n".join(complaints))


class _Places:
    """Where the tables of all files stand, numbered as in the merged lists."""

    def __init__(self, files: list[TomlFile]) -> None:
        self._tables = {
            name: [(file, number) for file in files for number in range(len(file.data.get(name, [])))]
            for name in ("device", "peer", "tunnel", "guard")
        }

    def complaint(self, key: KeyPath, message: str) -> str:
        """One line about a key such as ("peer", 7, "mtu")."""
        file, local = self._find(key)
        return file.complaint(local, message)

    def text(self, key: KeyPath) -> str:
        """The place as file:line."""
        file, local = self._find(key)
        return f"{file.path}:{file.index.line(local)}"

    def _find(self, key: KeyPath) -> tuple[TomlFile, KeyPath]:
        table, number, *rest = key
        file, local = self._tables[str(table)][int(number)]
        return file, (table, local, *rest)


def _contradictions(config: Config, places: _Places) -> list[str]:
    """What each fits by itself and does not fit together."""
    complaints = [
        places.complaint(("peer", number, *key), message)
        for number, peer in enumerate(config.peer)
        for key, message in _in_peer(peer)
    ]
    complaints += [*_same_names(config, places), *_same_claims(config, places)]
    for key, device in _named_devices(config):
        pattern = next((each for each in config.exclude if fnmatchcase(device, each)), None)
        if pattern is not None:
            what = f"{quoted(device)} is named here, and exclude has {quoted(pattern)}"
            complaints.append(places.complaint(key, f"{what}; take one of the two away"))
    return complaints


def _in_peer(peer: PeerConfig) -> Iterator[tuple[KeyPath, str]]:
    if peer.public_key is None:
        if not peer.prefixes:
            yield (), "has no prefixes; write prefixes = [...], or public_key for a WireGuard peer"
    elif peer.prefixes:
        yield ("public_key",), "stands beside prefixes; keep public_key for a WireGuard peer, prefixes for any other"
    elif peer.endpoint is not None:
        yield ("endpoint",), "stands beside public_key; take it away, WireGuard knows the endpoint"
    if peer.probe_address is not None and peer.prefixes:
        address = ip_address(peer.probe_address)
        if not any(address in network for network in peer.networks):
            yield ("probe_address",), f"{quoted(peer.probe_address)} is outside the peer's prefixes; write one inside"


def _same_names(config: Config, places: _Places) -> Iterator[str]:
    for table, key in (("device", "name"), ("peer", "name"), ("tunnel", "name"), ("guard", "device")):
        first: dict[str, int] = {}
        for number, entry in enumerate(getattr(config, table)):
            name = getattr(entry, key)
            earlier = first.setdefault(name, number)
            if earlier != number:
                place = places.text((table, earlier, key))
                message = f"{quoted(name)} is the {key} of two [[{table}]] (the other: {place}); keep one of them"
                yield places.complaint((table, number, key), message)


def _same_claims(config: Config, places: _Places) -> Iterator[str]:
    """Prefixes and public keys that two peers of one device both claim."""
    first: dict[tuple[str, str], tuple[PeerConfig, KeyPath]] = {}
    for number, peer in enumerate(config.peer):
        claims: list[tuple[str, KeyPath]] = [
            (prefix, ("peer", number, "prefixes", item)) for item, prefix in enumerate(peer.prefixes)
        ]
        if peer.public_key is not None:
            claims.append((peer.public_key, ("peer", number, "public_key")))
        for claim, key in claims:
            other, place = first.setdefault((peer.device, claim), (peer, key))
            if other is peer and place != key:
                yield places.complaint(key, f"{quoted(claim)} stands twice in this peer; write it once")
            elif other is not peer:
                both = f"peer {quoted(other.name)} ({places.text(place)}) and peer {quoted(peer.name)}"
                message = f"{quoted(claim)} on {peer.device} is claimed by {both}; give it to one of them"
                yield places.complaint(key, message)


def _named_devices(config: Config) -> Iterator[tuple[KeyPath, str]]:
    for number, peer in enumerate(config.peer):
        yield ("peer", number, "device"), peer.device
    for number, tunnel in enumerate(config.tunnel):
        yield ("tunnel", number, "name"), tunnel.name


def _not_yet(files: list[TomlFile]) -> Iterator[str]:
    """A sentence for each table that is set and not acted upon."""
    settings = _merge(files)
    for table, sentence in _NOT_YET_TABLES.items():
        if _asks(settings.get(table)):
            yield f"{table}: {sentence}"


def _asks(value: Any) -> bool:
    """Whether this is set, to something that asks for an action."""
    return any(map(_asks, value.values())) if isinstance(value, dict) else bool(value)
