"""``restart.rules``: what each line of it may say, and whether it can ever match.

A rule is judged on exit codes, signals and kinds only; what a regular expression can match is not decided here.
Invariant: rules keep their order, for the first match wins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config.convert import convert, key
from orchestrator.config.readers import list_of, optional, pattern, signal_number, text, word
from orchestrator.config.report import UNRESOLVED, Report, show

_CODE_MAX = 255
KINDS = ("hang", "probe", "spawn", "start_timeout")


def exit_codes(value: object, path: str, report: Report) -> object:
    """One exit code or a range such as ``64-78``, as the set of its numbers."""
    found = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", str(value)) if not isinstance(value, bool) else None
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= low <= high <= _CODE_MAX:
        return report.problem(path, f"{show(value)} is not an exit code", "allowed: 1 to 255, or a range as in '64-78'")
    return frozenset(range(low, high + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig:
    """One line of the rules; a condition that is not given always holds."""

    exit_codes: tuple[frozenset[int], ...] = key(list_of(exit_codes), default=())
    signals: tuple[int, ...] = key(list_of(signal_number), default=())
    kinds: tuple[str, ...] = key(list_of(word(*KINDS)), default=())
    error_types: tuple[str, ...] = key(list_of(text), default=())
    message: str | None = key(optional(pattern), default=None)
    action: str | None = key(word("retry", "retry_free", "fatal"), default=None)

    @property
    def codes(self) -> frozenset[int]:
        """All exit codes of the rule."""
        return frozenset().union(*self.exit_codes)


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
            report.problem(where, "has no action", "allowed: action: retry, retry_free or fatal")
        found.append(rule)
    if report.clean(path):
        _judge(found, path, report)
    return tuple(found)


def _judge(found: Sequence[RuleConfig], path: str, report: Report) -> None:
    for at, rule in enumerate(found):
        where = f"{path}[{at}]"
        given = [word for word in ("exit_codes", "signals", "kinds") if getattr(rule, word)]
        if len(given) > 1:
            report.problem(where, f"can never match: {' and '.join(given)} exclude each other", "make a rule of each")
        elif any(_covers_all(earlier) for earlier in found[:at]):
            report.problem(where, "can never match: an earlier rule has no condition", "move that rule to the end")
        elif given and _covered(rule, found[:at]):
            fact = f"can never match: earlier rules take all of its {given[0]}"
            report.problem(where, fact, "remove it, or move it up")


def _covers_all(rule: RuleConfig) -> bool:
    return not (rule.codes or rule.signals or rule.kinds or rule.error_types or rule.message is not None)


def _covered(rule: RuleConfig, earlier: Sequence[RuleConfig]) -> bool:
    """Whether everything that ``rule`` names is taken by rules that ask for nothing else."""
    plain = [one for one in earlier if not one.error_types and one.message is None]
    return (
        rule.codes <= frozenset().union(*(one.codes for one in plain))
        and set(rule.signals) <= {number for one in plain for number in one.signals}
        and set(rule.kinds) <= {kind for one in plain for kind in one.kinds}
    )
