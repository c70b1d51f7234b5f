"""How a failure is judged, and how long a restart waits. Pure: numbers in, a decision and its reason out.

The budget itself is counted by the group's server, once for all nodes; what is here decides whether a failure is
charged to it at all. Jitter is drawn by the caller.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from orchestrator.core.failures import Failure
from orchestrator.core.policies import Backoff, RestartKind, RestartPolicy, Rule, RuleAction, Scope
from orchestrator.core.rule_words import condition, consequence

HOPELESS_ERRNOS: frozenset[int] = frozenset({errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR})
"""Why a spawn fails again however often it is tried: the program or its directory is not there, or is none."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a failure leads to, and why. ``rule`` is the number of the rule that says so, if one does."""

    action: RuleAction
    why: str
    scope: Scope = Scope.GROUP
    rule: int | None = None

    def backoff(self, policy: RestartPolicy) -> Backoff:
        """How patiently that is done."""
        own = None if self.rule is None else policy.rules[self.rule].backoff
        return own or policy.backoff


def narrows(policy: RestartPolicy) -> bool:
    """Whether a failure may concern less than the whole group."""
    scopes = {policy.scope, *(rule.scope for rule in policy.rules)} - {Scope.GROUP, None}
    return policy.kind is not RestartKind.NEVER and bool(scopes)


def judges_first(policy: RestartPolicy) -> bool:
    """Whether a failure must be judged before it is known whether the group stops for it."""
    return narrows(policy) or any(rule.action.spares for rule in policy.rules)


def excludes(policy: RestartPolicy) -> bool:
    """Whether a failure may end this node's part in the run."""
    return any(rule.action is RuleAction.EXCLUDE_NODE for rule in policy.rules)


def judge(failure: Failure, policy: RestartPolicy, *, spawn_errno: int | None = None) -> Judgement:
    """The first rule that matches decides; without one, ``on_failure`` and ``always`` retry what is not hopeless."""
    if policy.kind is RestartKind.NEVER:
        return Judgement(RuleAction.FATAL, "restart=never")
    for number, rule in enumerate(policy.rules):
        if matches(rule, failure):
            scope = _scope(rule.action, rule.scope or policy.scope, failure)
            why = f"restart.rules[{number}] {consequence(rule.action, scope)}: {condition(rule)}"
            return Judgement(rule.action, why, scope, number)
    if failure.kind == "spawn" and spawn_errno in HOPELESS_ERRNOS:
        return Judgement(RuleAction.FATAL, "a program that cannot be started will not start the next time")
    scope = _scope(RuleAction.RETRY, policy.scope, failure)
    return Judgement(RuleAction.RETRY, f"restart={policy.kind}", scope)


def _scope(action: RuleAction, scope: Scope, failure: Failure) -> Scope:
    """How far the failure reaches: a guard has taken all its workers with it, and only restarts can be narrow."""
    narrow = action in (RuleAction.RETRY, RuleAction.RETRY_FREE) and failure.kind != "guard"
    return scope if narrow else Scope.GROUP


def matches(rule: Rule, failure: Failure) -> bool:
    """Whether every condition that ``rule`` gives holds for ``failure``."""
    return (
        (not rule.exit_codes or failure.exit_code in rule.exit_codes)
        and (not rule.signals or failure.signal in rule.signals)
        and (not rule.kinds or failure.kind in rule.kinds)
        and (not rule.error_types or failure.error_type in rule.error_types)
        and (rule.oom is None or failure.oom is rule.oom)
        and (rule.phase is None or rule.phase in failure.phases)
        and (rule.min_age_s is None or failure.age_s >= rule.min_age_s)
        and (rule.max_age_s is None or failure.age_s <= rule.max_age_s)
        and not (rule.action.spares and failure.kind == "guard")  # all are gone: that cannot be overlooked
        and (rule.message is None or _says(failure, rule.message))
    )


def _says(failure: Failure, pattern: str) -> bool:
    return re.search(pattern, "\n".join((failure.message, *failure.last_lines))) is not None


def consecutive_failures(before: int, healthy_s: float, backoff: Backoff) -> int:
    """The count of failures in a row, this one included, after a round that was healthy for ``healthy_s``."""
    return 1 if healthy_s >= backoff.reset_after_s else before + 1


def base_delay_s(consecutive: int, backoff: Backoff) -> float:
    """The delay before jitter: geometric from ``initial_s``, never above ``max_s``, safe for any count."""
    try:
        grown = backoff.initial_s * float(backoff.factor) ** (consecutive - 1)
    except OverflowError:  # float has no infinity to give here
        return backoff.max_s if backoff.initial_s > 0 else 0.0
    return min(backoff.max_s, grown)


def delay_s(consecutive: int, backoff: Backoff, draw: float) -> float:
    """The delay with jitter; ``draw`` is uniform in [0, 1)."""
    base = base_delay_s(consecutive, backoff)
    return min(backoff.max_s, base * (1 + backoff.jitter * (2 * draw - 1)))
