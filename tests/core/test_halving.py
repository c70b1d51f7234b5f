from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.halving import Halving, HalvingPolicy, decide, rung_of

POLICY = HalvingPolicy()
POLICIES = st.builds(
    HalvingPolicy,
    factor=st.integers(2, 5),
    min_step=st.integers(1, 10),
    min_peers=st.integers(1, 5),
    maximize=st.booleans(),
)
VALUES = st.floats()  # nan and both infinities too
STEPS = st.integers(-3, 200)
REPORTS = st.lists(st.tuples(st.sampled_from("abcdef"), STEPS, VALUES), max_size=60)


@pytest.mark.parametrize(
    ("step", "rung"),
    [(-1, None), (0, None), (2, None), (3, 3), (5, 3), (6, 6), (11, 6), (12, 12), (3 * 2**50 + 1, 3 * 2**50)],
)
def test_rungs_are_the_first_step_times_powers_of_the_factor(step: int, rung: int | None) -> None:
    assert rung_of(step, HalvingPolicy(min_step=3)) == rung


def test_the_worse_half_is_stopped_and_told_why() -> None:
    history = {4: [0.1, 0.2, 0.3]}
    assert decide(4, 0.15, history, POLICY).stop is False
    assert decide(4, 0.25, history, POLICY).stop is True
    assert decide(5, 0.35, history, POLICY).why == "0.35 at step 5 is number 4 of 4 at step 4, of which 2 go on"


def test_where_more_is_better_the_lower_half_is_stopped() -> None:
    policy = replace(POLICY, maximize=True)
    assert decide(4, 0.15, {4: [0.1, 0.2, 0.3]}, policy).stop is True
    assert decide(4, 0.25, {4: [0.1, 0.2, 0.3]}, policy).stop is False


def test_a_larger_factor_keeps_fewer() -> None:
    history: dict[int, list[float]] = {9: [1, 2, 3, 4, 5, 6, 7, 8]}
    policy = HalvingPolicy(factor=3)
    assert [decide(9, mine, history, policy).stop for mine in (0.5, 2.5, 3.5)] == [False, False, True]


@pytest.mark.parametrize("peers", [0, 1, 2])
def test_with_too_few_peers_even_the_worst_goes_on(peers: int) -> None:
    verdict = decide(1, math.nan, {1: [0.0] * peers}, POLICY)
    assert (verdict.stop, verdict.why) == (False, f"only {peers} others were at step 1, of 3 it takes")


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("maximize", [False, True])
def test_what_is_no_finite_number_is_worse_than_any(broken: float, maximize: bool) -> None:
    policy = replace(POLICY, maximize=maximize)
    assert decide(1, broken, {1: [1e300, -1e300, 0.0]}, policy).stop
    assert not decide(1, 1e300, {1: [broken] * 3}, policy).stop
    assert not decide(1, broken, {1: [broken] * 3}, policy).stop, "nobody there is better"


@pytest.mark.parametrize(
    ("step", "value"),
    [(None, 1.0), (1, None), ("1", 1.0), (1, "low"), (True, 1.0), (1.5, 1.0), (math.inf, 1.0), (1, {})],
)
def test_what_is_no_step_with_a_value_counts_for_nothing(step: object, value: object) -> None:
    halving = Halving(replace(POLICY, min_peers=1))
    assert not halving.heard("odd", step, value).stop
    assert not halving.heard("next", 1, 1e9).stop, "nobody was there before"


def test_a_number_that_no_float_holds_is_the_worst() -> None:
    halving = Halving(replace(POLICY, min_peers=1, maximize=True))
    halving.heard("a", 1, 5)
    assert halving.heard("b", 1, 10**400).stop


def test_a_job_is_judged_once_at_a_rung_whatever_it_repeats() -> None:
    halving = Halving(replace(POLICY, min_peers=1))
    assert not halving.heard("a", 2, 0.9).stop
    assert halving.heard("b", 2, 1.0).stop
    for step in (2, 3, 1, 2):
        assert halving.heard("a", step, 99.0).why == "it was judged at step 2 already"
    assert halving.heard("c", 2, 50.0).stop, "against what a had when it came to step 2"


def test_who_skips_a_rung_is_judged_at_the_highest_it_has_reached() -> None:
    halving = Halving(replace(POLICY, min_peers=1))
    halving.heard("a", 4, 0.5)
    assert halving.heard("b", 7, 0.6).stop
    assert not halving.heard("c", 2, 9.0).stop, "nobody was at that rung"


def test_a_job_that_begins_anew_is_judged_anew_and_its_first_attempt_counts_no_more() -> None:
    halving = Halving(replace(POLICY, min_peers=1))
    halving.heard("a", 1, 0.1)
    halving.forget("a")
    assert not halving.heard("b", 1, 0.5).stop
    assert halving.heard("a", 1, 0.6).stop


@given(POLICIES, STEPS, VALUES, st.lists(VALUES, max_size=20))
def test_the_best_always_goes_on(policy: HalvingPolicy, step: int, value: float, others: list[float]) -> None:
    rung = rung_of(step, policy) or 0
    finite = [other for other in others if math.isfinite(other)]
    best = not finite or (math.isfinite(value) and (value >= max(finite) if policy.maximize else value <= min(finite)))
    if best:
        assert not decide(step, value, {rung: others}, policy).stop


@given(POLICIES, STEPS, st.integers(-99, 99), st.lists(st.integers(-99, 99), max_size=20))
def test_direction_is_only_a_sign(policy: HalvingPolicy, step: int, value: int, others: list[int]) -> None:
    rung = rung_of(step, policy) or 0
    mirrored = replace(policy, maximize=not policy.maximize)
    assert (
        decide(step, value, {rung: others}, policy).stop
        == decide(step, -value, {rung: [-other for other in others]}, mirrored).stop
    )


@given(POLICIES, st.lists(VALUES, min_size=1, max_size=20))
def test_of_those_who_come_last_one_in_factor_would_go_on(policy: HalvingPolicy, values: list[float]) -> None:
    """Whoever is judged with everyone else there: at least the share that is to go on does, ties more."""
    going = [
        not decide(policy.min_step, one, {policy.min_step: values[:at] + values[at + 1 :]}, policy).stop
        for at, one in enumerate(values)
    ]
    assert sum(going) >= len(values) / policy.factor
    distinct = {value for value in values if math.isfinite(value)}
    if len(values) > policy.min_peers and len(distinct) == len(values):
        assert sum(going) == math.ceil(len(values) / policy.factor)


@given(POLICIES, REPORTS)
def test_nobody_is_stopped_but_at_a_rung_that_is_new_to_it(
    policy: HalvingPolicy, reports: list[tuple[str, int, float]]
) -> None:
    halving = Halving(policy)
    highest: dict[str, int] = {}
    for job, step, value in reports:
        verdict = halving.heard(job, step, value)
        rung = rung_of(step, policy)
        if rung is None or rung <= highest.get(job, 0):
            assert not verdict.stop, verdict.why
        else:
            highest[job] = rung
