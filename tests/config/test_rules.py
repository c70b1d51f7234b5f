"""restart.rules: what they mean, and which of them are mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.core.policies import Backoff, Budget, ProgressPolicy, RestartPolicy, Rule, RuleAction, Scope
from orchestrator.core.restart import judges_first, narrows
from tests.config.test_values import compiled, refused

Rules = list[Mapping[str, Any]]
HEARTBEAT = {"kind": "heartbeat"}
SECTIONS = {"kind": "sections", "sections": {"save": {"timeout_s": 10}}}


def policy(**restart: object) -> RestartPolicy:
    return compiled({"worker": {"cmd": "python"}, "restart": {"kind": "on_failure", **restart}}).groups[0].restart


def said(rules: Rules, *, watchdog: object = "observe", **restart: object) -> list[str]:
    chosen = {"kind": "on_failure", "rules": rules, **restart}
    return refused({"worker": {"cmd": "python"}, "restart": chosen, "watchdog": watchdog})


def accepted(rules: Rules, *, watchdog: object = "observe", **restart: object) -> bool:
    chosen = {"kind": "on_failure", "rules": rules, **restart}
    return bool(compiled({"worker": {"cmd": "python"}, "restart": chosen, "watchdog": watchdog}))


def test_a_rule_has_conditions_an_action_and_what_is_its_own() -> None:
    rule = {
        "oom": True,
        "phase": "running",
        "min_age_s": 5,
        "max_age_s": 60,
        "action": "retry",
        "budget": {"max": 2, "per_s": 3600},
        "backoff": {"initial_s": 30},
        "scope": "worker",
    }
    found = policy(rules=[rule], scope="node")
    assert found.scope is Scope.NODE
    assert found.rules == (
        Rule(
            action=RuleAction.RETRY,
            oom=True,
            phase="running",
            min_age_s=5,
            max_age_s=60,
            budget=Budget(max=2, per_s=3600),
            backoff=Backoff(initial_s=30, factor=2, max_s=60, jitter=0.1, reset_after_s=300),
            scope=Scope.WORKER,
        ),
    )
    assert narrows(found)
    assert judges_first(found)


def test_what_is_not_given_is_the_policys() -> None:
    found = policy(rules=[{"exit_codes": [3], "action": "ignore"}], progress={"refill": True, "max_stalled": 2})
    (rule,) = found.rules
    assert (rule.budget, rule.backoff, rule.scope) == (None, None, None)
    assert found.progress == ProgressPolicy(refill=True, max_stalled=2)
    assert not narrows(found)
    assert judges_first(found), "whether the others run on must be known before they are stopped"
    assert not judges_first(policy())


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ([{"oom": True, "exit_codes": [3], "action": "fatal"}], "[0]: can never match: who is out of memory"),
        ([{"oom": True, "signals": ["TERM"], "action": "fatal"}], "[0]: can never match: who is out of memory"),
        ([{"oom": True, "kinds": ["spawn"], "action": "fatal"}], "[0]: can never match: who is out of memory"),
        ([{"min_age_s": 9, "max_age_s": 3, "action": "fatal"}], "[0]: can never match: min_age_s 9 is above"),
        ([{"kinds": ["spawn"], "phase": "running", "action": "fatal"}], "[0]: can never match: spawn are of phase"),
        ([{"kinds": ["spawn"], "min_age_s": 1, "action": "fatal"}], "[0]: can never match: what could not be started"),
        (
            [{"signals": ["KILL"], "action": "retry"}, {"oom": True, "action": "fatal"}],
            "[1]: can never match: earlier rules take all of its SIGKILLs",
        ),
        (
            [{"phase": "starting", "action": "fatal"}, {"phase": "starting", "exit_codes": [3], "action": "retry"}],
            "[1]: can never match: restart.rules[0] takes all of it",
        ),
        (
            [{"max_age_s": 60, "action": "fatal"}, {"max_age_s": 30, "oom": True, "action": "retry"}],
            "[1]: can never match: restart.rules[0] takes all of it",
        ),
        (
            [{"min_age_s": 10, "action": "fatal"}, {"min_age_s": 20, "action": "retry"}],
            "[1]: can never match: restart.rules[0] takes all of it",
        ),
        (
            [{"error_types": ["A", "B"], "action": "fatal"}, {"error_types": ["B"], "action": "retry"}],
            "[1]: can never match: restart.rules[0] takes all of it",
        ),
        ([{"phase": "save", "action": "fatal"}], "[0].phase: 'save' can never match: sections are known with"),
        ([{"exit_codes": [0], "action": "success"}], "[0].exit_codes[0]: 0 is success"),
        ([{"exit_codes": ["0-3"], "action": "ignore"}], "[0].exit_codes[0]: '0-3' is success"),
        ([{"action": "fatal", "budget": {"max": 1}}], "[0].budget: has no use with action fatal"),
        ([{"action": "retry_free", "budget": {"max": 1}}], "[0].budget: has no use with action retry_free"),
        ([{"action": "ignore", "backoff": {"initial_s": 1}}], "[0].backoff: has no use with action ignore"),
        ([{"action": "exclude_node", "scope": "node"}], "[0].scope: has no use with action exclude_node"),
        (
            [{"action": "retry", "budget": {"max": 5, "per_s": 10}}],
            "[0].budget.per_s: 10 can never trip: the delays of 5 restarts take 27.9 s or more",
        ),
        (
            [{"action": "retry", "backoff": {"max_s": 600}}],
            "[0].backoff.reset_after_s: 300 is less than restart.rules[0].backoff.max_s 600",
        ),
    ],
)
def test_a_rule_that_is_a_mistake_is_said_to_be_one(rules: Rules, fault: str) -> None:
    assert any(line.startswith(f"restart.rules{fault}") for line in said(rules)), said(rules)


@pytest.mark.parametrize(
    "rules",
    [
        [{"oom": True, "action": "fatal"}, {"signals": ["KILL"], "action": "retry"}],
        [{"signals": ["KILL"], "oom": False, "action": "retry"}, {"oom": True, "action": "fatal"}],
        [{"max_age_s": 30, "action": "fatal"}, {"max_age_s": 60, "action": "retry"}],
        [{"phase": "starting", "action": "fatal"}, {"exit_codes": [3], "action": "retry"}],
        [{"exit_codes": [3], "phase": "starting", "action": "fatal"}, {"exit_codes": [3], "action": "retry"}],
        [{"message": "a", "action": "fatal"}, {"message": "b", "action": "retry"}],
        [{"error_types": ["A"], "action": "fatal"}, {"exit_codes": [1], "action": "retry"}],
        [{"action": "retry", "budget": {"max": 5, "per_s": 10}, "backoff": {"max_s": 0}}],
    ],
)
def test_a_rule_that_can_match_is_left_alone(rules: Rules) -> None:
    assert accepted(rules)


def test_a_section_is_a_phase_where_workers_tell_of_sections() -> None:
    assert accepted([{"phase": "save", "action": "fatal"}], watchdog=SECTIONS)


def test_progress_needs_somebody_who_hears_of_it() -> None:
    for word, value in (("refill", True), ("max_stalled", 2)):
        (line,) = said([], watchdog="disabled", progress={word: value})
        assert line.startswith(f"restart.progress.{word}: nobody hears of progress with watchdog=disabled")
    assert accepted([], watchdog=HEARTBEAT, progress={"refill": True, "max_stalled": 3})


def test_more_stalled_restarts_than_the_budget_has_can_never_trip() -> None:
    (line,) = said([], progress={"max_stalled": 4})
    assert line.startswith("restart.progress.max_stalled: 4 can never trip: restart.budget.max 3 is spent before")
    assert accepted([], progress={"max_stalled": 4}, budget={"max": 9, "per_s": 6000})
