"""ICMP "too big" from the underlay: taken or copied, told with what proves it, and everything else left alone."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest

from bpf.kernel import UNSPEC
from bpf.packets import (
    DESTINATION,
    DONT_FRAGMENT,
    HOP_BY_HOP,
    MORE_FRAGMENTS,
    NOP,
    TCP,
    TEST_RUN_IFINDEX,
    UDP,
    ethernet,
    extension,
    fragment_header,
)
from bpf.records import Records, head
from bpf.underlay import (
    GRE,
    OUR_PORT,
    PEER,
    PORT,
    REMOTE,
    SHOT,
    SIDES,
    Side,
    Underlay,
    data_message,
)
from mssclamp.datapath import abi, loader
from mssclamp.datapath.abi import EventKind
from support import require_bpf

pytestmark = pytest.mark.bpf

SECOND = 10**9


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[Underlay, Records]]:
    require_bpf()
    instance = loader.load(16)
    records = Records(instance)
    yield Underlay(instance), records
    records.close()
    instance.close()


@pytest.fixture
def underlay(loaded: tuple[Underlay, Records]) -> Underlay:
    loaded[0].reset(abi.ENDPOINT_TAKE_ICMP)
    loaded[1].settled()
    return loaded[0]


@pytest.fixture
def records(loaded: tuple[Underlay, Records]) -> Records:
    return loaded[1]


@pytest.fixture(params=SIDES, ids=str)
def side(request: pytest.FixtureRequest) -> Side:
    side: Side = request.param
    return side


def quoted(side: Side, receiver: int = 1, counter: int = 2, *, size: int = 1480, **fields: object) -> bytes:
    """An outer packet of `size` bytes, with DF."""
    if side.version == 4:
        fields = {"fragment": DONT_FRAGMENT} | fields
    return side.datagram(data_message(receiver, counter, size=size - side.headers), **fields)


def test_it_is_told_and_taken(underlay: Underlay, records: Records, side: Side) -> None:
    message = side.too_big(quoted(side), 1400)
    assert underlay.receive(side, message) == SHOT
    (event,) = records.settled()
    assert (event.kind, event.peer, event.ifindex) == (EventKind.UNDERLAY_ICMP, PEER, TEST_RUN_IFINDEX)
    assert (event.size, event.mtu, event.family, event.flags) == (1400, 1480, side.version, 0)
    assert (event.link, head(event)) == (side.link, message[:96])


def test_where_it_is_observed_it_is_only_told(underlay: Underlay, records: Records, side: Side) -> None:
    underlay.reset()
    assert underlay.receive(side, side.too_big(quoted(side))) == UNSPEC
    assert len(records.settled()) == 1


def test_a_short_message_has_a_short_head(underlay: Underlay, records: Records) -> None:
    """RFC 792 asks for no more than 8 bytes behind the quoted header."""
    side = SIDES[0]
    message = side.too_big(quoted(side), quote=8)
    assert underlay.receive(side, message) == SHOT
    (event,) = records.settled()
    assert head(event) == message
    assert len(message) == 14 + 28 + 28


# Proof that its sender saw the packet.


@pytest.mark.parametrize(
    ("receiver", "counter", "seen"),
    [
        (9, 100_000, True),
        (9, 99_999, True),
        (9, 100_000 - 65_535, True),
        (9, 100_000 - 65_536, False),
        (9, 100_001, False),
        (9, 2**64 - 1, False),
        (8, 100_000, False),
        (0, 100_000, False),
    ],
)
def test_a_fresh_counter_is_proof(
    underlay: Underlay, records: Records, side: Side, receiver: int, counter: int, seen: bool
) -> None:
    underlay.send(side, quoted(side, 9, 100_000))
    assert underlay.receive(side, side.too_big(quoted(side, receiver, counter))) == SHOT
    (event,) = records.settled()
    assert event.flags == (abi.EVENT_SEEN if seen else 0)


def test_every_segment_of_a_super_packet_is_fresh(underlay: Underlay, records: Records, side: Side) -> None:
    underlay.send(side, quoted(side, 9, 50, size=3000), gso_size=1000, gso_segs=3)
    for counter, seen in ((50, True), (52, True), (53, False)):
        underlay.receive(side, side.too_big(quoted(side, 9, counter)))
        (event,) = records.settled()
        assert event.flags == seen
        time.sleep(0.1)


def test_before_anything_was_sent_there_is_no_proof(underlay: Underlay, records: Records, side: Side) -> None:
    underlay.receive(side, side.too_big(quoted(side, 0, 0)))
    (event,) = records.settled()
    assert event.flags == 0


@pytest.mark.parametrize("quote", [8, 8 + 15, 8 + 16])
def test_proof_takes_the_whole_head_of_the_message(
    underlay: Underlay, records: Records, side: Side, quote: int
) -> None:
    underlay.send(side, quoted(side, 9, 5))
    assert underlay.receive(side, side.too_big(quoted(side, 9, 5), quote=quote)) == SHOT
    (event,) = records.settled()
    assert event.flags == (quote == 24)


def test_other_messages_prove_nothing(underlay: Underlay, records: Records, side: Side) -> None:
    underlay.send(side, quoted(side, 9, 5))
    handshake = side.datagram(data_message(9, 5, kind=1))
    underlay.receive(side, side.too_big(handshake))
    (event,) = records.settled()
    assert event.flags == 0


# Which are ours.


def test_the_quote_names_our_port_where_that_is_known(underlay: Underlay, records: Records, side: Side) -> None:
    underlay.reset(abi.ENDPOINT_TAKE_ICMP, source=OUR_PORT)
    assert underlay.receive(side, side.too_big(quoted(side, our_port=OUR_PORT + 1))) == UNSPEC
    assert records.settled() == []
    assert underlay.receive(side, side.too_big(quoted(side))) == SHOT
    assert len(records.settled()) == 1


def test_an_endpoint_of_a_protocol_without_ports(underlay: Underlay, records: Records, side: Side) -> None:
    key = abi.endpoint_key(REMOTE[side.version], 0, GRE)
    underlay.instance.put_endpoint(key, abi.Endpoint(9, abi.ENDPOINT_TAKE_ICMP))
    assert underlay.receive(side, side.too_big(side.packet(bytes(1400), protocol=GRE))) == SHOT
    (event,) = records.settled()
    assert (event.peer, event.mtu) == (9, 1400 + side.headers - 8)


def test_an_endpoint_of_any_port(underlay: Underlay, records: Records, side: Side) -> None:
    key = abi.endpoint_key(REMOTE[side.version], 0, UDP)
    underlay.instance.put_endpoint(key, abi.Endpoint(9, 0))
    assert underlay.receive(side, side.too_big(quoted(side, port=7))) == UNSPEC
    (event,) = records.settled()
    assert event.peer == 9


def _foreign(side: Side) -> Iterator[tuple[str, bytes]]:
    about = quoted(side)
    ours = side.too_big(about)
    yield "about another host", side.too_big(quoted(side, remote=(REMOTE[side.version] + 1).packed))
    yield "about another port", side.too_big(quoted(side, port=PORT + 1))
    tcp = side.packet(struct.pack("!HHHH", OUR_PORT, PORT, 0, 0) + bytes(1400), protocol=TCP)
    yield "about TCP", side.too_big(tcp)
    yield "about another protocol", side.too_big(side.packet(bytes(1400), protocol=GRE))
    yield "cut off in the quoted header", ours[: side.link + side.headers + side.headers - 9]
    yield "cut off before the ports", ours[: side.link + side.headers + side.headers - 8 + 3]
    if side.version == 4:
        for code in (0, 1, 2, 3, 5, 13):
            yield f"unreachable, code {code}", side.too_big(about, code=code)
        for kind in (0, 4, 5, 8, 11, 12):
            yield f"type {kind}", side.too_big(about, kind=kind)
        yield "a fragment", side.too_big(about, fragment=MORE_FRAGMENTS)
        yield "a later fragment", side.too_big(about, fragment=100)
        yield "about a later fragment", side.too_big(quoted(side, fragment=100))
    else:
        for kind in (1, 3, 4, 128, 129, 137):
            yield f"type {kind}", side.too_big(about, kind=kind)
        for each in (extension(HOP_BY_HOP), extension(DESTINATION), fragment_header(), fragment_header(more=True)):
            yield f"behind extension header {each.kind}", side.too_big(about, extensions=(each,))
            yield f"about one with extension header {each.kind}", side.too_big(quoted(side, extensions=(each,)))
    yield "no ICMP", about
    yield "no IP header", ours[: side.link] + b"\x15" + ours[side.link + 1 :]
    at = side.link + side.headers
    yield "no IP header in the quote", ours[:at] + b"\x15" + ours[at + 1 :]
    yield (
        "an IP header of the other version in the quote",
        ours[:at] + (b"\x60", b"\x45")[side.version == 6] + ours[at + 1 :],
    )


def test_everything_else_is_left_alone(underlay: Underlay, records: Records, side: Side) -> None:
    for what, packet in _foreign(side):
        assert underlay.receive(side, packet) == UNSPEC, what
    assert underlay.receive(side, ethernet(bytes(100), 0x0806)) == UNSPEC
    assert records.settled() == []


def test_options_of_the_header_and_of_the_quoted_one(underlay: Underlay, records: Records) -> None:
    for side in (side for side in SIDES if side.version == 4):
        underlay.reset(abi.ENDPOINT_TAKE_ICMP)
        underlay.send(side, quoted(side, 9, 5, options=NOP * 4))
        message = side.too_big(quoted(side, 9, 5, options=NOP * 4), options=NOP * 12)
        assert underlay.receive(side, message) == SHOT
        (event,) = records.settled()
        assert (event.size, event.mtu, event.flags) == (1400, 1484, abi.EVENT_SEEN)


@pytest.mark.parametrize("mtu", [0, 68, 1279, 65535])
def test_any_mtu_is_told(underlay: Underlay, records: Records, side: Side, mtu: int) -> None:
    """What to believe is the agent's to say."""
    assert underlay.receive(side, side.too_big(quoted(side), mtu)) == SHOT
    (event,) = records.settled()
    assert event.size == mtu


def test_numbers_larger_than_sixteen_bits(underlay: Underlay, records: Records) -> None:
    for side in (side for side in SIDES if side.version == 6):
        underlay.reset()
        about = bytearray(quoted(side))
        about[side.link + 4 : side.link + 6] = b"\xff\xff"
        underlay.receive(side, side.too_big(bytes(about), 0x12345678))
        (event,) = records.settled()
        assert (event.size, event.mtu) == (0x12345678, 0xFFFF)


# Rates.


def test_ten_a_second_and_endpoint_are_told_and_all_taken(underlay: Underlay, records: Records, side: Side) -> None:
    message = side.too_big(quoted(side))
    began = time.monotonic()
    count = 0
    while time.monotonic() - began < 1.0:
        assert underlay.receive(side, message) == SHOT
        count += 1
    assert count > 100
    assert 5 <= len(records.settled()) <= 11


def test_endpoints_do_not_wait_for_one_another(underlay: Underlay, records: Records) -> None:
    for side in SIDES:
        if side.link_header:
            underlay.receive(side, side.too_big(quoted(side)))
    assert len(records.settled()) == 2


def test_all_endpoints_together_have_a_limit(underlay: Underlay, records: Records, side: Side) -> None:
    """Here it is used up: window of clampd_told, began and count."""
    key = struct.pack("=I", EventKind.UNDERLAY_ICMP)
    told = underlay.instance.maps["clampd_told"]
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    told.put(key, struct.pack("=QII", now + SECOND, 1000, 0))
    assert underlay.receive(side, side.too_big(quoted(side))) == SHOT
    assert records.settled() == []
    told.put(key, struct.pack("=QII", now - SECOND, 1000, 0))
    assert underlay.receive(side, side.too_big(quoted(side))) == SHOT
    assert len(records.settled()) == 1


def test_the_stack_gets_it_once_the_agent_is_gone(underlay: Underlay, records: Records, side: Side) -> None:
    """Somebody has to heed it, and then there is only the stack."""
    underlay.reset(abi.ENDPOINT_TAKE_ICMP, attended_until=time.clock_gettime_ns(time.CLOCK_BOOTTIME) - SECOND)
    assert underlay.receive(side, side.too_big(quoted(side), 1400)) == UNSPEC
    assert len(records.settled()) == 1
