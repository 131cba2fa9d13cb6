"""Nothing declared, nothing pinned: clampd finds the path's MTU through the kernel's WireGuard, and heals."""

from __future__ import annotations

import contextlib
import time

import pytest
from vmlab.addresses import OUTER_B
from vmlab.checks import BLACK_HOLE, HEAL_SECONDS, MTU_IN_BLACK_HOLE, Record, four_transfers
from vmlab.machine import MachineError, wait_for
from vmlab.site import Datagrams, Gateway, Site, Transfer

DEVICE_MTU = 1420
SOON = 'mode = "enforce"\n[mtu]\nrecheck = 3\nraise = 5\n'
QUIET_SECONDS = 6
"""Longer than `recheck` and `raise` above."""

PACKETS = 100
"""Of a user, sent while a search is under way."""


def found(gateway: Gateway, mtu: int) -> None:
    """Wait until the only peer's value is that, and exact."""

    peer = gateway.peer()

    def known() -> bool:
        peer.update(gateway.peer())
        return (peer["state"], peer["mtu"], peer["exact"]) == ("confirmed", mtu, True)

    try:
        wait_for(known, f"{gateway}'s peer to be confirmed at {mtu}", timeout=HEAL_SECONDS)
    except MachineError as error:
        raise MachineError(f"{error}; the peer: {peer}") from None


@pytest.mark.parametrize("underlay", [pytest.param(4, marks=pytest.mark.smoke), 6])
def test_healed(site: Site, record: Record, underlay: int) -> None:
    """Both families inside, both directions, open connections included; and up again when the path is whole."""
    with contextlib.ExitStack() as stack:
        gateways = (site.gw_a, site.gw_b)
        for gateway in gateways:
            stack.enter_context(gateway.configured(SOON))
        stack.enter_context(site.underlay(underlay))
        transfers = stack.enter_context(four_transfers(site))
        for gateway in gateways:
            found(gateway, DEVICE_MTU)
        site.path.black_hole(BLACK_HOLE)
        began = time.monotonic()
        for transfer in transfers:
            transfer.goes_on(timeout=HEAL_SECONDS)
        record(f"healed over IPv{underlay}, four connections, seconds", round(time.monotonic() - began, 1))
        for gateway in gateways:
            found(gateway, MTU_IN_BLACK_HOLE[underlay])
            assert gateway.peer()["counters"]["blackholes"] > 0
        site.path.clear()
        for gateway in gateways:
            found(gateway, DEVICE_MTU)


def test_a_path_that_fragments(site: Site) -> None:
    """The driver sends with DF clear, and the router fragments: only probes that have DF tell what passes whole. The
    user's packets have none, also while probes of their size are under way: not one is lost."""
    with Datagrams(site.hosts, 4, discovery="dont") as datagrams:
        site.path.shrink(BLACK_HOLE)
        assert datagrams.arrives(DEVICE_MTU)
        peer = site.gw_a.peer()["id"]
        datagrams.receiver.sizes()
        arrived: list[int] = []

        def send() -> None:
            for number in range(PACKETS):
                assert datagrams.sender.send(DEVICE_MTU)
                if number % 20 == 0:  # or the socket's buffer is full
                    arrived.extend(datagrams.receiver.sizes())

        def all_there() -> bool:
            arrived.extend(datagrams.receiver.sizes())
            return arrived.count(DEVICE_MTU) == 2 * PACKETS

        before = site.gw_a.peer()["counters"]["probes"]
        site.gw_a.forget(peer)
        send()
        assert site.gw_a.peer()["counters"]["probes"] > before
        found(site.gw_a, MTU_IN_BLACK_HOLE[4])
        send()
        wait_for(all_there, "every packet of the user's", timeout=10)


def test_idle(site: Site) -> None:
    """A peer that has nothing to do gets no probe, and no handshake."""

    def seen() -> tuple[int, str]:
        probes: int = site.gw_a.peer()["counters"]["probes"]
        return probes, site.gw_a.run("wg", "show", "wg0", "latest-handshakes")

    def quiet() -> bool:
        before = seen()
        time.sleep(QUIET_SECONDS)
        return seen() == before

    with site.gw_a.configured(SOON), Transfer(site.hosts, 4) as transfer:
        transfer.goes_on()
        found(site.gw_a, DEVICE_MTU)
        transfer.upload.close()
        wait_for(quiet, "the last check of a peer that was busy", timeout=HEAL_SECONDS)
        before = seen()
        with site.router.make("Capture", device="eth1") as passing:
            time.sleep(20)
            assert seen() == before
            assert [each for each in passing.packets() if each["destination"] == OUTER_B[4]] == []
