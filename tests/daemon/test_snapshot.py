"""From state to documents: every field, unknown ones null and never absent."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from mssclamp.daemon.resolve import Resolved
from mssclamp.daemon.snapshot import address_document, instant, peer_document
from mssclamp.datapath.abi import Counters
from mssclamp.pmtu.table import Learned, Observation, Peer, PeerFacts, Tally, Value

FACTS = PeerFacts(
    id="branch-7",
    name="branch-7",
    device="gre7",
    prefixes=(ip_network("10.7.0.0/16"), ip_network("2001:db8:7::/48")),
    endpoint="192.0.2.7",
    overhead=24,
    mtu=1380,
)
PINNED = Value(1380, "pinned", "pin", "pinned by the configuration")
AWAY = Value(None, "unprobed", "device", "gre7 is not there")

CONTRACT = """
id name device kind public_key prefixes endpoint last_handshake rtt overhead mode state mtu path_mtu mtu_from_peer
direction exact mss4 mss6 floor ceiling source why changed checked counters
"""


def row(value: Value = PINNED, facts: PeerFacts = FACTS) -> Peer:
    peer = Peer(facts, value, changed=1_769_860_800.9)
    peer.evidence.append(Observation(1_769_860_800.0, value.source, value.mtu, "in force", value.why))
    return peer


@pytest.mark.parametrize(
    ("unix", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_769_860_800.999, "2026-01-31T12:00:00Z"), (4e9, "2096-10-02T07:06:40Z")],
)
def test_instants_are_utc_to_the_second(unix: float, text: str) -> None:
    assert instant(unix) == text


def test_a_peer() -> None:
    document = json.loads(msgspec.json.encode(peer_document(row(), Counters(12, 3), enforced=True)))
    assert sorted(document) == sorted(CONTRACT.split())
    counters = document.pop("counters")
    assert document == {
        "id": "branch-7",
        "name": "branch-7",
        "device": "gre7",
        "kind": "static",
        "public_key": None,
        "prefixes": ["10.7.0.0/16", "2001:db8:7::/48"],
        "endpoint": "192.0.2.7",
        "last_handshake": None,
        "rtt": None,
        "overhead": 24,
        "mode": "enforce",
        "state": "pinned",
        "mtu": 1380,
        "path_mtu": None,
        "mtu_from_peer": None,
        "direction": None,
        "exact": None,
        "mss4": 1340,
        "mss6": 1320,
        "floor": None,
        "ceiling": None,
        "source": "pin",
        "why": "pinned by the configuration",
        "changed": "2026-01-31T12:00:00Z",
        "checked": None,
    }
    assert counters.pop("clamped") == 12
    assert counters.pop("would_clamp") == 3
    assert set(counters.values()) == {0}


def searched(mtu: int = 1352, ceiling: int | None = 1353, *, exact: bool = True) -> Peer:
    why = f"{mtu} answered in 12 ms"
    peer = row(Value(mtu, "confirmed", "probe", why))
    peer.learned = Learned(mtu, ceiling, exact, "probe", why, 1_769_860_800, 1_769_860_860, "to-peer", 0.0123456789)
    peer.tally = Tally(blackholes=1, hints=5, hints_refuted=4, probes=14, rounds=2)
    return peer


def test_what_was_learned() -> None:
    document = peer_document(searched(), Counters(resent=9), enforced=True, last_handshake=1_769_860_742.5)
    assert (document.state, document.mtu, document.source, document.direction) == (
        "confirmed", 1352, "probe", "to-peer"
    )  # fmt: skip
    assert (document.floor, document.ceiling, document.exact, document.path_mtu) == (1352, 1353, True, 1376)
    assert (document.rtt, document.checked) == (0.012346, "2026-01-31T12:01:00Z")
    assert document.last_handshake == "2026-01-31T11:59:02Z"
    counters = document.counters
    assert (counters.blackholes, counters.retransmits, counters.hints, counters.hints_refuted) == (1, 9, 5, 4)
    assert (counters.probes, counters.rounds) == (14, 2)


@pytest.mark.parametrize(
    ("ceiling", "exact", "shown"),
    [(None, True, 1353), (None, False, None), (1400, False, 1400), (1353, True, 1353)],
)
def test_the_ceiling(ceiling: int | None, exact: bool, shown: int | None) -> None:
    """Where the device takes no more, that is one above; where larger sizes were not tried, nobody knows."""
    document = peer_document(searched(1352, ceiling, exact=exact), Counters(), enforced=True)
    assert (document.floor, document.ceiling) == (1352, shown)


def test_what_a_router_said_is_no_bound() -> None:
    peer = row(Value(1300, "hinted", "icmp", "a router says that 1300 fit"))
    peer.learned = Learned(1300, None, False, "icmp", "a router says that 1300 fit", 1e9, 1e9, "to-peer")
    document = peer_document(peer, Counters(), enforced=True)
    assert (document.floor, document.ceiling, document.path_mtu, document.rtt) == (None, None, None, None)
    assert (document.direction, document.exact, document.source) == ("to-peer", False, "icmp")


def test_a_peer_whose_device_is_away() -> None:
    document = peer_document(row(AWAY), Counters(), enforced=False)
    assert (document.mtu, document.mss4, document.mss6, document.mode) == (None, None, None, "observe")


def test_the_mss_is_never_below_what_every_host_takes() -> None:
    document = peer_document(row(Value(576, "pinned", "pin", "small")), Counters(), enforced=True)
    assert (document.mss4, document.mss6) == (536, 536)


def test_evidence_is_for_show_alone() -> None:
    assert "evidence" not in json.loads(msgspec.json.encode(peer_document(row(), Counters(), enforced=True)))
    shown = peer_document(row(), Counters(), enforced=True, with_evidence=True)
    assert json.loads(msgspec.json.encode(shown))["evidence"] == [
        {
            "at": "2026-01-31T12:00:00Z",
            "source": "pin",
            "size": 1380,
            "verdict": "in force",
            "text": "pinned by the configuration",
        }
    ]


# -- what packets of an address meet


def test_a_peer_that_was_named_has_no_address() -> None:
    assert address_document(Resolved(row()), enforced=True, clamped=True, answered=True) is None


@pytest.mark.parametrize(
    ("address", "prefix", "headers", "mss"),
    [("10.7.1.2", "10.7.0.0/16", 40, 1340), ("2001:db8:7::1", "2001:db8:7::/48", 60, 1320)],
)
def test_what_an_address_meets(address: str, prefix: str, headers: int, mss: int) -> None:
    found = Resolved(row(), ip_address(address), ip_network(prefix))
    document = address_document(found, enforced=True, clamped=True, answered=True)
    assert document is not None
    assert (document.address, document.device, document.prefix) == (address, "gre7", prefix)
    assert document.limited_by == "pinned by the configuration"
    assert document.costs == "24 bytes of outer headers on every packet"
    assert [(each.packet, each.direction) for each in document.meets] == [
        ("syn", "to-peer"),
        ("syn", "from-peer"),
        ("full-size", "to-peer"),
        ("full-size", "from-peer"),
    ]
    assert document.meets[0].text == f"an MSS above {mss} is lowered to {mss}: 1380 less {headers} of headers"
    assert document.meets[2].text.startswith(
        'up to 1380 bytes fit; a larger packet is answered with ICMP "too big, 1380"'
    )
    assert ("without DF it passes" in document.meets[2].text) == (headers == 40)


def test_what_an_address_meets_in_observe_mode() -> None:
    document = address_document(
        Resolved(row(), ip_address("10.7.1.2"), ip_network("10.7.0.0/16")), enforced=False, clamped=True, answered=True
    )
    assert document is not None
    assert "would be lowered (observe mode changes nothing) to 1340" in document.meets[0].text
    assert "would be answered (observe mode changes nothing)" in document.meets[2].text


def test_what_an_address_meets_where_clampd_is_to_do_nothing() -> None:
    found = Resolved(row(), ip_address("10.7.1.2"), ip_network("10.7.0.0/16"))
    document = address_document(found, enforced=True, clamped=False, answered=False)
    assert document is not None
    assert document.meets[0].text == "nothing: clamping is off for this device"
    assert document.meets[2].text == "up to 1380 bytes fit; a larger packet is left to the kernel"


def test_an_answer_in_ipv6_never_says_less_than_1280() -> None:
    small = row(Value(1200, "pinned", "pin", "pinned by clampctl"))
    found = Resolved(small, ip_address("2001:db8:7::1"), ip_network("2001:db8:7::/48"))
    document = address_document(found, enforced=True, clamped=True, answered=True)
    assert document is not None
    assert document.meets[2].text.startswith("up to 1280 bytes fit")


def test_what_an_address_meets_while_its_device_is_away() -> None:
    facts = PeerFacts("branch-7", "branch-7", "gre7", FACTS.prefixes)
    found = Resolved(row(AWAY, facts), ip_address("10.7.1.2"), ip_network("10.7.0.0/16"))
    document = address_document(found, enforced=True, clamped=True, answered=True)
    assert document is not None
    assert {each.text for each in document.meets} == {"nothing: gre7 is not there"}
    assert document.costs == "no outer headers that clampd knows of"
