"""Relations between values: what is allowed alone and wrong together.

Each check speaks only when the values that it needs were readable, so that one mistake is reported once. Nothing here
changes a value.
"""

from __future__ import annotations

from orchestrator.config.report import Report
from orchestrator.config.schema import JobConfig, RendezvousEmbedded, RendezvousRedis, RestartOnFailure
from orchestrator.config.watchdog import check_kinds, check_watchdog
from orchestrator.core.restart import base_delay_s
from orchestrator.core.specs import Backoff

_STEPS = 10_000  # by then a geometric delay is at its maximum, or does not grow


def check(job: JobConfig, made_up_run_id: str | None, report: Report) -> None:
    """Report every relation that does not hold."""
    if job.nodes[1] > 1:
        several_nodes(job, made_up_run_id, f"nodes={_nodes(job)} need one", report)
    _server(job, report)
    if isinstance(job.restart, RestartOnFailure):
        _backoff(job.restart, report)
        _budget(job.restart, report)
        _kinds(job, job.restart, report)
        for at, rule in enumerate(job.restart.rules):
            check_kinds(rule.kinds, job.watchdog, f"restart.rules[{at}]", report)
    check_watchdog(job.watchdog, report)


def several_nodes(job: JobConfig, made_up_run_id: str | None, why: str, report: Report) -> None:
    """Report what keeps nodes from meeting. ``why`` ends a sentence: what needs it."""
    if job.run_id == made_up_run_id and report.clean("run_id"):
        fact = f"is made up on each node, and {why} in common"
        report.problem("run_id", fact, "give the same run_id=NAME to every agent of the job")
    if isinstance(job.rendezvous, RendezvousEmbedded) and job.rendezvous.listen is None and report.clean("rendezvous"):
        report.problem(
            "rendezvous",
            f"embedded has no address for other nodes, and {why}",
            "give rendezvous.listen=HOST:PORT, or rendezvous=redis rendezvous.url=redis://HOST:PORT",
        )


def _nodes(job: JobConfig) -> str:
    low, high = job.nodes
    return str(low) if low == high else f"{low}:{high}"


def _server(job: JobConfig, report: Report) -> None:
    if isinstance(job.rendezvous, RendezvousRedis) and job.rendezvous.url is None and report.clean("rendezvous.url"):
        report.problem("rendezvous.url", "is missing with rendezvous=redis", "give rendezvous.url=redis://HOST:PORT")


def _backoff(restart: RestartOnFailure, report: Report) -> None:
    delays = restart.backoff
    if not report.clean("restart.backoff.reset_after_s", "restart.backoff.max_s"):
        return
    if delays.reset_after_s < delays.max_s:
        report.problem(
            "restart.backoff.reset_after_s",
            f"{delays.reset_after_s:g} is less than restart.backoff.max_s {delays.max_s:g}",
            f"allowed: from {delays.max_s:g}, or a smaller max_s",
        )


def _budget(restart: RestartOnFailure, report: Report) -> None:
    limit, per_s = restart.budget.max, restart.budget.per_s
    if limit is None or per_s is None or not report.clean("restart.budget", "restart.backoff"):
        return
    delays = restart.backoff
    least = least_delay_s(limit, Backoff(**{name: getattr(delays, name) for name in Backoff.__dataclass_fields__}))
    if limit > 0 and least >= per_s:
        report.problem(
            "restart.budget.per_s",
            f"{per_s:g} can never trip: the delays of {limit} restarts take {least:g} s or more",
            f"allowed: above {least:g}, or null for the whole run, or shorter delays in restart.backoff",
        )


_ASKED_BY = {"probe": "liveness", "start_timeout": "startup"}


def _kinds(job: JobConfig, restart: RestartOnFailure, report: Report) -> None:
    """A rule about failures that nothing of this job can find is a mistake."""
    if not report.clean("health", "restart.rules"):
        return
    for at, rule in enumerate(restart.rules):
        missing = [
            _ASKED_BY[kind] for kind in rule.kinds if getattr(job.health, _ASKED_BY.get(kind, "kind"), None) is None
        ]
        if missing and len(missing) == len(rule.kinds):
            fact = f"can never match: nothing is asked by health.{' or health.'.join(missing)}"
            report.problem(f"restart.rules[{at}]", fact, "give that probe, or remove the rule")


def least_delay_s(restarts: int, backoff: Backoff) -> float:
    """The shortest time that the delays of so many consecutive restarts can take."""
    counted = min(restarts, _STEPS)
    growing = sum(base_delay_s(number, backoff) for number in range(1, counted + 1))
    steady = (restarts - counted) * base_delay_s(restarts, backoff) if restarts > counted else 0.0
    return (growing + steady) * (1 - backoff.jitter)
