"""``restart``: what each choice may say, and the policy that it means.

Only the shape of single values lives here; rules are judged in `rule_checks`, relations in `restart_checks`. Invariant:
what a rule leaves out of its backoff is restart.backoff's.
"""

# ruff: noqa: RUF009 - calls of section make dataclass fields, as field() does

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.config.convert import Choices, key, section
from orchestrator.config.readers import flag, number, optional, seconds, whole, word
from orchestrator.config.rules import BudgetConfig, RuleBackoffConfig, RuleConfig, rules
from orchestrator.core.policies import (
    Backoff,
    Budget,
    ProgressPolicy,
    RestartKind,
    RestartPolicy,
    Rule,
    RuleAction,
    Scope,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeConfig:
    """How many restarts are not charged before the job fails all the same."""

    max: int | None = key(optional(whole(0)), default=100)
    per_s: float | None = key(optional(seconds), default=3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffConfig:
    """How patiently a group is restarted."""

    initial_s: float = key(seconds, default=1.0)
    factor: float = key(number(1), default=2.0)
    max_s: float = key(seconds, default=60.0)
    jitter: float = key(number(0, below=1), default=0.1)
    reset_after_s: float = key(seconds, default=300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressConfig:
    """What a worker's progress means to budgets."""

    refill: bool = key(flag, default=False)
    max_stalled: int | None = key(optional(whole(1)), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartNever:
    """restart=never."""

    kind: str = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartOnFailure:
    """restart=on_failure."""

    kind: str = "on_failure"
    scope: str = key(word(*Scope), default="group")
    budget: BudgetConfig = section(BudgetConfig)
    free: FreeConfig = section(FreeConfig)
    backoff: BackoffConfig = section(BackoffConfig)
    progress: ProgressConfig = section(ProgressConfig)
    rules: tuple[RuleConfig, ...] = key(rules, default=())
    cascade: bool = key(flag, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartAlways(RestartOnFailure):
    """restart=always."""

    kind: str = "always"


RESTART: Choices = {"never": RestartNever, "on_failure": RestartOnFailure, "always": RestartAlways}


def restart_policy(chosen: RestartNever | RestartOnFailure) -> RestartPolicy:
    """The policy that was chosen."""
    if isinstance(chosen, RestartNever):
        nothing = RestartOnFailure(budget=BudgetConfig(max=0))
        return replace(restart_policy(nothing), kind=RestartKind.NEVER)
    budget, free = chosen.budget, chosen.free
    return RestartPolicy(
        kind=RestartKind(chosen.kind),
        budget=Budget(max=budget.max, per_s=budget.per_s),
        free=Budget(max=free.max, per_s=free.per_s),
        backoff=backoff_of(chosen.backoff),
        rules=tuple(_rule(rule, chosen.backoff) for rule in chosen.rules),
        scope=Scope(chosen.scope),
        progress=ProgressPolicy(refill=chosen.progress.refill, max_stalled=chosen.progress.max_stalled),
    )


def backoff_of(delays: BackoffConfig, own: RuleBackoffConfig | None = None) -> Backoff:
    """The backoff, with what a rule says of its own."""
    names = BackoffConfig.__dataclass_fields__
    given = {name: getattr(own, name) for name in names if own is not None and getattr(own, name) is not None}
    return Backoff(**{name: getattr(delays, name) for name in names} | given)


def _rule(rule: RuleConfig, delays: BackoffConfig) -> Rule:
    return Rule(
        action=RuleAction(rule.action or ""),
        exit_codes=rule.codes,
        signals=frozenset(rule.signals),
        kinds=frozenset(rule.kinds),
        error_types=frozenset(rule.error_types),
        message=rule.message,
        oom=rule.oom,
        phase=rule.phase,
        min_age_s=rule.min_age_s,
        max_age_s=rule.max_age_s,
        budget=Budget(max=rule.budget.max, per_s=rule.budget.per_s) if rule.budget else None,
        backoff=backoff_of(delays, rule.backoff) if rule.backoff else None,
        scope=Scope(rule.scope) if rule.scope else None,
    )
