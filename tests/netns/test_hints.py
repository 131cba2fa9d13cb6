"""ICMP from the underlay: forged, and true. A hint is where to look; what is in force is what probes have proven.

On the classic chain (lab.chain), with nothing declared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab import Lab, Upload
from lab.chain import DEVICE_MTU, Chain, chain, inner_limit
from lab.finder import Finder, finder

pytestmark = pytest.mark.netns

FORGED = {4: 552, 6: 1280}
"""The least that the kernel takes over each family."""
WATCHED_SECONDS = 5.0
HEAL_SECONDS = 10.0


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def built(request: pytest.FixtureRequest, lab: Lab) -> Chain:
    """Over either underlay, through a middle link that passes whole packets and no fragments."""
    built = chain(lab, request.param)
    built.shrink()
    return built


@pytest.fixture
def upload(built: Chain) -> Iterator[Upload]:
    """From host to host."""
    near, far = built.ends
    with Upload(near.host, far.host, far.host_address[4]) as upload:
        yield upload


def test_what_a_forgery_does_without_clampd(built: Chain, upload: Upload) -> None:
    """The kernel believes it, and fragments what nobody lets through."""
    upload.goes_on()
    built.forges_too_big(FORGED[built.family])
    upload.wait_stalled()
    assert kernels_word(built) == FORGED[built.family]
    assert built.dropped()["fragments"] > 0
    built.forget_paths()
    upload.goes_on(timeout=HEAL_SECONDS)


@pytest.mark.parametrize("count", [1, 20_000])
def test_forgeries_change_nothing(lab: Lab, built: Chain, upload: Upload, count: int) -> None:
    found = finder(lab, built)
    before = found.wait(DEVICE_MTU)
    built.forges_too_big(FORGED[built.family], count=count)
    assert_stays(found, DEVICE_MTU, upload)
    peer = found.peer
    assert (peer["changed"], peer["counters"]["blackholes"]) == (before["changed"], 0)
    assert peer["counters"]["hints"] >= 1
    assert peer["counters"]["too_big_sent"] == 0
    assert kernels_word(built) is None
    assert built.dropped()["fragments"] == 0


def test_a_forgery_beside_a_real_black_hole(lab: Lab, built: Chain, upload: Upload) -> None:
    """It says less than what passes, and is not believed either."""
    found, mtu = finder(lab, built), inner_limit(1400, built.family)
    found.wait(DEVICE_MTU)
    built.shrink(1400)
    built.forges_too_big(FORGED[built.family], count=100)
    found.wait(mtu)
    upload.goes_on(timeout=HEAL_SECONDS)
    built.forges_too_big(FORGED[built.family], count=100)
    assert_stays(found, mtu, upload)


def test_a_link_that_says_so_and_fragments(lab: Lab, built: Chain, upload: Upload) -> None:
    """Nothing is filtered, so what is too big arrives in fragments: that is not what "passes" means."""
    built.restore()
    found = finder(lab, built, mtu="recheck = 1")
    found.wait(DEVICE_MTU)
    built.honest(1400)
    found.wait(inner_limit(1400, built.family))
    upload.goes_on(timeout=HEAL_SECONDS)
    assert found.counters["hints"] >= 1


def test_what_the_kernel_believed_before(lab: Lab, built: Chain, upload: Upload) -> None:
    """A cache that a forgery has poisoned proves nothing: no verdict from what leaves in fragments."""
    upload.goes_on()
    built.forges_too_big(FORGED[built.family])
    upload.wait_stalled()
    found = finder(lab, built, mtu="recheck = 1")
    time.sleep(WATCHED_SECONDS)
    assert found.peer["mtu"] == DEVICE_MTU
    assert "route flush cache" in found.clampd.ctl("show", found.name).stdout
    built.forget_paths()
    upload.goes_on(timeout=HEAL_SECONDS)
    found.clampd.ctl("probe", found.name)
    found.wait(DEVICE_MTU)


def assert_stays(found: Finder, mtu: int, upload: Upload) -> None:
    """This MTU is in force all the time, and the transfer goes on."""
    until = time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < until:
        assert found.peer["mtu"] == mtu, found.clampd.ctl("show", found.name).stdout
        upload.goes_on()


def kernels_word(built: Chain) -> int | None:
    """What end 1's kernel has learned of the underlay's path; None: nothing."""
    near, far = built.ends
    (route,) = near.gateway.ip_json(f"route get {far.endpoint}")
    for metrics in route.get("metrics", []):
        if "mtu" in metrics:
            return int(metrics["mtu"])
    return None


# -- what ICMP is left to the stack: where clampd has nothing better to offer


def test_a_pin_does_not_keep_the_kernel_from_its_own_path_mtu(lab: Lab) -> None:
    """The operator's value is too large, and a router says so: without clampd the tunnel would be fragmented."""
    built = chain(lab, 4)
    near, far = built.ends
    found = finder(lab, built)
    with Upload(near.host, far.host, far.host_address[4]) as upload:
        upload.goes_on()
        found.clampd.ctl("pin", found.name, str(DEVICE_MTU))
        built.honest(1400)
        upload.goes_on(timeout=HEAL_SECONDS)


def test_inner_ipv6_where_only_fragments_fit(lab: Lab) -> None:
    """1280 bytes of IPv6 must go on (RFC 8200, section 5): the kernel fragments the tunnel's packets, if it is told."""
    built = chain(lab, 4)
    near, far = built.ends
    found = finder(lab, built, mtu="recheck = 1")
    with Upload(near.host, far.host, far.host_address[6]) as upload:
        upload.goes_on()
        built.honest(1300)
        found.wait(inner_limit(1300, 4))
        upload.goes_on(timeout=2 * HEAL_SECONDS)


@pytest.mark.parametrize("family", [4, 6])
def test_a_small_mtu_of_our_own_device(lab: Lab, family: int) -> None:
    """Larger probes would leave this machine in fragments: they are not tried."""
    built = chain(lab, family)
    near, far = built.ends
    near.gateway.ip("link set outer mtu 1400")
    built.shrink()
    found = finder(lab, built, mtu="recheck = 1")
    with Upload(near.host, far.host, far.host_address[4]) as upload:
        found.wait(inner_limit(1400, family))
        upload.goes_on(timeout=HEAL_SECONDS)
