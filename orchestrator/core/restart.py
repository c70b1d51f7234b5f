"""How a failure is judged, and how long a restart waits. Pure: numbers in, a decision and its reason out.

The budget itself is counted by the group's server, once for all nodes; what is here decides whether a failure is
charged to it at all. Jitter is drawn by the caller.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from orchestrator.core.failures import Failure
from orchestrator.core.specs import Backoff, RestartKind, RestartPolicy, Rule, RuleAction

HOPELESS_ERRNOS: frozenset[int] = frozenset({errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR})
"""Why a spawn fails again however often it is tried: the program or its directory is not there, or is none."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a failure leads to, and why."""

    action: RuleAction
    why: str


def judge(failure: Failure, policy: RestartPolicy, *, spawn_errno: int | None = None) -> Judgement:
    """The first rule that matches decides; without one, ``on_failure`` and ``always`` retry what is not hopeless."""
    if policy.kind is RestartKind.NEVER:
        return Judgement(RuleAction.FATAL, "restart=never")
    for number, rule in enumerate(policy.rules):
        if matches(rule, failure):
            return Judgement(rule.action, f"restart.rules[{number}]")
    if failure.kind == "spawn" and spawn_errno in HOPELESS_ERRNOS:
        return Judgement(RuleAction.FATAL, "a program that cannot be started will not start the next time")
    return Judgement(RuleAction.RETRY, f"restart={policy.kind}")


def matches(rule: Rule, failure: Failure) -> bool:
    """Whether every condition that ``rule`` gives holds for ``failure``."""
    return (
        (not rule.exit_codes or failure.exit_code in rule.exit_codes)
        and (not rule.signals or failure.signal in rule.signals)
        and (not rule.kinds or failure.kind in rule.kinds)
        and (not rule.error_types or failure.error_type in rule.error_types)
        and (rule.message is None or re.search(rule.message, failure.message) is not None)
    )


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
