"""Whether each rule can ever match, and whether what it asks for goes together.

Judged on what can be compared: codes, signals, kinds, memory, phase and ages; what a regular expression can match is
not decided here. Invariant: a rule that is called unreachable is, whatever fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from signal import SIGKILL

from orchestrator.config.report import Report
from orchestrator.config.rules import RuleConfig

_CHARGED, _RESTARTS = ("retry", "exclude_node"), ("retry", "retry_free", "exclude_node")
_NARROW = ("retry", "retry_free")
_NEVER = "can never match"


def judge_rules(found: Sequence[RuleConfig], path: str, report: Report) -> None:
    """Report each rule that cannot match, or that says what its action has no use for."""
    for at, rule in enumerate(found):
        where = f"{path}[{at}]"
        fault = _contradiction(rule) or _shadow(rule, found[:at], path)
        if fault is not None:
            report.problem(where, f"{_NEVER}: {fault[0]}", fault[1])
        _judge_action(rule, where, report)


def _contradiction(rule: RuleConfig) -> tuple[str, str] | None:
    """What of the rule excludes each other, and the remedy."""
    given = [word for word in ("exit_codes", "signals", "kinds") if getattr(rule, word)]
    if len(given) > 1:
        return f"{' and '.join(given)} exclude each other", "make a rule of each"
    if rule.oom and (given not in ([], ["signals"]) or (rule.signals and SIGKILL not in rule.signals)):
        return f"who is out of memory is killed by SIGKILL, and {given[0]} say otherwise", "leave one of them out"
    if rule.min_age_s is not None and rule.max_age_s is not None and rule.min_age_s > rule.max_age_s:
        return f"min_age_s {rule.min_age_s:g} is above max_age_s {rule.max_age_s:g}", "turn them around"
    if rule.phase not in (None, "starting") and rule.kinds and set(rule.kinds) <= {"spawn", "start_timeout"}:
        return f"{' and '.join(rule.kinds)} are of phase starting", "leave phase out"
    if rule.min_age_s and rule.kinds == ("spawn",):
        return "what could not be started has no age", "leave min_age_s out"
    return None


def _shadow(rule: RuleConfig, earlier: Sequence[RuleConfig], path: str) -> tuple[str, str] | None:
    """Which earlier rules take everything that this one could match, and the remedy."""
    if any(_is_bare(one) for one in earlier):
        return "an earlier rule has no condition", "move that rule to the end"
    wide = [(at, one) for at, one in enumerate(earlier) if _as_wide(one, rule)]
    for at, one in wide:
        if not (one.codes or one.signals or one.kinds):
            return f"{path}[{at}] takes all of it", "remove it, or move it up"
    plain, signals = [one for _, one in wide], set(rule.signals) or ({int(SIGKILL)} if rule.oom else set())
    for word, wanted, taken in (
        ("exit_codes", set(rule.codes), {code for one in plain for code in one.codes}),
        ("signals", signals, {number for one in plain for number in one.signals}),
        ("kinds", set(rule.kinds), {kind for one in plain for kind in one.kinds}),
    ):
        if wanted and wanted <= taken:
            what = word if getattr(rule, word) else "SIGKILLs"
            return f"earlier rules take all of its {what}", "remove it, or move it up"
    return None


def _is_bare(rule: RuleConfig) -> bool:
    words = ("exit_codes", "signals", "kinds", "error_types")
    return not any(getattr(rule, word) for word in words) and _asks_nothing_else(rule)


def _asks_nothing_else(rule: RuleConfig) -> bool:
    return all(getattr(rule, word) is None for word in ("message", "oom", "phase", "min_age_s", "max_age_s"))


def _as_wide(one: RuleConfig, rule: RuleConfig) -> bool:
    """Whether ``one`` asks for nothing, apart from codes, signals and kinds, that ``rule`` does not ask for too."""
    return (
        (not one.error_types or (bool(rule.error_types) and set(rule.error_types) <= set(one.error_types)))
        and one.message in (None, rule.message)
        and one.oom in (None, rule.oom)
        and one.phase in (None, rule.phase)
        and (one.min_age_s or 0.0) <= (rule.min_age_s or 0.0)
        and _latest(one) >= _latest(rule)
    )


def _latest(rule: RuleConfig) -> float:
    return float("inf") if rule.max_age_s is None else rule.max_age_s


def _judge_action(rule: RuleConfig, where: str, report: Report) -> None:
    for word, actions, why in (
        ("budget", _CHARGED, "what it decides is not charged"),
        ("backoff", _RESTARTS, "nothing is restarted"),
        ("scope", _NARROW, "it has a scope of its own"),
    ):
        if getattr(rule, word) is not None and rule.action is not None and rule.action not in actions:
            fact = f"has no use with action {rule.action}: {why}"
            report.problem(f"{where}.{word}", fact, f"leave it out, or choose {_either(actions)}")


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
