"""The gateways with clampd and WireGuard, the hosts behind them, and connections between these."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .addresses import HOST_A, HOST_B, OTHER_A, OTHER_B, OUTER_A, OUTER_B
from .install import CLAMPD
from .machine import Machine, MachineError, Remote, wait_for
from .path import Path

ATTACH_SECONDS = 240
"""Compiling the programs takes an emulated machine twenty, after its boot or beside other work a minute or two."""


@dataclass(frozen=True)
class Ends:
    """Two ends of a connection: machines, namespaces there, and addresses by family."""

    near: Machine
    near_namespace: str
    near_address: dict[int, str]
    far: Machine
    far_namespace: str
    far_address: dict[int, str]


class Gateway(Machine):
    """A machine with clampd."""

    def clampctl(self, *arguments: str) -> str:
        """`clampctl`'s standard output."""
        return self.run("clampctl", *arguments)

    def connect(self) -> None:
        """As for every machine."""
        super().connect()
        self._api = self.make("Api")

    def status(self) -> dict[str, Any]:
        """The daemon's."""
        document: dict[str, Any] = self._api.ask("GET", "/v1/status")
        return document

    def peers(self, device: str = "wg0") -> list[dict[str, Any]]:
        """The peers of a device."""
        found: list[dict[str, Any]] = self._api.ask("GET", f"/v1/peers?device={device}")["peers"]
        return found

    def peer(self, device: str = "wg0") -> dict[str, Any]:
        """The only peer of a device, once it is there."""
        return wait_for(lambda: self.peers(device), f"a peer on {self}'s {device}")[0]

    def attached(self, device: str, *, timeout: float = ATTACH_SECONDS) -> None:
        """Wait until clampd's programs are on the device."""

        def there() -> bool:
            with contextlib.suppress(MachineError):
                return any(each["name"] == device and each["attached"] for each in self.status()["devices"])
            return False

        wait_for(there, f"clampd on {self}'s {device}", timeout=timeout, every=0.5)

    def configure(self, text: str) -> None:
        """Another configuration, read by the running daemon."""
        self.push({"clampd.toml": text.encode()}, "/etc/clampd")
        self._api.ask("POST", "/v1/reload")

    @contextlib.contextmanager
    def configured(self, text: str) -> Iterator[None]:
        """Another configuration for a while."""
        self.configure(text)
        try:
            yield
        finally:
            self.configure(CLAMPD)

    @contextlib.contextmanager
    def pinned(self, mtu: int, *, device: str = "wg0") -> Iterator[None]:
        """The device's only peer with that MTU."""
        peer = self.peer(device)["id"]
        self._api.ask("POST", f"/v1/peers/{peer}/pin", {"mtu": mtu})
        try:
            yield
        finally:
            with contextlib.suppress(MachineError):  # where it is gone, that is to be told
                self.unpin(peer)

    def unpin(self, peer: str) -> None:
        """That peer's value is clampd's own again."""
        self._api.ask("POST", f"/v1/peers/{peer}/unpin")

    def forget(self, peer: str) -> None:
        """What was learned of that peer."""
        self._api.ask("POST", f"/v1/peers/{peer}/forget")

    def forget_paths(self) -> None:
        """Nothing is known of any path; clampd need not be there."""
        for namespace in ("main", "host"):
            self.script("ip -4 route flush cache; ip -6 route flush cache", namespace=namespace)
        with contextlib.suppress(MachineError):
            for peer in self._api.ask("GET", "/v1/peers")["peers"]:
                if peer["source"] == "probe":
                    self.forget(peer["id"])

    def start(self) -> None:
        """As at the beginning: the daemon runs, its programs are on wg0, no pin, nothing left of a test that failed."""
        self.run("systemctl", "disable", "--now", "lab-watch", check=False)
        self.push({"clampd.toml": CLAMPD.encode()}, "/etc/clampd")
        self.run("systemctl", "start", "clampd", timeout=ATTACH_SECONDS)
        self._api.ask("POST", "/v1/attach", {"device": None})
        self._api.ask("POST", "/v1/reload")
        self.attached("wg0")
        for peer in self.peers():
            if peer["state"] == "pinned":
                self.unpin(peer["id"])

    def stop(self) -> None:
        """No daemon, no programs."""
        self.run("systemctl", "stop", "clampd")
        self.clampctl("detach")


class Site:
    """All three machines. Entering connects to them."""

    def __init__(self) -> None:
        self.gw_a, self.gw_b, self.router = Gateway("gw-a"), Gateway("gw-b"), Machine("router")
        self.machines: list[Machine] = [self.gw_a, self.gw_b, self.router]
        self.path = Path(self.router)
        self.hosts = Ends(self.gw_a, "host", HOST_A, self.gw_b, "host", HOST_B)
        self.back = Ends(self.gw_b, "host", HOST_B, self.gw_a, "host", HOST_A)
        self.others = Ends(self.gw_a, "host", OTHER_A, self.gw_b, "host", OTHER_B)

    def __enter__(self) -> Site:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda machine: machine.connect(), self.machines))
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.disconnect()

    def start(self) -> None:
        """clampd on both gateways."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Gateway.start, (self.gw_a, self.gw_b)))

    @contextlib.contextmanager
    def without_clampd(self) -> Iterator[None]:
        """On neither gateway, for a while."""
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(Gateway.stop, (self.gw_a, self.gw_b)))
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def underlay(self, family: int) -> Iterator[None]:
        """WireGuard's endpoints are addresses of that family, for a while."""
        self._endpoints(family)
        try:
            yield
        finally:
            if family != 4:
                self.reset()
                self._endpoints(4)

    def reset(self) -> None:
        """No faults, and nothing learned about paths."""
        self.path.clear()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Gateway.forget_paths, (self.gw_a, self.gw_b)))

    def session(self) -> None:
        """A handshake between the gateways, if there is none."""
        self.gw_a.run("ping", "-c", "1", "-W", "5", "10.77.0.2")

    def _endpoints(self, family: int) -> None:
        wanted = {
            gateway: (f"[{outer[6]}]" if family == 6 else outer[4]) + ":51820"
            for gateway, outer in ((self.gw_a, OUTER_B), (self.gw_b, OUTER_A))
        }

        def set_both() -> bool:
            for gateway, endpoint in wanted.items():
                key = gateway.run("wg", "show", "wg0", "peers").strip()
                gateway.run("wg", "set", "wg0", "peer", key, "endpoint", endpoint)
            self.session()
            # A packet that the other one had sent before leads back to where it came from.
            return all(
                gateway.run("wg", "show", "wg0", "endpoints").split()[1] == wanted[gateway] for gateway in wanted
            )

        wait_for(set_both, f"WireGuard over IPv{family}")


class Transfer:
    """A TCP connection from the near end to the far one that sends until it is left."""

    def __init__(self, ends: Ends, family: int, **options: Any) -> None:
        self._ends = ends
        self.sink: Remote = ends.far.make("Sink", namespace=ends.far_namespace, address=ends.far_address[family])
        try:
            self.server_port: int = self.sink.port()
            self.upload: Remote = ends.near.make(
                "Upload",
                namespace=ends.near_namespace,
                address=ends.far_address[family],
                port=self.server_port,
                source=ends.near_address[family],
                **options,
            )
            self.client_port: int = self.state()["port"]
        except MachineError:
            self.sink.close()
            raise

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        self.upload.close()
        self.sink.close()

    def state(self) -> dict[str, Any]:
        """See guest/tools.py, Upload."""
        state: dict[str, Any] = self.upload.state()
        return state

    def goes_on(self, size: int = 50_000, *, timeout: float = 15) -> None:
        """Until `size` more bytes have arrived."""
        target = self.sink.received() + size
        try:
            wait_for(lambda: self.sink.received() >= target, f"{size} bytes more", timeout=timeout)
        except MachineError as error:
            raise MachineError(f"{error}; the sender: {self.state()}") from None

    def hangs(self, *, seconds: float = 10) -> None:
        """Wait until a retransmission timer has run out, then see that nothing arrives any more for a while."""
        wait_for(lambda: self.state()["stalled"], "the connection to stall", timeout=20)
        before = self.sink.received()
        with contextlib.suppress(MachineError):
            wait_for(lambda: self.sink.received() > before, "nothing", timeout=seconds, every=0.5)
            raise AssertionError("the connection goes on")


class Datagrams:
    """A UDP socket at the near end, and one at the far end that receives."""

    def __init__(self, ends: Ends, family: int, *, discovery: str = "do") -> None:
        self.receiver = ends.far.make("Receiver", namespace=ends.far_namespace, address=ends.far_address[family])
        self.sender = ends.near.make(
            "Sender",
            namespace=ends.near_namespace,
            address=ends.far_address[family],
            port=self.receiver.port(),
            discovery=discovery,
            source=ends.near_address[family],
        )

    def __enter__(self) -> Datagrams:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.close()
        self.receiver.close()

    def arrives(self, size: int, *, timeout: float = 5) -> bool:
        """Whether an IP packet of `size` bytes reaches the far end."""
        self.receiver.sizes()
        if not self.sender.send(size):
            return False
        with contextlib.suppress(MachineError):
            return wait_for(lambda: size in self.receiver.sizes(), f"{size} bytes", timeout=timeout)
        return False

    def learns(self, size: int, *, timeout: float = 10) -> int:
        """Send packets of `size` bytes until an ICMP message tells the sender that they are too big; the MTU in it."""

        def told() -> int | None:
            self.sender.send(size)
            mtu: int | None = self.sender.told()
            return mtu

        return wait_for(told, f"the sender to hear that {size} bytes are too big", timeout=timeout, every=0.3) or 0
