"""Paths that get smaller and say nothing, found and healed on the classic chain (lab.chain), with nothing declared.

What is asserted is where it ends, with generous limits; how fast it gets there is a matter of `make bench`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from lab import Datagrams, Lab, Namespace, Upload, checksum_errors, hang, transfer, wait_for
from lab.chain import DEVICE_MTU, Chain, End, chain, inner_limit
from lab.crowd import Crowd, crowd, strangers
from lab.finder import finder
from lab.topology import mss_for

pytestmark = pytest.mark.netns

HANG_SECONDS = 6.0
HEAL_SECONDS = 10.0
LOSSY_SECONDS = 4.0
MIN_MTU6 = 1280
"""No host sends smaller IPv6 packets because it was told to (RFC 8201, section 4)."""

FAMILIES = (4, 6)
SHRUNK = [(4, 1400), (4, 1280), (6, 1492), (6, 1400), (6, 1280)]
"""Underlay family and MTU of the middle link; over IPv4, 1492 still takes what a device of 1420 sends."""

SOON = "recheck = 1\nraise = 1"


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def built(request: pytest.FixtureRequest, lab: Lab) -> Chain:
    """The chain over either underlay."""
    return chain(lab, request.param)


@contextlib.contextmanager
def uploads(sender: End, receiver: End, families: Sequence[int] = FAMILIES) -> Iterator[list[Upload]]:
    """From host to host, over these inner families, in full flight."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(Upload(sender.host, receiver.host, receiver.host_address[family]))
            for family in families
        ]
        go_on(started)
        yield started


def go_on(started: Sequence[Upload]) -> None:
    """All of them."""
    for upload in started:
        upload.goes_on(timeout=HEAL_SECONDS)


def told(mtu: int) -> tuple[int, ...]:
    """Families in which an open connection can learn of this MTU."""
    return FAMILIES if mtu >= MIN_MTU6 else (4,)


@pytest.mark.parametrize(("family", "size"), SHRUNK)
def test_a_transfer_hangs_without_clampd_and_goes_on_with_it(lab: Lab, family: int, size: int) -> None:
    """clampd runs on the sending gateway alone."""
    built, mtu = chain(lab, family), inner_limit(size, family)
    near, far = built.ends
    with uploads(near, far) as outwards, uploads(far, near) as back:
        built.shrink(size)
        hang([*outwards, *back], HANG_SECONDS)
        built.shrink()
    found = finder(lab, built)
    with uploads(near, far, told(mtu)) as started:
        found.wait(DEVICE_MTU)
        built.shrink(size)
        go_on(started)
        found.wait(mtu)
        go_on(started)
    peer = found.listed()[found.name]
    assert (peer["mtu"], peer["state"]) == (mtu, "confirmed")
    assert (peer["source"], peer["exact"], peer["floor"]) == ("probe", True, mtu)
    assert (peer["mss4"], peer["mss6"]) == (mss_for(mtu, 4), mss_for(mtu, 6))
    assert peer["counters"]["blackholes"] >= 1
    for inner in FAMILIES:  # below 1280 too: new connections begin with segments that fit
        assert transfer(near.host, far.host, far.host_address[inner]).client_mss <= mss_for(mtu, inner)
    assert checksum_errors(*lab.everywhere) == {}


def test_what_still_fits_stays(lab: Lab) -> None:
    """1420 and 60 are 1480: a middle link of 1492 changes nothing over IPv4."""
    built = chain(lab, 4)
    found = finder(lab, built, mtu=SOON)
    with uploads(*built.ends) as started:
        before = found.wait(DEVICE_MTU)
        built.shrink(1492)
        checked = found.counters["probes"]
        wait_for(lambda: found.counters["probes"] >= checked + 3, "three more checks")
        go_on(started)
    peer = found.peer
    assert (peer["mtu"], peer["changed"]) == (DEVICE_MTU, before["changed"])
    assert (peer["counters"]["blackholes"], peer["counters"]["too_big_sent"]) == (0, 0)


def test_both_directions_with_clampd_at_both_ends(lab: Lab, built: Chain) -> None:
    ends, mtu = built.ends, inner_limit(1400, built.family)
    found = [finder(lab, built, end=number) for number in range(2)]
    with uploads(*ends) as outwards, uploads(*ends[::-1]) as back:
        for each in found:
            each.wait(DEVICE_MTU)
        built.shrink(1400)
        go_on([*outwards, *back])
        for each in found:
            each.wait(mtu)
        go_on([*outwards, *back])


def test_smaller_still_and_larger_again(lab: Lab, built: Chain) -> None:
    """One connection lives through all of it."""
    found = finder(lab, built, mtu=SOON)
    with uploads(*built.ends, [4]) as started:
        found.wait(DEVICE_MTU)
        for size in (1400, 1280, 1400, 1500):
            built.shrink(size)
            found.wait(inner_limit(size, built.family))
            go_on(started)


@pytest.mark.parametrize("inner", FAMILIES)
def test_udp_without_any_tcp(lab: Lab, built: Chain, inner: int) -> None:
    """The periodic check finds it. What the sender hears may be less than what is exact in the end, never more."""
    near, far = built.ends
    found, mtu = finder(lab, built, mtu="recheck = 1"), inner_limit(1400, built.family)
    with Datagrams(near.host, far.host, far.host_address[inner]) as datagrams:
        assert datagrams.arrives(DEVICE_MTU)
        found.wait(DEVICE_MTU)
        built.shrink(1400)
        told = datagrams.learns(DEVICE_MTU, timeout=HEAL_SECONDS)
        assert told.mtu <= mtu
        assert not datagrams.send(DEVICE_MTU), "EMSGSIZE from now on"
        assert datagrams.arrives(told.mtu)
        found.wait(mtu)


def test_observe(lab: Lab, built: Chain) -> None:
    """It is found all the same; what hangs without clampd hangs, until the operator says `enforce`."""
    found, mtu = finder(lab, built, mode="observe", mtu="recheck = 1"), inner_limit(1400, built.family)
    with uploads(*built.ends, [4]) as started:
        found.wait(DEVICE_MTU)
        built.shrink(1400)
        peer = found.wait(mtu)
        hang(started, 1.0)
        assert (peer["counters"]["too_big_sent"], peer["counters"]["clamped"]) == (0, 0)
        wait_for(lambda: found.counters["would_answer"] > 0, "what would be done to be counted")
        found.clampd.ctl("enforce")
        go_on(started)


@pytest.mark.parametrize("percent", [5, 100])
def test_loss_is_no_black_hole(lab: Lab, built: Chain, percent: int) -> None:
    """Random loss of packets of any size, and a peer that is away for a while: the MTU stays."""
    found = finder(lab, built, mtu="recheck = 1")
    with uploads(*built.ends, [4]) as started:
        before = found.wait(DEVICE_MTU)
        hints = found.counters["hints"]
        built.loses(percent)
        wait_for(lambda: found.counters["hints"] > hints, "a hint")
        until = time.monotonic() + LOSSY_SECONDS
        while time.monotonic() < until:
            assert found.peer["mtu"] == DEVICE_MTU
        built.loses(0)
        go_on(started)
        after = found.wait(DEVICE_MTU)
    assert after["changed"] == before["changed"]
    assert (after["counters"]["blackholes"], after["counters"]["too_big_sent"]) == (0, 0)


def test_others_are_left_alone(lab: Lab, built: Chain) -> None:
    """200 further peers: 40 under traffic, 160 never heard of. clampd starts amidst them, and answers nobody."""
    near, far = built.ends
    sites = crowd(lab, built, 40)
    unknown = strangers(near.tunnel, 160)
    with traffic(near.gateway, sites), uploads(near, far) as started:
        found = finder(lab, built)
        healthy = {found.name_of(key) for key in sites.keys}
        silent = {found.name_of(key) for key in unknown}

        def all_confirmed() -> bool:
            listed = found.listed()
            return all(listed[name]["state"] == "confirmed" for name in healthy)

        wait_for(all_confirmed, "all that have traffic to be confirmed", timeout=30)
        found.wait(DEVICE_MTU)
        before = found.listed()
        assert_unharmed(before.values())
        built.shrink(1400)
        go_on(started)
        found.wait(inner_limit(1400, built.family))
        after = found.listed()
    assert len(after) == 201
    others = [after[name] for name in healthy | silent]
    assert_unharmed(others)
    assert [each["changed"] for each in others] == [before[each["id"]]["changed"] for each in others]
    assert {after[name]["state"] for name in silent} == {"unprobed"}


def assert_unharmed(peers: Iterable[dict[str, Any]]) -> None:
    """Each has its device's MTU, and nobody was answered."""
    for peer in peers:
        assert (peer["mtu"], peer["mss4"]) == (DEVICE_MTU, mss_for(DEVICE_MTU, 4)), peer
        assert (peer["counters"]["too_big_sent"], peer["counters"]["blackholes"]) == (0, 0), peer


@contextlib.contextmanager
def traffic(sender: Namespace, sites: Crowd) -> Iterator[None]:
    """While inside, each site gets a few large packets a second."""
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        flows = [stack.enter_context(Datagrams(sender, sites.namespace, address)) for address in sites.addresses]

        def send() -> None:
            while not ended.wait(0.2):
                for flow in flows:
                    flow.send(DEVICE_MTU)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def test_ping_by_ping(lab: Lab) -> None:
    """A middle link of 1492 under a tunnel over IPv6, then a LAN of 1400 behind the other gateway."""
    built = chain(lab, 6)
    near, far = built.ends
    target = far.host_address[4]
    built.shrink(1492)
    assert "100%packetloss" in ping(near.host, target, 1392)
    found = finder(lab, built, mtu="recheck = 1")
    wait_for(lambda: "mtu=1408" in ping(near.host, target, 1392), "frag needed", timeout=HEAL_SECONDS)
    before = found.wait(1408)
    near.host.forget_paths()
    assert "1received" in ping(near.host, target, 1380)
    for namespace in (far.gateway, far.host):
        namespace.ip("link set lan mtu 1400")
    assert "mtu=1400" in ping(near.host, target, 1380), "the far gateway's own word"
    assert "1received" in ping(near.host, target, 1372)
    after = found.peer
    assert (after["mtu"], after["changed"]) == (1408, before["changed"])


def ping(host: Namespace, address: str, content: int) -> str:
    """What one `ping -M do -s CONTENT` says, without spaces."""
    told = host.run("ping", "-n", "-M", "do", "-s", str(content), "-c", "1", "-W", "1", address, check=False)
    return told.stdout.replace(" ", "")
