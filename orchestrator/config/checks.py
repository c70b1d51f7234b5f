"""Relations between values: what is allowed alone and wrong together.

Each check speaks only when the values that it needs were readable, so that one mistake is reported once. Nothing here
changes a value.
"""

from __future__ import annotations

from orchestrator.config.report import Report
from orchestrator.config.restart import RestartOnFailure
from orchestrator.config.restart_checks import check_restart
from orchestrator.config.schema import JobConfig, RendezvousEmbedded, RendezvousRedis
from orchestrator.config.watchdog import check_watchdog
from orchestrator.errors import Problem

_GIVE_RUN_ID = "give the same run_id=NAME to every agent of the job"
_GIVE_PLACE = "give rendezvous.listen=HOST:PORT, or rendezvous=redis rendezvous.url=redis://HOST:PORT"
_GIVE_URL = "give rendezvous.url=redis://HOST:PORT"


def is_meeting(problem: Problem) -> bool:
    """Whether ``problem`` is only that nodes are not told yet where and under which name they meet."""
    return problem.remedy in (_GIVE_RUN_ID, _GIVE_PLACE, _GIVE_URL)


def check(job: JobConfig, made_up_run_id: str | None, report: Report) -> None:
    """Report every relation that does not hold."""
    if job.nodes[1] > 1:
        several_nodes(job, made_up_run_id, f"nodes={_nodes(job)} need one", report)
    _server(job, report)
    if isinstance(job.restart, RestartOnFailure):
        check_restart(job.restart, job.health, job.watchdog, report)
    check_watchdog(job.watchdog, report)


def several_nodes(job: JobConfig, made_up_run_id: str | None, why: str, report: Report) -> None:
    """Report what keeps nodes from meeting. ``why`` ends a sentence: what needs it."""
    if job.run_id == made_up_run_id and report.clean("run_id"):
        fact = f"is made up on each node, and {why} in common"
        report.problem("run_id", fact, _GIVE_RUN_ID)
    if isinstance(job.rendezvous, RendezvousEmbedded) and job.rendezvous.listen is None and report.clean("rendezvous"):
        report.problem(
            "rendezvous",
            f"embedded has no address for other nodes, and {why}",
            _GIVE_PLACE,
        )


def _nodes(job: JobConfig) -> str:
    low, high = job.nodes
    return str(low) if low == high else f"{low}:{high}"


def _server(job: JobConfig, report: Report) -> None:
    if isinstance(job.rendezvous, RendezvousRedis) and job.rendezvous.url is None and report.clean("rendezvous.url"):
        report.problem("rendezvous.url", "is missing with rendezvous=redis", _GIVE_URL)
