"""tinc 1.0 between the gateways of a chain: another user-space tunnel, which looks for path MTUs by itself."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from .chain import Chain, End
from .command import run, unique, wait_for
from .process import Process

START_SECONDS = 20.0
KEY_BITS = 2048


class Tinc:
    """While inside, what the ends send each other goes through tinc instead of WireGuard."""

    def __init__(self, chain: Chain, directory: Path) -> None:
        self._chain = chain
        self._nets = [directory / str(end.number) for end in chain.ends]
        self._device = unique("ti")
        self._processes = [
            Process(
                end.gateway.argv("tincd", "-D", "-c", str(net), f"--pidfile={net}/pid"),
                directory / f"tinc-{end.number}.log",
            )
            for end, net in zip(chain.ends, self._nets, strict=True)
        ]

    def __enter__(self) -> Tinc:
        hosts = {
            f"end{end.number}": self._host(end, net) for end, net in zip(self._chain.ends, self._nets, strict=True)
        }
        for net in self._nets:
            for name, content in hosts.items():
                (net / "hosts" / name).write_text(content)
        for process in self._processes:
            process.__enter__()
        for end, other in (self._chain.ends, self._chain.ends[::-1]):
            wait_for(lambda end=end: end.gateway.has_device(self._device), "tinc's device", timeout=START_SECONDS)  # type: ignore[misc]
            end.gateway.ip(
                f"link set {self._device} up",
                *(f"route replace {prefix} dev {self._device}" for prefix in other.prefixes),
            )
        near, far = self._chain.ends
        near.host.reaches(far.host_address[4], timeout=START_SECONDS)  # so it has connected
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.stop()

    def _host(self, end: End, net: Path) -> str:
        """Write an end's configuration; what the other has to know of it."""
        (net / "hosts").mkdir(parents=True)
        peer = next(other for other in self._chain.ends if other is not end)
        (net / "tinc.conf").write_text(
            f"Name = end{end.number}\nInterface = {self._device}\nConnectTo = end{peer.number}\n"
        )
        run(["openssl", "genrsa", "-traditional", "-out", str(net / "rsa_key.priv"), str(KEY_BITS)])
        public = run(["openssl", "rsa", "-in", str(net / "rsa_key.priv"), "-RSAPublicKey_out"]).stdout
        subnets = "".join(f"Subnet = {prefix}\n" for prefix in end.prefixes)
        return f"Address = {end.endpoint}\n{subnets}{public}"
