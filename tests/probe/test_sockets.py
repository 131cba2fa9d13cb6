"""The probing sockets on this very machine: which answers count, what the kernel keeps away, and what is refused."""

from __future__ import annotations

import errno
import select
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from mssclamp.errors import ClampdError, DatapathError
from mssclamp.probe.echo_socket import EchoSocket
from mssclamp.probe.raw import Complaint, Hint, RawSocket, Reply, _offender, judge
from mssclamp.probe.sockets import IDLE_SECONDS, MOST, PRIORITY, Place, Sockets
from mssclamp.probe.tcp_socket import TcpSocket
from mssclamp.wire import icmp, tcp, tcp_probe
from support import require_root

LOOPBACK = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}
ELSEWHERE = "::2"
TOO_BIG = Hint("fd00::9", "message too long", 1300)
KINDS = [EchoSocket, TcpSocket]


@pytest.fixture
def opened() -> Iterator[Callable[[RawSocket], RawSocket]]:
    require_root()
    made: list[RawSocket] = []

    def keep(each: RawSocket) -> RawSocket:
        made.append(each)
        return each

    yield keep
    for each in made:
        each.close()


@pytest.fixture
def echo(opened: Callable[[RawSocket], RawSocket]) -> EchoSocket:
    return opened(EchoSocket(6))


@pytest.fixture
def tcp_socket(opened: Callable[[RawSocket], RawSocket]) -> TcpSocket:
    return opened(TcpSocket(6))


def replies(made: RawSocket, number: int = 1) -> list[Reply]:
    """So many, or what came in a second."""
    found: list[Reply] = []
    until = time.monotonic() + 1
    while len(found) < number and (left := until - time.monotonic()) > 0:
        select.select([made], [], [], left)
        found += made.replies()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [4, 6])
def test_several_flows(kind: type[RawSocket], version: int, opened) -> None:
    made = opened(kind(version, "lo", PRIORITY))
    one, other = made.aim(LOOPBACK[version]), made.aim(LOOPBACK[version])
    assert one != other
    made.send(one, 7, 1400)
    made.send(other, 7, 9000)
    made.send(other, 8, 100)
    found = replies(made, 3)
    assert sorted((each.flow, each.number) for each in found) == sorted([(one, 7), (other, 7), (other, 8)])
    assert all(each.proof and each.hint is None for each in found)
    made.send(one, 9, 100)
    made.leave(one)
    assert replies(made) == []


@pytest.mark.parametrize("version", [4, 6])
def test_a_tcp_port_that_is_open_is_no_answer(version: int, opened) -> None:
    made = opened(TcpSocket(version))
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    flow = made.aim(LOOPBACK[version])
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((str(LOOPBACK[version]), flow))
        listener.listen()
        made.send(flow, 0, 1400)
        assert replies(made) == []


@pytest.mark.parametrize("version", [4, 6])
def test_other_peoples_packets_stay_in_the_kernel(version: int, opened) -> None:
    one, other = opened(EchoSocket(version)), opened(EchoSocket(version))
    while one._tag == other._tag:
        other = opened(EchoSocket(version))
    tcp_made = opened(TcpSocket(version))
    other.send(other.aim(LOOPBACK[version]), 0, 100)
    assert len(replies(other)) == 1
    assert not select.select([one], [], [], 0)[0]
    with socket.socket(one._family, socket.SOCK_STREAM) as client, pytest.raises(ConnectionRefusedError):
        client.connect((str(LOOPBACK[version]), 1))
    assert not select.select([tcp_made], [], [], 0)[0]


def test_which_echo_replies_count(echo: EchoSocket) -> None:
    flow = echo.aim(LOOPBACK[6])
    echo.send(flow, 3, 1400)
    payload = echo._flows[flow].outstanding[3]
    assert len(payload) == 1400 - 40 - 8

    def answered(identifier: int, sequence: int, content: bytes, sender: str = "::1") -> Reply | None:
        head = icmp.HEADER.pack(icmp.ECHO_REPLY[6], 0, 0, identifier, sequence)
        return echo._answered(head + content, sender)

    assert answered(flow ^ 1, 3, payload) is None
    assert answered(flow, 4, payload) is None
    assert answered(flow, 3, payload, ELSEWHERE) is None
    assert answered(flow, 3, payload[:-1]) is None
    assert answered(flow, 3, payload[:-1] + bytes([payload[-1] ^ 1])) is None
    assert echo._answered(b"", "") is None
    assert answered(flow, 3, payload) == Reply(flow, 3)


def test_which_errors_about_an_echo_prove_something(echo: EchoSocket) -> None:
    flow = echo.aim(LOOPBACK[6])
    echo.send(flow, 3, 1400)
    payload = echo._flows[flow].outstanding[3]

    def quoted(sequence: int, content: bytes, *, hint: Hint = TOO_BIG, destination: str = "::1") -> Reply | None:
        quote = icmp.build_request(icmp.Echo(flow, sequence, content), 6)
        return echo._quoted(Complaint(hint, destination, quote))

    assert quoted(3, payload) == Reply(flow, 3, TOO_BIG, proof=True)
    assert quoted(3, payload[:8]) == Reply(flow, 3, TOO_BIG, proof=True)
    for proves_nothing in (
        quoted(3, payload[:7]),
        quoted(4, payload),
        quoted(3, bytes(100)),
        quoted(3, payload, hint=Hint("::1", "message too long", 1300)),  # the target would not say so
        quoted(3, payload, hint=Hint("fd00::9", "no route to host", None)),
    ):
        assert proves_nothing is not None
        assert not proves_nothing.proof
    assert quoted(3, payload, destination=ELSEWHERE) is None
    assert echo._quoted(Complaint(TOO_BIG, "::1", b"\x80\0")) is None
    echo.leave(flow)
    assert quoted(3, payload) is None


def test_which_resets_count(tcp_socket: TcpSocket) -> None:
    flow = tcp_socket.aim(LOOPBACK[6])
    tcp_socket.send(flow, 3, 1400)
    (port, (_, syn)) = tcp_socket._flows[flow].outstanding.popitem()
    tcp_socket._flows[flow].outstanding[port] = 3, syn

    def answered(
        source: int, destination: int, acknowledgment: int, flags: int = tcp.RST | tcp.ACK, sender: str = "::1"
    ) -> Reply | None:
        acknowledgment &= 0xFFFFFFFF
        segment = tcp_probe.HEADER.pack(source, destination, 0, acknowledgment, 0x50, flags, 0, 0, 0)
        return tcp_socket._answered(segment, sender)

    whole = syn.sequence + 1 + 1400 - 60
    assert answered(flow, port, whole) == Reply(flow, 3)
    assert answered(flow, port, whole - 1) is None
    assert answered(flow, port, syn.sequence + 1) is None  # the payload fell off on the way
    assert answered(flow, port ^ 1, whole) is None
    assert answered(flow ^ 1, port, whole) is None
    assert answered(flow, port, whole, tcp.SYN | tcp.ACK) is None
    assert answered(flow, port, whole, tcp.RST) is None
    assert answered(flow, port, whole, sender=ELSEWHERE) is None
    assert tcp_socket._answered(b"", "") is None


def test_which_errors_about_a_syn_prove_something(tcp_socket: TcpSocket) -> None:
    flow = tcp_socket.aim(LOOPBACK[6])
    tcp_socket.send(flow, 3, 1400)
    (_, syn) = next(iter(tcp_socket._flows[flow].outstanding.values()))

    def quoted(quote: bytes, *, hint: Hint = TOO_BIG, destination: str = "::1") -> Reply | None:
        return tcp_socket._quoted(Complaint(hint, destination, quote))

    assert quoted(syn.build()[:8]) == Reply(flow, 3, TOO_BIG, proof=True)
    assert quoted(syn.build(), hint=Hint("fd00::9", "connection refused", None)).proof is False
    assert quoted(syn.build()[:7]) is None
    assert quoted(syn.build()[:7] + bytes([syn.build()[7] ^ 1])) is None
    assert quoted(syn.build(), destination=ELSEWHERE) is None


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENETUNREACH, "no route to ::1 by eth0"),
        (errno.EHOSTUNREACH, "no route to ::1 by eth0"),
        (errno.EPERM, "a firewall rule"),
        (errno.EACCES, "prohibited"),
        (errno.EADDRNOTAVAIL, "no address from which"),
        (errno.EINVAL, "nothing to send to"),
        (errno.ENODEV, "eth0 is down or gone"),
    ],
)
def test_what_no_other_try_can_mend(number: int, said: str) -> None:
    with pytest.raises(ClampdError, match=said):
        judge(OSError(number, "…"), "::1", "eth0")


def test_what_may_pass() -> None:
    for number in (errno.ENOBUFS, errno.EMSGSIZE, errno.EAGAIN, errno.ECONNREFUSED):
        judge(OSError(number, "…"), "::1")


def test_offender() -> None:
    v4 = struct.pack("=HH4s8x", socket.AF_INET, 0, ip_address("192.0.2.9").packed)
    v6 = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, ip_address("fd00::9").packed, 0)
    assert (_offender(v4), _offender(v6), _offender(b"")) == ("192.0.2.9", "fd00::9", "somebody")


# -- the engine's


class Cookies:
    """Those allowed and not yet forgotten."""

    def __init__(self) -> None:
        self.allowed: set[int] = set()
        self.ever = 0

    def allow(self, cookie: int) -> None:
        self.allowed.add(cookie)
        self.ever += 1

    def forget(self, cookie: int) -> None:
        self.allowed.remove(cookie)


@pytest.fixture
def cookies() -> Cookies:
    return Cookies()


@pytest.fixture
def sockets(cookies: Cookies) -> Iterator[Sockets]:
    require_root()
    with selectors.DefaultSelector() as selector:
        made = Sockets(selector, cookies.allow, cookies.forget)
        yield made
        made.close()
        assert not cookies.allowed
        assert not selector.get_map()


def place(ifindex: int = 1) -> Place:
    return Place("lo", ifindex, 4, "echo")


def test_one_socket_for_one_place(sockets: Sockets, cookies: Cookies) -> None:
    held = sockets.take(place(), 0.0)
    assert sockets.take(place(), 0.0) is held
    assert cookies.allowed == {held.cookie}
    other = sockets.take(place(2), 0.0)
    assert other is not held
    assert held.socket._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) & 0xFFFFFFFF == 0xC1A30000


def test_idle_sockets_are_closed(sockets: Sockets, cookies: Cookies) -> None:
    held = sockets.take(place(), 0.0)
    sockets.take(place(), 0.0)
    assert sockets.next_deadline() is None
    sockets.release(held, 1.0)
    sockets.close_idle(1000.0)
    assert sockets.next_deadline() is None
    sockets.release(held, 5.0)
    assert sockets.next_deadline() == 5.0 + IDLE_SECONDS
    sockets.close_idle(4.0 + IDLE_SECONDS)
    assert cookies.allowed
    sockets.close_idle(5.0 + IDLE_SECONDS)
    assert not cookies.allowed
    assert sockets.next_deadline() is None


def test_never_more_than_the_kernel_can_know(sockets: Sockets, cookies: Cookies) -> None:
    for i in range(MOST):
        held = sockets.take(place(i), 0.0)
    with pytest.raises(ClampdError, match="too many"):
        sockets.take(place(MOST), 0.0)
    sockets.release(held, 0.0)
    sockets.take(place(MOST), 0.0)
    assert (len(cookies.allowed), cookies.ever) == (MOST, MOST + 1)


def test_a_socket_that_is_not_allowed_is_closed() -> None:
    require_root()

    def refuse(_: int) -> None:
        raise DatapathError("the map is full")

    with selectors.DefaultSelector() as selector:
        sockets = Sockets(selector, refuse, refuse)
        with pytest.raises(DatapathError):
            sockets.take(place(), 0.0)
        assert not selector.get_map()
        sockets.close()
