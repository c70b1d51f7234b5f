"""Relations between ``restart`` and the rest of a job: delays, budgets that can trip, failures that somebody finds.

Each check speaks only when the values that it needs were readable. Nothing here changes a value.
"""

from __future__ import annotations

from orchestrator.config.health import HealthDisabled, HealthHttp
from orchestrator.config.report import Report
from orchestrator.config.restart import RestartOnFailure, backoff_of
from orchestrator.config.rule_checks import judge_rules
from orchestrator.config.rules import BudgetConfig, RuleConfig
from orchestrator.config.watchdog import WatchdogConfig, check_kinds
from orchestrator.core.policies import Backoff
from orchestrator.core.restart import base_delay_s

_STEPS = 10_000  # by then a geometric delay is at its maximum, or does not grow
_ASKED_BY = {"probe": "liveness", "start_timeout": "startup"}
_PHASES = ("starting", "running")


def check_restart(
    restart: RestartOnFailure, health: HealthDisabled | HealthHttp, watchdog: WatchdogConfig, report: Report
) -> None:
    """Report every relation that does not hold."""
    _patience(backoff_of(restart.backoff), "restart.backoff", report)
    _budget(restart.budget, backoff_of(restart.backoff), "restart.budget", report)
    _progress(restart, watchdog, report)
    if report.clean("restart.rules"):
        judge_rules(restart.rules, "restart.rules", report)
    for at, rule in enumerate(restart.rules):
        where = f"restart.rules[{at}]"
        check_kinds(rule.kinds, watchdog, where, report)
        _found(rule, health, where, report)
        _phase(rule, watchdog, where, report)
        delays = backoff_of(restart.backoff, rule.backoff)
        if rule.backoff is not None and report.clean("restart.backoff"):
            _patience(delays, f"{where}.backoff", report)
        if rule.budget is not None:
            _budget(rule.budget, delays, f"{where}.budget", report)


def _patience(delays: Backoff, path: str, report: Report) -> None:
    if not report.clean(f"{path}.reset_after_s", f"{path}.max_s"):
        return
    if delays.reset_after_s < delays.max_s:
        report.problem(
            f"{path}.reset_after_s",
            f"{delays.reset_after_s:g} is less than {path}.max_s {delays.max_s:g}",
            f"allowed: from {delays.max_s:g}, or a smaller max_s",
        )


def _budget(budget: BudgetConfig, delays: Backoff, path: str, report: Report) -> None:
    limit, per_s = budget.max, budget.per_s
    if limit is None or per_s is None or not report.clean(path, "restart.backoff"):
        return
    least = least_delay_s(limit, delays)
    if limit > 0 and least >= per_s:
        report.problem(
            f"{path}.per_s",
            f"{per_s:g} can never trip: the delays of {limit} restarts take {least:g} s or more",
            f"allowed: above {least:g}, or null for the whole run, or shorter delays in restart.backoff",
        )


def _progress(restart: RestartOnFailure, watchdog: WatchdogConfig, report: Report) -> None:
    progress, budget = restart.progress, restart.budget
    if not report.clean("restart.progress", "watchdog"):
        return
    given = [word for word, used in (("refill", progress.refill), ("max_stalled", progress.max_stalled)) if used]
    if given and watchdog.kind == "disabled":
        fact = "nobody hears of progress with watchdog=disabled"
        report.problem(f"restart.progress.{given[0]}", fact, "choose another watchdog, such as observe")
    alone = budget.per_s is None and all(rule.budget is None for rule in restart.rules)
    if not alone or budget.max is None or progress.max_stalled is None or not report.clean("restart"):
        return
    if progress.max_stalled > budget.max:
        fact = f"{progress.max_stalled} can never trip: restart.budget.max {budget.max} is spent before"
        report.problem("restart.progress.max_stalled", fact, f"allowed: 1 to {budget.max}, or a larger budget")


def _found(rule: RuleConfig, health: HealthDisabled | HealthHttp, where: str, report: Report) -> None:
    """A rule about failures that nothing of this job can find is a mistake."""
    if not report.clean("health", "restart.rules"):
        return
    missing = [_ASKED_BY[kind] for kind in rule.kinds if getattr(health, _ASKED_BY.get(kind, "kind"), None) is None]
    if missing and len(missing) == len(rule.kinds):
        fact = f"can never match: nothing is asked by health.{' or health.'.join(missing)}"
        report.problem(where, fact, "give that probe, or remove the rule")


def _phase(rule: RuleConfig, watchdog: WatchdogConfig, where: str, report: Report) -> None:
    if rule.phase is None or rule.phase in _PHASES or watchdog.kind == "sections" or not report.clean("watchdog"):
        return
    fact = f"'{rule.phase}' can never match: sections are known with watchdog=sections only"
    report.problem(f"{where}.phase", fact, "allowed: starting, running, or a section with watchdog=sections")


def least_delay_s(restarts: int, backoff: Backoff) -> float:
    """The shortest time that the delays of so many consecutive restarts can take."""
    counted = min(restarts, _STEPS)
    growing = sum(base_delay_s(number, backoff) for number in range(1, counted + 1))
    steady = (restarts - counted) * base_delay_s(restarts, backoff) if restarts > counted else 0.0
    return (growing + steady) * (1 - backoff.jitter)
