"""The path to an address measured by echo, on this very machine."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

import pytest

from mssclamp.errors import ForbiddenError, RequestError
from mssclamp.probe.echo import EchoProber, Hint
from support import require_root


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_loopback(address: str) -> None:
    require_root()
    told = []
    with EchoProber(ip_address(address)) as prober:
        result = prober.measure(told.append).result
    assert result is not None
    assert (result.mtu, result.exact) == (65535, True)
    assert [each.number for each in told] == [1]


@pytest.mark.parametrize("address", ["224.0.0.1", "ff02::1", "0.0.0.0", "::"])
def test_no_host(address: str) -> None:
    with pytest.raises(RequestError, match="is no single host's address; name one host's"):
        EchoProber(ip_address(address))


def test_no_such_device() -> None:
    require_root()
    with pytest.raises(RequestError, match="ct-nothing: No such device"):
        EchoProber(ip_address("127.0.0.1"), "ct-nothing")
    with pytest.raises(RequestError, match="fe80::1%ct-nothing: no such device"):
        EchoProber(ip_address("fe80::1%ct-nothing"))


def test_without_the_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(ForbiddenError, match="probing needs root or CAP_NET_RAW; use sudo"):
        EchoProber(ip_address("192.0.2.1"))


def test_hints_in_words() -> None:
    assert Hint("192.0.2.9", "message too long", 1400).text == "192.0.2.9 says: too big, MTU 1400"
    assert Hint("192.0.2.9", "no route to host", None).text == "192.0.2.9 says: no route to host"
