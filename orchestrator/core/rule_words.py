"""Rules in words that a person can use: when one applies, and what follows. Pure text.

Invariant: what is said of a rule is what `core.restart.matches` asks, no more and no less.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.failures import signal_name
from orchestrator.core.policies import Rule, RuleAction, Scope

_FOLLOWS = {
    RuleAction.SUCCESS: "counts it as a success",
    RuleAction.IGNORE: "leaves it down and lets the others run on",
    RuleAction.EXCLUDE_NODE: "restarts the group without this node",
    RuleAction.FATAL: "ends the run",
}
_SCOPES = {Scope.GROUP: "the group", Scope.NODE: "this node's workers", Scope.WORKER: "this worker"}
_KINDS = {
    "hang": "a hang",
    "probe": "a failed liveness probe",
    "start_timeout": "a start that took too long",
    "spawn": "a failed spawn",
}


def scope_words(scope: Scope) -> str:
    """What is stopped and started again, as the object of a sentence."""
    return _SCOPES[scope]


def consequence(action: RuleAction, scope: Scope) -> str:
    """What an action does, as the end of a sentence about a rule."""
    free = " without a charge" if action is RuleAction.RETRY_FREE else ""
    return _FOLLOWS.get(action) or f"restarts {_SCOPES[scope]}{free}"


def condition(rule: Rule) -> str:
    """When a rule applies, e.g. ``exit code 3 or 64-78, before it was ready``; ``any failure`` without conditions."""
    parts = []
    if rule.exit_codes:
        parts.append(f"exit code {_either(_ranges(rule.exit_codes))}")
    if rule.signals:
        parts.append(_either(signal_name(number) for number in sorted(rule.signals)))
    if rule.kinds:
        parts.append(_either(_KINDS.get(kind, kind) for kind in sorted(rule.kinds)))
    if rule.oom is not None:
        parts.append("out of memory" if rule.oom else "not out of memory")
    if rule.error_types:
        parts.append(_either(sorted(rule.error_types)))
    if rule.message is not None:
        parts.append(f"words that match {rule.message!r}")
    if rule.phase is not None:
        phases = {"starting": "before it was ready", "running": "once it was ready"}
        parts.append(phases.get(rule.phase, f"in section {rule.phase}"))
    if rule.min_age_s is not None:
        parts.append(f"{rule.min_age_s:g} s or more after its start")
    if rule.max_age_s is not None:
        parts.append(f"within {rule.max_age_s:g} s of its start")
    return ", ".join(parts) or "any failure"


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _ranges(numbers: Iterable[int]) -> list[str]:
    """``3``, ``64-78``: runs of three and more are drawn together."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    found: list[str] = []
    for run in runs:
        found += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run)  # noqa: PLR2004 - as said above
    return found
