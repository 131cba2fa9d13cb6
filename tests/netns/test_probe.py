"""`clampctl probe ADDRESS` on real paths whose routers say nothing of what they drop.

host ─────────── router ─────────── far
     1500                   narrow
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mssclamp
from lab import Lab, Namespace
from lab.topology import SITE, line

pytestmark = pytest.mark.netns

FAR = {4: "10.9.2.2", 6: "fd09:2::2"}
CLAMPCTL = (sys.executable, "-m", "mssclamp.cli", "--run-dir", "/nowhere")
ENVIRONMENT = {"PYTHONPATH": str(Path(mssclamp.__file__).parent.parent)}

LOSS = """
table inet lossy {
    chain forwarded {
        type filter hook forward priority 0
        oifname "narrow" numgen random mod 100 < 20 drop
    }
}
"""
DEAF = LOSS.replace("numgen random mod 100 < 20", "icmp type echo-request")


def probe(
    namespace: Namespace, address: str, *options: str, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return namespace.run(*before, *CLAMPCTL, "probe", address, *options, check=False, env=ENVIRONMENT)


@pytest.fixture
def path(lab: Lab) -> tuple[Namespace, Namespace]:
    """Host and router; the link to the far end is still 1500."""
    host, router, far = lab.namespaces("host", "rt", "far")
    router.forwards()
    router.filters_too_big()
    lab.veth(host, "wan", router, "near")
    lab.veth(router, "narrow", far, "wan")
    host.address("wan", "10.9.1.2/24", "fd09:1::2/64")
    router.address("near", "10.9.1.1/24", "fd09:1::1/64")
    router.address("narrow", "10.9.2.1/24", "fd09:2::1/64")
    far.address("wan", f"{FAR[4]}/24", f"{FAR[6]}/64")
    host.route("default via 10.9.1.1", "::/0 via fd09:1::1")
    far.route("default via 10.9.2.1", "::/0 via fd09:2::1")
    return host, router


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mtu", [1500, 1492, 1400, 1280])
def test_a_narrow_link_that_says_nothing(path: tuple[Namespace, Namespace], mtu: int, family: int) -> None:
    host, router = path
    router.ip(f"link set narrow mtu {mtu}")
    shown = json.loads(probe(host, FAR[family], "--json").stdout)
    assert (shown["path_mtu"], shown["exact"]) == (mtu, True)
    assert len(shown["rounds"]) <= 3
    assert sum(each["probes"] for each in shown["rounds"]) <= 24
    assert shown["hints"] == []


@pytest.mark.parametrize("family", [4, 6])
def test_with_loss(path: tuple[Namespace, Namespace], family: int) -> None:
    """Never more than passes, and only sure where it is right."""
    host, router = path
    router.ip("link set narrow mtu 1400")
    router.nft(LOSS)
    shown = json.loads(probe(host, FAR[family], "--json").stdout)
    assert shown["path_mtu"] <= 1400
    assert shown["path_mtu"] == 1400 or not shown["exact"]


def test_words_as_they_come(path: tuple[Namespace, Namespace]) -> None:
    host, router = path
    router.ip("link set narrow mtu 1400")
    done = probe(host, FAR[4])
    assert done.returncode == 0
    first, ladder, *_, last = done.stdout.splitlines()
    assert first == "10.9.2.2: measuring from here by echo; nothing was changed"
    assert ladder.startswith("round 1: 576, 1280, 1320, 1358 and 1400 answered; 1420, ")
    assert last.startswith("10.9.2.2: path MTU 1400, both ways: 1400 answered in ")
    assert last.endswith(" ms; 1401 lost three times beside it")


def test_too_big_messages_are_hints(path: tuple[Namespace, Namespace]) -> None:
    host, router = path
    router.nft("delete table inet blackhole")
    router.ip("link set narrow mtu 1400")
    for family, sender in ((4, "10.9.1.1"), (6, "fd09:1::1")):
        shown = json.loads(probe(host, FAR[family], "--json").stdout)
        assert (shown["path_mtu"], shown["exact"]) == (1400, True)
        assert shown["hints"] == [{"from": sender, "mtu": 1400, "text": f"{sender} says: too big, MTU 1400"}]


def test_what_the_kernel_has_learned_does_not_count(path: tuple[Namespace, Namespace]) -> None:
    """A route exception left by an ICMP message, forged or stale, neither limits nor fragments the probes."""
    host, router = path
    router.nft("delete table inet blackhole")
    router.ip("link set narrow mtu 1300")
    probe(host, FAR[4])
    router.ip("link set narrow mtu 1500")
    assert "mtu 1300" in host.run("ip", "route", "get", FAR[4]).stdout
    assert json.loads(probe(host, FAR[4], "--json").stdout)["path_mtu"] == 1500


@pytest.mark.parametrize("family", [4, 6])
def test_never_above_the_device(path: tuple[Namespace, Namespace], family: int) -> None:
    host, _ = path
    host.ip("link set wan mtu 1460")
    done = probe(host, FAR[family])
    assert "path MTU 1460, both ways: 1460 answered in " in done.stdout
    assert done.stdout.endswith("this machine sends nothing larger there\n")


def test_nobody_answers(path: tuple[Namespace, Namespace]) -> None:
    host, router = path
    router.nft(DEAF)
    done = probe(host, FAR[4])
    assert done.returncode == 1
    assert done.stderr.startswith("clampctl: 10.9.2.2 does not answer, not even 576 bytes sent 5 times: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("address", ["203.0.113.1", "2001:db8::1"])
def test_no_route(lab: Lab, address: str) -> None:
    (alone,) = lab.namespaces("alone")
    done = probe(alone, address)
    assert done.returncode == 1
    assert done.stderr == f"clampctl: this machine has no route to {address}; see `ip route get`\n"


def test_without_the_capability(path: tuple[Namespace, Namespace]) -> None:
    host, _ = path
    done = probe(host, FAR[4], before=("setpriv", "--inh-caps=-net_raw", "--bounding-set=-net_raw"))
    assert (done.returncode, done.stderr) == (1, "clampctl: probing needs root or CAP_NET_RAW; use sudo\n")


def test_interrupt(path: tuple[Namespace, Namespace]) -> None:
    host, router = path
    router.nft(DEAF)
    child = subprocess.Popen(
        host.argv(*CLAMPCTL, "probe", FAR[4]),
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=10)
    assert (child.returncode, err.strip()) == (130, "")


def test_through_wireguard(lab: Lab) -> None:
    """A path of 1400 leaves 1328: the next byte is padded to 1344, and that to 1404 outside."""
    built = line(lab, "wireguard")
    for family in (4, 6):
        shown = json.loads(probe(built.gateway, SITE[family], "--json").stdout)
        assert (shown["path_mtu"], shown["exact"]) == (1328, True)
