"""Who is enforced until when: a table of cases for reading, and the rules over any history of commands."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mssclamp.errors import ConflictError
from mssclamp.pmtu.modes import EVERY_DEVICE, FOREVER, NEVER, Modes, scopes_text

DEVICES = ("wg0", "wg1", "!odd")  # a name that sorts before EVERY_DEVICE
MODES = ("observe", "enforce")

SOON, LATER = 1_000, 2_000

Command = Callable[[Modes], object]


def enforce(device: str | None = None) -> Command:
    return lambda modes: modes.set("enforce", device)


def observe(device: str | None = None) -> Command:
    return lambda modes: modes.set("observe", device)


def trial(until: int, device: str | None = None) -> Command:
    return lambda modes: modes.start_trial(device, until)


def after(*commands: Command) -> Modes:
    modes = Modes()
    for command in commands:
        command(modes)
    return modes


@pytest.mark.parametrize(
    ("commands", "configured", "peer", "until"),
    [
        # The configuration alone.
        ((), "observe", None, NEVER),
        ((), "enforce", None, FOREVER),
        ((), "observe", "enforce", FOREVER),
        ((), "enforce", "observe", NEVER),
        # The operator beats it, but for a peer's own observe.
        ((enforce(),), "observe", None, FOREVER),
        ((enforce("wg0"),), "observe", None, FOREVER),
        ((enforce("wg1"),), "observe", None, NEVER),
        ((enforce("wg0"),), "observe", "observe", NEVER),
        ((observe("wg0"),), "enforce", "enforce", NEVER),
        # A device beats all, all replace single ones.
        ((observe(), enforce("wg0")), "observe", None, FOREVER),
        ((enforce(), observe("wg0")), "observe", None, NEVER),
        ((observe("wg0"), enforce()), "observe", None, FOREVER),
        ((enforce("wg0"), observe()), "observe", None, NEVER),
        # Trials: the longest that covers the device, never less than what is for good.
        ((trial(SOON),), "observe", None, SOON),
        ((trial(SOON, "wg0"), trial(LATER)), "observe", None, LATER),
        ((trial(LATER, "wg0"), trial(SOON)), "observe", None, LATER),
        ((trial(LATER, "wg0"), trial(SOON, "wg0")), "observe", None, SOON),
        ((trial(SOON, "wg1"),), "observe", None, NEVER),
        ((enforce(), trial(SOON)), "observe", None, FOREVER),
        ((observe(), trial(SOON, "wg0")), "enforce", None, SOON),
        ((observe(), trial(SOON)), "enforce", "enforce", SOON),
        ((trial(SOON),), "observe", "observe", NEVER),
        # observe of a device ends a trial of all devices there, and one begun later passes it by.
        ((trial(SOON), observe("wg0")), "observe", None, NEVER),
        ((observe("wg0"), trial(SOON)), "observe", None, NEVER),
        ((observe("wg0"), trial(SOON, "wg0")), "observe", None, SOON),
    ],
)
def test_enforced_until(commands: tuple[Command, ...], configured: str, peer: str | None, until: int) -> None:
    assert after(*commands).enforce_until("wg0", configured, peer) == until


scopes = st.sampled_from((*DEVICES, None))
commands = st.one_of(
    st.builds(enforce, scopes),
    st.builds(observe, scopes),
    st.builds(trial, st.integers(1, 3_000), scopes),
    st.builds(lambda now: lambda modes: modes.expire(now), st.integers(0, 3_000)),
    st.just(lambda modes: modes.confirm(0) if modes.trials else None),
)
histories = st.lists(commands, max_size=6).map(lambda each: after(*each))
peers = st.tuples(st.sampled_from(DEVICES), st.sampled_from(MODES), st.sampled_from((None, *MODES)))


@given(histories, peers)
def test_observe_of_everything_ends_everything(modes: Modes, peer: tuple[str, str, str | None]) -> None:
    modes.set("observe", None)
    assert modes.enforce_until(*peer) == NEVER


@given(histories, peers)
def test_observe_of_a_device_ends_everything_there_and_nothing_elsewhere(
    modes: Modes, peer: tuple[str, str, str | None]
) -> None:
    before = modes.enforce_until(*peer)
    modes.set("observe", "wg0")
    assert modes.enforce_until(*peer) == (NEVER if peer[0] == "wg0" else before)


@given(histories, st.sampled_from(DEVICES), st.sampled_from(MODES))
def test_a_peer_with_its_own_observe_is_never_enforced(modes: Modes, device: str, configured: str) -> None:
    assert modes.enforce_until(device, configured, "observe") == NEVER


@given(histories, peers)
def test_enforce_of_everything_leaves_out_only_peers_with_their_own_observe(
    modes: Modes, peer: tuple[str, str, str | None]
) -> None:
    modes.set("enforce", None)
    assert modes.enforce_until(*peer) == (NEVER if peer[2] == "observe" else FOREVER)


@given(histories, peers, scopes, st.integers(1, 3_000))
def test_a_trial_only_adds(modes: Modes, peer: tuple[str, str, str | None], scope: str | None, until: int) -> None:
    before = modes.enforce_until(*peer)
    replaced = modes.trials.get(scope or EVERY_DEVICE, NEVER)
    modes.start_trial(scope, until)
    now = modes.enforce_until(*peer)
    if before == FOREVER or until >= replaced:
        assert now >= before
    if scope not in (None, peer[0]):
        assert now == before


@given(histories, peers, st.integers(0, 3_000))
def test_confirm_keeps_what_is_enforced_and_nothing_else(
    modes: Modes, peer: tuple[str, str, str | None], now: int
) -> None:
    before = modes.enforce_until(*peer)
    under_way = {scope for scope, until in modes.trials.items() if until > now}
    if not under_way:
        with pytest.raises(ConflictError):
            modes.confirm(now)
        assert max(before, now) == max(modes.enforce_until(*peer), now)
        return
    assert modes.confirm(now) == sorted(under_way)
    assert modes.enforce_until(*peer) == (FOREVER if before > now else NEVER)
    assert modes.next_deadline() is None


@given(histories, peers, st.integers(0, 3_000), st.integers(0, 3_000))
def test_expiry_changes_nothing_from_then_on(
    modes: Modes, peer: tuple[str, str, str | None], now: int, wait: int
) -> None:
    kept = deepcopy(modes)
    over = modes.expire(now)
    assert over == sorted(scope for scope, until in kept.trials.items() if until <= now)
    then = now + wait
    assert (modes.enforce_until(*peer) > then) == (kept.enforce_until(*peer) > then)
    deadline = modes.next_deadline()
    assert deadline is None or deadline > now


@given(histories)
def test_the_next_deadline_is_the_earliest_end(modes: Modes) -> None:
    assert modes.next_deadline() == (min(modes.trials.values()) if modes.trials else None)


@given(histories)
def test_no_scope_is_both_for_good_and_on_trial_of_enforce(modes: Modes) -> None:
    """What `status` shows is what counts: `enforce` for good ends the trial of its scope."""
    modes.set("enforce", "wg0")
    assert "wg0" not in modes.trials


def test_scopes_for_people() -> None:
    assert scopes_text([EVERY_DEVICE]) == "all devices"
    assert scopes_text({"gre7": 1, "wg0": 2}) == "gre7, wg0"
