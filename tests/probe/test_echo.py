"""The echo prober's socket on this very machine: which answers count, and what is refused."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from mssclamp.errors import ClampdError, ForbiddenError, RequestError
from mssclamp.pmtu.search import Probe, Search
from mssclamp.probe.echo import EchoProber, Hint, _offender
from mssclamp.wire import icmp
from support import require_root


@pytest.fixture
def prober() -> Iterator[EchoProber]:
    require_root()
    with EchoProber(ip_address("::1")) as made:
        yield made


def reply(identifier: int, sequence: int, payload: bytes) -> bytes:
    return icmp.HEADER.pack(icmp.ECHO_REPLY[6], 0, 0, identifier, sequence) + payload


def test_only_our_answers_count(prober: EchoProber) -> None:
    search = Search(1280, 1501)
    search.start(0)
    for probe in search.probes_to_send(0):
        assert prober._send_one(probe) is None
    number, payload = max(prober._outstanding.items())
    ours, right = prober._identifier, ("::1", payload)
    for identifier, sequence, (sender, content) in (
        (ours ^ 1, number, right),
        (ours, number + 1, right),
        (ours, number, ("::2", payload)),
        (ours, number, ("::1", payload[:-1])),
        (ours, number, ("::1", payload[:-1] + bytes([payload[-1] ^ 1]))),
    ):
        prober._take((reply(identifier, sequence, content), sender), search)
        assert search.floor is None
    prober._take((b"", ""), search)
    prober._take((reply(ours, number, payload), "::1"), search)
    assert search.floor == 1280


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_loopback(address: str) -> None:
    require_root()
    told = []
    with EchoProber(ip_address(address)) as prober:
        result = prober.measure(told.append).result
    assert result is not None
    assert (result.mtu, result.exact) == (65535, True)
    assert [each.number for each in told] == [1]


def test_the_packet_has_the_size_that_was_asked_for(prober: EchoProber) -> None:
    prober._send_one(Probe(0, 1400))
    assert len(prober._outstanding[0]) == 1400 - 40 - 8


@pytest.mark.parametrize("address", ["224.0.0.1", "ff02::1", "0.0.0.0", "::"])
def test_no_host(address: str) -> None:
    with pytest.raises(RequestError, match="is no single host's address; name one host's"):
        EchoProber(ip_address(address))


def test_no_such_device() -> None:
    require_root()
    with pytest.raises(RequestError, match="ct-nothing: No such device"):
        EchoProber(ip_address("127.0.0.1"), "ct-nothing")


def test_without_the_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(ForbiddenError, match="probing needs root or CAP_NET_RAW; use sudo"):
        EchoProber(ip_address("192.0.2.1"))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENETUNREACH, "no route to ::1"),
        (errno.EHOSTUNREACH, "no route to ::1"),
        (errno.EPERM, "a firewall rule"),
        (errno.EADDRNOTAVAIL, "no address from which"),
    ],
)
def test_what_no_other_try_can_mend(prober: EchoProber, number: int, said: str) -> None:
    with pytest.raises(ClampdError, match=said):
        prober._judge(OSError(number, "…"))


def test_what_may_pass(prober: EchoProber) -> None:
    prober.hints.append(Hint("192.0.2.9", "no route to host", None))
    for number in (errno.ENOBUFS, errno.EMSGSIZE, errno.EHOSTUNREACH, errno.ECONNREFUSED):
        prober._judge(OSError(number, "…"))


def test_hints_in_words() -> None:
    assert Hint("192.0.2.9", "message too long", 1400).text == "192.0.2.9 says: too big, MTU 1400"
    assert Hint("192.0.2.9", "no route to host", None).text == "192.0.2.9 says: no route to host"


def test_offender() -> None:
    v4 = struct.pack("=HH4s8x", socket.AF_INET, 0, ip_address("192.0.2.9").packed)
    v6 = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, ip_address("fd00::9").packed, 0)
    assert (_offender(v4), _offender(v6), _offender(b"")) == ("192.0.2.9", "fd00::9", "somebody")
