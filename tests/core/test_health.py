"""How long an unfit node keeps away, when a clock is wrong, and kubelet's accounting of probes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.health import (
    COOLDOWN_MOST_S,
    ProbeKind,
    ProbeSpec,
    ProbesPolicy,
    ProbeWay,
    Result,
    WorkerHealth,
    cooldown_s,
    too_skewed,
)
from tests.core.specs import PREFLIGHT


def test_a_node_keeps_away_twice_as_long_each_time_and_is_then_given_up() -> None:
    policy = replace(PREFLIGHT, attempts=4, cooldown_s=10)
    assert [cooldown_s(failed, policy) for failed in (1, 2, 3, 4)] == [10, 20, 40, None]


@given(st.integers(1, 10_000))
def test_the_cooldown_never_exceeds_an_hour(failed: int) -> None:
    found = cooldown_s(failed, replace(PREFLIGHT, attempts=100_000))
    assert found is not None
    assert 10 <= found <= COOLDOWN_MOST_S


@pytest.mark.parametrize(
    ("server_s", "fits"), [(100.0, True), (101.4, True), (101.6, False), (98.6, True), (98.4, False)]
)
def test_half_the_round_trip_is_in_the_clocks_favour(server_s: float, fits: bool) -> None:
    assert (too_skewed(server_s, 99.5, 100.5, bound_s=1) == "") is fits


def test_which_way_the_clock_is_wrong_is_told() -> None:
    assert too_skewed(90, 100, 100, 1) == (
        "the clock is 10.000 s ahead of the server's, give or take 0.000 s; the limit is 1 s"
    )
    assert "behind the server's" in too_skewed(110, 100, 100, 1)


@given(st.floats(-5, 5), st.floats(0, 2), st.floats(0, 1))
def test_a_clock_is_never_blamed_for_less_than_its_limit(skew: float, trip: float, when: float) -> None:
    """The server read its clock somewhere in the round trip: an honest clock within the bound always passes."""
    read_at = 1000 + trip * when
    if abs(skew) <= 1:
        assert too_skewed(read_at + skew, 1000, 1000 + trip, 1 + 1e-9) == ""


# -- probes

PASSED, FAILED, UNKNOWN = Result.PASSED, Result.FAILED, Result.UNKNOWN
ANSWERS = st.lists(st.sampled_from(Result), max_size=60)
THRESHOLDS = st.integers(1, 5)


def probe(failures: int = 3, successes: int = 1) -> ProbeSpec:
    return ProbeSpec(way=ProbeWay.TCP, port="1", failure_threshold=failures, success_threshold=successes)


def after(policy: ProbesPolicy, kind: ProbeKind, answers: list[Result]) -> WorkerHealth:
    found = WorkerHealth(policy)
    for answer in answers:
        found = found.heard(kind, answer)
    return found


def longest(answers: list[Result], of: Result) -> int:
    """The longest run of one answer, with unknown ones left out."""
    best = run = 0
    for answer in answers:
        if answer is not UNKNOWN:
            run = run + 1 if answer is of else 0
        best = max(best, run)
    return best


@given(ANSWERS, THRESHOLDS)
def test_liveness_fails_exactly_after_so_many_failures_in_a_row(answers: list[Result], threshold: int) -> None:
    found = after(ProbesPolicy(liveness=probe(threshold)), ProbeKind.LIVENESS, answers)
    assert (found.failed is ProbeKind.LIVENESS) is (longest(answers, FAILED) >= threshold)


@given(ANSWERS, THRESHOLDS, THRESHOLDS)
def test_readiness_turns_only_at_its_thresholds_and_never_fails_a_worker(
    answers: list[Result], failures: int, successes: int
) -> None:
    policy = ProbesPolicy(readiness=probe(failures, successes))
    found, ready = WorkerHealth(policy), False
    heard: list[Result] = []
    for answer in answers:
        found, heard = found.heard(ProbeKind.READINESS, answer), [*heard, answer]
        known = [one for one in heard if one is not UNKNOWN]
        if known[-successes:] == [PASSED] * successes:
            ready = True
        elif known[-failures:] == [FAILED] * failures:
            ready = False
        assert found.ready is ready
    assert found.failed is None


@given(ANSWERS, THRESHOLDS)
def test_startup_ends_with_its_first_success_or_with_too_many_failures_before(
    answers: list[Result], threshold: int
) -> None:
    found = after(ProbesPolicy(startup=probe(threshold), liveness=probe(1)), ProbeKind.STARTUP, answers)
    before = answers[: answers.index(PASSED)] if PASSED in answers else answers
    late = longest(before, FAILED) >= threshold
    assert (found.failed is ProbeKind.STARTUP) is late
    assert found.started is (PASSED in answers and not late)


@given(ANSWERS)
def test_until_a_worker_has_come_up_nothing_else_of_it_counts(answers: list[Result]) -> None:
    policy = ProbesPolicy(startup=probe(), readiness=probe(), liveness=probe(1))
    for kind in (ProbeKind.READINESS, ProbeKind.LIVENESS):
        assert not WorkerHealth(policy).asks(kind)
        assert after(policy, kind, answers) == WorkerHealth(policy)


@given(ANSWERS)
def test_a_worker_that_failed_stays_failed_and_is_asked_nothing(answers: list[Result]) -> None:
    failed = WorkerHealth(ProbesPolicy(readiness=probe(), liveness=probe(1))).heard(ProbeKind.LIVENESS, FAILED)
    assert not any(failed.asks(kind) for kind in ProbeKind)
    assert not failed.ready
    for answer in answers:
        assert failed.heard(ProbeKind.LIVENESS, answer) == failed


def test_what_nobody_asks_for_is_well() -> None:
    found = WorkerHealth(ProbesPolicy(liveness=probe()))
    assert (found.started, found.ready, found.failed) == (True, True, None)
    assert WorkerHealth(ProbesPolicy(startup=probe())).ready is False
