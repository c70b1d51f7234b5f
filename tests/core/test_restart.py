"""Judging failures, and waiting before restarts."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.failures import Failure
from orchestrator.core.policies import Backoff, RestartKind, Rule, RuleAction, Scope
from orchestrator.core.restart import base_delay_s, consecutive_failures, delay_s, judge
from orchestrator.core.rule_words import condition
from tests.core.specs import AT_ONCE, BACKOFF, policy

DEATH = Failure(kind="exited", group="default", node="a", rank=0, local_rank=0, round=1, exit_code=1)


@pytest.mark.parametrize(
    ("count", "wait_s"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (1025, 60), (10**9, 60)]
)
def test_delays_grow_geometrically_up_to_the_most(count: int, wait_s: float) -> None:
    assert base_delay_s(count, BACKOFF) == wait_s


@given(
    st.integers(1, 10**9), st.floats(0, 1, exclude_max=True), st.floats(0, 100), st.floats(1, 10), st.floats(0, 0.99)
)
def test_a_delay_is_finite_and_stays_in_its_bounds(
    count: int, draw: float, initial_s: float, factor: float, jitter: float
) -> None:
    backoff = Backoff(initial_s=initial_s, factor=factor, max_s=120, jitter=jitter, reset_after_s=300)
    base = base_delay_s(count, backoff)
    assert 0 <= base <= 120
    assert base * (1 - jitter) - 1e-9 <= delay_s(count, backoff, draw) <= min(120, base * (1 + jitter)) + 1e-9


def test_health_for_long_begins_the_count_again() -> None:
    assert consecutive_failures(4, 299, BACKOFF) == 5
    assert consecutive_failures(4, 300, BACKOFF) == 1


def test_never_is_fatal_whatever_the_rules_say() -> None:
    rules = (Rule(action=RuleAction.RETRY),)
    assert judge(DEATH, policy(RestartKind.NEVER, rules=rules)).action is RuleAction.FATAL


def test_the_first_rule_that_matches_decides_and_is_named() -> None:
    rules = (
        Rule(action=RuleAction.FATAL, exit_codes=frozenset({2, 64})),
        Rule(action=RuleAction.RETRY_FREE, exit_codes=frozenset({1, 2})),
        Rule(action=RuleAction.FATAL),
    )
    judgement = judge(DEATH, policy(rules=rules))
    assert (judgement.action, judgement.why) == (
        RuleAction.RETRY_FREE,
        "restart.rules[1] restarts the group without a charge: exit code 1 or 2",
    )


@pytest.mark.parametrize(
    ("rule", "failure", "matched"),
    [
        (Rule(action=RuleAction.FATAL, signals=frozenset({9})), replace(DEATH, exit_code=None, signal=9), True),
        (Rule(action=RuleAction.FATAL, signals=frozenset({9})), DEATH, False),
        (Rule(action=RuleAction.FATAL, kinds=frozenset({"spawn"})), replace(DEATH, kind="spawn"), True),
        (Rule(action=RuleAction.FATAL, error_types=frozenset({"ValueError"})), DEATH, False),
        (
            Rule(action=RuleAction.FATAL, message="out of .* memory"),
            replace(DEATH, message="CUDA out of memory"),
            False,
        ),
        (Rule(action=RuleAction.FATAL, message="out of memory"), replace(DEATH, message="CUDA out of memory"), True),
        (
            Rule(action=RuleAction.FATAL, exit_codes=frozenset({1}), message="boom"),
            replace(DEATH, message="bang"),
            False,
        ),
    ],
)
def test_all_conditions_of_a_rule_must_hold(rule: Rule, failure: Failure, matched: bool) -> None:
    action = judge(failure, policy(rules=(rule,))).action
    assert action is (RuleAction.FATAL if matched else RuleAction.RETRY)


OOM = replace(DEATH, kind="signaled", exit_code=None, signal=9, oom=True)
LATE = replace(DEATH, age_s=10.0, phases=("running", "save"))


@pytest.mark.parametrize(
    ("rule", "failure", "matched"),
    [
        (Rule(action=RuleAction.FATAL, oom=True), OOM, True),
        (Rule(action=RuleAction.FATAL, oom=True), replace(OOM, oom=False), False),
        (Rule(action=RuleAction.FATAL, oom=False), OOM, False),
        (Rule(action=RuleAction.FATAL, oom=False), DEATH, True),
        (Rule(action=RuleAction.FATAL, phase="running"), LATE, True),
        (Rule(action=RuleAction.FATAL, phase="save"), LATE, True),
        (Rule(action=RuleAction.FATAL, phase="starting"), LATE, False),
        (Rule(action=RuleAction.FATAL, min_age_s=10), LATE, True),
        (Rule(action=RuleAction.FATAL, min_age_s=10.1), LATE, False),
        (Rule(action=RuleAction.FATAL, max_age_s=10), LATE, True),
        (Rule(action=RuleAction.FATAL, max_age_s=9.9), LATE, False),
        (Rule(action=RuleAction.FATAL, message="NCCL"), replace(DEATH, last_lines=("a", "NCCL error")), True),
        (Rule(action=RuleAction.FATAL, message="^NCCL"), replace(DEATH, last_lines=("a", "b NCCL")), False),
    ],
)
def test_a_rule_may_ask_for_memory_phase_age_and_last_words(rule: Rule, failure: Failure, matched: bool) -> None:
    assert (judge(failure, policy(rules=(rule,))).action is RuleAction.FATAL) is matched


def test_a_restart_is_as_wide_as_its_rule_says_and_else_as_the_policy_does() -> None:
    rules = (
        Rule(action=RuleAction.RETRY, exit_codes=frozenset({1}), scope=Scope.WORKER),
        Rule(action=RuleAction.FATAL, exit_codes=frozenset({2})),
    )
    narrow = replace(policy(rules=rules), scope=Scope.NODE)
    assert judge(DEATH, narrow).scope is Scope.WORKER
    assert judge(replace(DEATH, exit_code=3), narrow).scope is Scope.NODE
    assert judge(replace(DEATH, exit_code=2), narrow).scope is Scope.GROUP, "the run ends for all"


def test_a_guards_death_concerns_all_and_cannot_be_overlooked() -> None:
    bereft = replace(DEATH, kind="guard", exit_code=None)
    rules = (Rule(action=RuleAction.IGNORE), Rule(action=RuleAction.RETRY_FREE, scope=Scope.WORKER))
    judgement = judge(bereft, policy(rules=rules))
    assert (judgement.action, judgement.scope, judgement.rule) == (RuleAction.RETRY_FREE, Scope.GROUP, 1)


def test_a_rule_has_a_patience_of_its_own() -> None:
    rules = (Rule(action=RuleAction.RETRY, backoff=AT_ONCE),)
    assert judge(DEATH, policy(rules=rules)).backoff(policy(rules=rules)) == AT_ONCE
    assert judge(DEATH, policy()).backoff(policy()) == BACKOFF


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(action=RuleAction.FATAL, exit_codes=frozenset({3, *range(64, 79)})), "exit code 3 or 64-78"),
        (Rule(action=RuleAction.FATAL, signals=frozenset({9, 11}), oom=False), "SIGKILL or SIGSEGV, not out of memory"),
        (Rule(action=RuleAction.FATAL, kinds=frozenset({"hang"}), phase="save"), "a hang, in section save"),
        (
            Rule(action=RuleAction.FATAL, error_types=frozenset({"ValueError"}), phase="starting", max_age_s=5),
            "ValueError, before it was ready, within 5 s of its start",
        ),
        (Rule(action=RuleAction.FATAL, message="NCCL"), "words that match 'NCCL'"),
        (Rule(action=RuleAction.FATAL), "any failure"),
    ],
)
def test_a_rule_is_told_in_words(rule: Rule, said: str) -> None:
    assert condition(rule) == said


def test_a_program_that_is_not_there_is_not_tried_again() -> None:
    spawn = replace(DEATH, kind="spawn", exit_code=None)
    assert judge(spawn, policy(), spawn_errno=errno.ENOENT).action is RuleAction.FATAL
    assert judge(spawn, policy(), spawn_errno=errno.EAGAIN).action is RuleAction.RETRY


def test_a_failure_survives_the_wire() -> None:
    failure = replace(DEATH, last_lines=("a", "b"), message="boom", phases=("running",), age_s=1.5)
    assert Failure.from_dict({**failure.to_dict(), "from_a_newer_peer": 1}) == failure


@pytest.mark.parametrize(
    ("failure", "how"),
    [
        (DEATH, "exit code 1"),
        (replace(DEATH, signal=9), "killed by SIGKILL"),
        (replace(DEATH, signal=99), "killed by signal 99"),
        (OOM, "killed by SIGKILL, out of memory"),
        (replace(DEATH, exit_code=None, kind="spawn"), "could not be started"),
        (replace(DEATH, exit_code=None, kind="guard"), "lost with its guard"),
    ],
)
def test_a_failure_says_how_it_died(failure: Failure, how: str) -> None:
    assert failure.how() == how
