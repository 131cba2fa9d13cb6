"""Timeouts: RFC 6298's arithmetic with literal figures."""

from __future__ import annotations

import pytest

from mssclamp.pmtu.round_trip import RoundTrip


def test_before_the_first_sample() -> None:
    assert RoundTrip().timeout == 0.2


def test_samples() -> None:
    trip = RoundTrip()
    trip.on_sample(0.1)
    assert (trip.smoothed, trip.timeout) == (0.1, pytest.approx(0.1 + 4 * 0.05))
    trip.on_sample(0.2)
    assert trip.smoothed == pytest.approx(0.1125)
    assert trip.timeout == pytest.approx(0.1125 + 4 * 0.0625)


def test_limits() -> None:
    trip = RoundTrip()
    trip.on_sample(0.001)
    assert trip.timeout == 0.1
    trip.on_sample(20)
    assert trip.timeout == 3


def test_silence_doubles_until_the_next_sample() -> None:
    trip = RoundTrip()
    trip.on_silence()
    trip.on_silence()
    assert trip.timeout == 0.8
    trip.on_sample(0.05)
    assert trip.timeout == pytest.approx(0.15)


def test_it_begins_with_what_was_measured_before() -> None:
    trip = RoundTrip(0.1)
    assert (trip.smoothed, trip.timeout) == (0.1, pytest.approx(0.3))
    trip.on_silence()
    assert trip.timeout == pytest.approx(0.6)
    assert RoundTrip(0.001).timeout == 0.1
    assert RoundTrip(60).timeout == 3
