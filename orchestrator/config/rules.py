"""``restart.rules``: what each line of it may say.

Whether a rule can ever match is judged in `rule_checks`. Invariant: rules keep their order, for the first match wins.
"""

# ruff: noqa: RUF009 - calls of key make dataclass fields, as field() does

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.config.convert import convert, key
from orchestrator.config.readers import (
    Reader,
    flag,
    list_of,
    name,
    number,
    optional,
    pattern,
    seconds,
    signal_number,
    text,
    whole,
    word,
)
from orchestrator.config.report import UNRESOLVED, Report, show
from orchestrator.config.shape import any_of, object_of, shaped
from orchestrator.core.policies import RuleAction, Scope

_CODE_MAX = 255
KINDS = ("hang", "probe", "spawn", "start_timeout")


@shaped(
    any_of(
        {"type": "integer", "minimum": 1, "maximum": 255}, {"type": "string", "pattern": "^[0-9]{1,3}(-[0-9]{1,3})?$"}
    )
)
def exit_codes(value: object, path: str, report: Report) -> object:
    """One exit code or a range such as ``64-78``, as the set of its numbers."""
    found = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", str(value)) if not isinstance(value, bool) else None
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if found and low == 0 <= high <= _CODE_MAX:
        fact = f"{show(value)} is success, which no rule is asked about"
        return report.problem(path, fact, "allowed: 1 to 255, or a range as in '64-78'")
    if not 1 <= low <= high <= _CODE_MAX:
        return report.problem(path, f"{show(value)} is not an exit code", "allowed: 1 to 255, or a range as in '64-78'")
    return frozenset(range(low, high + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """How many restarts are charged before the job fails."""

    max: int | None = key(optional(whole(0)), default=3)
    per_s: float | None = key(optional(seconds), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleBackoffConfig:
    """What a rule says of its own of restart.backoff; None: nothing."""

    initial_s: float | None = key(seconds, default=None)
    factor: float | None = key(number(1), default=None)
    max_s: float | None = key(seconds, default=None)
    jitter: float | None = key(number(0, below=1), default=None)
    reset_after_s: float | None = key(seconds, default=None)


def own(cls: type[object]) -> Reader:
    """A mapping with the keys of ``cls``, or null."""
    return optional(shaped(lambda: object_of(cls))(lambda value, path, report: convert(cls, value, path, report)))


_own_budget, _own_backoff = own(BudgetConfig), own(RuleBackoffConfig)
_action = word(*reversed(RuleAction))


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig:
    """One line of the rules; a condition that is not given always holds."""

    exit_codes: tuple[frozenset[int], ...] = key(list_of(exit_codes), default=())
    signals: tuple[int, ...] = key(list_of(signal_number), default=())
    oom: bool | None = key(optional(flag), default=None)
    kinds: tuple[str, ...] = key(list_of(word(*KINDS)), default=())
    error_types: tuple[str, ...] = key(list_of(text), default=())
    message: str | None = key(optional(pattern), default=None)
    phase: str | None = key(optional(name), default=None)
    min_age_s: float | None = key(optional(seconds), default=None)
    max_age_s: float | None = key(optional(seconds), default=None)
    action: str | None = key(_action, default=None)
    budget: BudgetConfig | None = key(_own_budget, default=None)
    backoff: RuleBackoffConfig | None = key(_own_backoff, default=None)
    scope: str | None = key(optional(word(*Scope)), default=None)

    @property
    def codes(self) -> frozenset[int]:
        """All exit codes of the rule."""
        return frozenset().union(*self.exit_codes)


@shaped(lambda: {"type": "array", "items": {**object_of(RuleConfig), "required": ["action"]}})
def rules(value: object, path: str, report: Report) -> object:
    """The list of rules. Keeps what can be read, so that one bad line does not hide another."""
    if not isinstance(value, list):
        return report.problem(path, f"{show(value)} is not a list", "write a list of rules, or [] for none")
    found = []
    for at, item in enumerate(value):
        where = f"{path}[{at}]"
        if item is UNRESOLVED:
            continue
        rule = convert(RuleConfig, item, where, report)
        if rule.action is None and report.clean(f"{where}.action"):
            allowed = ", ".join(reversed(RuleAction))
            report.problem(where, "has no action", f"allowed: action: {allowed}")
        found.append(rule)
    return tuple(found)
