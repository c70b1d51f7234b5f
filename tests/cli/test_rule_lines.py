"""Rules and narrower restarts at the terminal: which rule applied, what is restarted, what is left of which budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.core.policies import Budget, ProgressPolicy, Rule, RuleAction, Scope
from tests.cli.test_report import CAUSE
from tests.cli.told import Told, settled
from tests.core.specs import group

EXITED: dict[str, Any] = {"rank": 1, "local_rank": 1, "pid": 42, "exit_code": 1, "signal": None, "sent_by_us": False}
DECIDED: dict[str, Any] = {"charged": True, "delay_s": 1.0, "remaining": 1}
OWN = Rule(action=RuleAction.RETRY, budget=Budget(max=2))
WHY = "restart.rules[0] restarts this worker: exit code 1"


def test_a_failure_that_may_concern_nobody_else_stops_nothing_yet() -> None:
    told = Told(group(scope=Scope.WORKER))
    assert told.hear("worker_exited", **EXITED) == ["rank 1 on node a, pid 42 failed: exit code 1"]
    other = {**EXITED, "rank": 2, "pid": 43}
    assert told.hear("worker_exited", **other) == ["rank 2 on node a, pid 43 failed: exit code 1"]


def test_a_narrower_restart_names_its_rule_and_its_ranks() -> None:
    told = Told(group(scope=Scope.WORKER, rules=(OWN,)))
    told.hear("worker_exited", **EXITED)
    part = {**DECIDED, "scope": "worker", "ranks": [1], "reason": WHY, "rule": 0}
    assert told.hear("restart_decided", cause={**CAUSE, "message": "", "error_type": ""}, **part) == [
        WHY,
        "restarting rank 1 in 1.0 s; 1 of 2 restarts left",
    ]
    node = {**DECIDED, "scope": "node", "ranks": [2, 3], "reason": "restart=on_failure", "rule": None}
    assert told.hear("restart_decided", cause=None, **node) == ["restarting ranks 2, 3 in 1.0 s; 1 of 3 restarts left"]


def test_a_rule_that_restarts_the_group_is_named_once_a_round() -> None:
    told, why = Told(group(rules=(OWN,))), "restart.rules[0] restarts the group: exit code 1"
    said: dict[str, Any] = {"action": "retry", "why": why, "reply": "restart"}
    assert told.hear("failure_reported", **said) == [why]
    assert told.hear("failure_reported", **said) == []
    assert told.hear("failure_reported", action="retry", why="restart=on_failure", number=2) == []


def test_a_failure_that_the_others_are_spared_is_told_with_its_rule() -> None:
    why = "restart.rules[0] leaves it down and lets the others run on: exit code 1"
    told = Told(group(rules=(Rule(action=RuleAction.IGNORE),)))
    assert told.hear("failure_judged", rank=1, action="ignore", why=why) == [why]


def test_attempts_have_no_bound_where_another_budget_counts_too() -> None:
    refilled = group()
    refilled = replace(refilled, restart=replace(refilled.restart, progress=ProgressPolicy(refill=True)))
    for spec in (group(rules=(OWN,)), refilled):
        line = Told(spec).hear("round_settled", **settled(nodes=1, charged=4))
        assert line == ["round 1: 1 node, 8 workers · attempt 5"]
