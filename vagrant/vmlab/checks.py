"""What several tests look for."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from .machine import Remote, wait_for
from .site import Datagrams, Ends, Site, Transfer

Record = Callable[[str, Any], None]
"""The fixture `record`: a figure's name and value."""

HEADERS = {4: 40, 6: 60}
COPIES = 10
"""Packets that are sent to learn the size of one."""

BLACK_HOLE = 1400
MTU_IN_BLACK_HOLE = {4: 1328, 6: 1312}
"""What a path of that many bytes leaves for inner packets, by the underlay's family: less 60 or 80, in steps of 16."""

HEAL_SECONDS = 30
"""An emulated machine's; TCP's own timers have backed off by then."""


@contextlib.contextmanager
def four_transfers(site: Site) -> Iterator[list[Transfer]]:
    """Connections that carry data: of both families, in both directions."""
    with contextlib.ExitStack() as stack:
        transfers = [
            stack.enter_context(Transfer(ends, family)) for ends in (site.hosts, site.back) for family in (4, 6)
        ]
        for transfer in transfers:
            transfer.goes_on()
        yield transfers


def mss_for(mtu: int, family: int) -> int:
    """The MSS for an MTU: less the fixed headers of IP and TCP (RFC 6691)."""
    return mtu - HEADERS[family]


def syn(capture: Remote, client_port: int, *, acknowledges: bool = False) -> dict[str, Any]:
    """The SYN (or SYN-ACK) of the connection from that port, as it arrived at a capture."""
    port = "destination_port" if acknowledges else "source_port"

    def seen() -> list[dict[str, Any]]:
        return [each for each in capture.syns() if each[port] == client_port and each["is_syn_ack"] == acknowledges]

    found: dict[str, Any] = wait_for(seen, f"the SYN of port {client_port}")[0]
    return found


def opens_clamped(ends: Ends, device: str, family: int, mtu: int) -> None:
    """A connection carries data, and both its SYN and its SYN-ACK arrive with the MSS for the MTU, and right checksums.

    The SYN is looked at where the far gateway gets it from `device`, the SYN-ACK where the near host does.
    """
    with (
        ends.far.make("Capture", device=device) as at_far,
        ends.near.make("Capture", namespace=ends.near_namespace, device="lan") as at_near,
        Transfer(ends, family) as transfer,
    ):
        transfer.goes_on(20_000)
        for seen in (
            syn(at_far, transfer.client_port),
            syn(at_near, transfer.client_port, acknowledges=True),
        ):
            assert seen["mss"] == mss_for(mtu, family)
            assert seen["checksum_right"]


def answers(ends: Ends, family: int, mtu: int) -> None:
    """A sender of UDP with DF learns the MTU; what fits it arrives."""
    with Datagrams(ends, family) as datagrams:
        assert datagrams.learns(mtu + 1) == mtu
        assert not datagrams.sender.send(mtu + 1), "EMSGSIZE from now on"
        assert datagrams.arrives(mtu)


def outer_size(capture: Remote, datagrams: Datagrams, inner: int, destination: str) -> int:
    """Size of the packets to that address, at the capture, that inner ones of `inner` bytes are in.

    Many are sent, and the commonest size is theirs: one of clampd's own probes may be among the others.
    """
    for _ in range(COPIES - 1):
        datagrams.sender.send(inner)
    assert datagrams.arrives(inner)

    def seen() -> int | None:
        sizes = Counter(
            each["length"]
            for each in capture.packets()
            if each["destination"] == destination and each["length"] > inner
        )
        return next((size for size, count in sizes.most_common(1) if count >= COPIES), None)

    return wait_for(seen, f"the outer packets of {inner} bytes") or 0
