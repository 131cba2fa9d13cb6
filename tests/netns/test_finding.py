"""What is found about a peer, how it is kept, and when clampd asks: never without traffic.

On the classic chain (lab.chain), with nothing declared.
"""

from __future__ import annotations

import time

import pytest

from lab import Lab, Upload, wait_for
from lab.chain import DEVICE_MTU, Chain, chain, inner_limit
from lab.crowd import crowd
from lab.finder import Finder, finder

pytestmark = pytest.mark.netns

PATHS = (1500, 1492, 1450, 1400, 1358, 1280)
QUIET_SECONDS = 12.0
"""After its last packet each way WireGuard has one keepalive to say, 10 s later."""
COUNTED_SECONDS = 30.0

DEAF = """
table inet deaf {{
    chain arriving {{ type filter hook input priority 0; iifname "{device}" drop; }}
    chain passing {{ type filter hook forward priority 0; iifname "{device}" drop; }}
}}
"""


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def built(request: pytest.FixtureRequest, lab: Lab) -> Chain:
    """Over either underlay."""
    return chain(lab, request.param)


@pytest.fixture
def ipv4(lab: Lab) -> Chain:
    return chain(lab, 4)


def learn(built: Chain, found: Finder, mtu: int) -> None:
    """Large packets go to the peer, until this is known of it."""
    near, far = built.ends
    with Upload(near.host, far.host, far.host_address[4]):
        found.wait(mtu)


def test_probe_peer(lab: Lab, built: Chain) -> None:
    """Six real paths, without any traffic."""
    found = finder(lab, built)
    for path in PATHS:
        built.shrink(path)
        document = found.clampd.ctl_json("probe", found.name)
        assert (document["result"]["verdict"], document["result"]["mtu"]) == ("exact", inner_limit(path, built.family))
        peer = found.wait(inner_limit(path, built.family))
        assert (peer["exact"], peer["floor"]) == (True, peer["mtu"])


def test_show_tells_why(lab: Lab, ipv4: Chain) -> None:
    found = finder(lab, ipv4)
    ipv4.shrink(1400)
    assert "1328" in found.clampd.ctl("probe", found.name).stdout
    shown = found.clampd.ctl("show", found.name).stdout
    assert "1328 answered in " in shown
    assert "lost three times beside" in shown


def test_kept_over_a_restart(lab: Lab, built: Chain) -> None:
    found, mtu = finder(lab, built), inner_limit(1400, built.family)
    built.shrink(1400)
    learn(built, found, mtu)
    found.clampd.kill()
    found.clampd.start()
    assert found.peer["mtu"] == mtu, "before anything was probed again"
    near, far = built.ends
    with Upload(near.host, far.host, far.host_address[4]) as upload:
        wait_for(lambda: found.counters["probes"] > 0, "a check of what it knew")
        found.wait(mtu)
        upload.goes_on()


def test_forget(lab: Lab, ipv4: Chain) -> None:
    found = finder(lab, ipv4, mtu="raise = 600")
    ipv4.shrink(1400)
    learn(ipv4, found, 1328)
    ipv4.shrink()
    found.clampd.ctl("forget", found.name)
    learn(ipv4, found, DEVICE_MTU)


def test_silent_as_wireguard(lab: Lab, ipv4: Chain) -> None:
    """Peers that were measured and fell idle: not one outer packet, however often checks are due."""
    near, _ = ipv4.ends
    sites = crowd(lab, ipv4, 10)
    found = finder(lab, ipv4, mtu="recheck = 1\nraise = 1")
    for address in sites.addresses:
        near.gateway.run("ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1392", address)
    ipv4.shrink(1400)
    learn(ipv4, found, 1328)
    wait_for(
        lambda: {found.listed()[found.name_of(key)]["state"] for key in sites.keys} == {"confirmed"},
        "the crowd to be confirmed",
    )
    time.sleep(QUIET_SECONDS)
    before, handshakes = ipv4.outer_packets(), last_handshakes(found)
    time.sleep(COUNTED_SECONDS)
    assert ipv4.outer_packets() == before
    assert last_handshakes(found) == handshakes


def last_handshakes(found: Finder) -> list[str]:
    """Of all peers."""
    return [peer["last_handshake"] for peer in found.listed().values()]


def test_a_peer_that_answers_nothing(lab: Lab, ipv4: Chain) -> None:
    """It keeps the device's MTU, and `show` says what would help."""
    near, far = ipv4.ends
    far.gateway.nft(DEAF.format(device=far.tunnel.name))
    found = finder(lab, ipv4, mtu="recheck = 1")
    for _ in range(3):
        near.host.run("ping", "-c", "3", "-i", "0.3", "-W", "1", "-s", "1392", far.host_address[4], check=False)
    peer = found.peer
    assert (peer["state"], peer["mtu"], peer["source"]) == ("unprobed", DEVICE_MTU, "device")
    assert peer["counters"]["probes"] > 0
    assert "probe_address" in found.clampd.ctl("show", found.name).stdout
