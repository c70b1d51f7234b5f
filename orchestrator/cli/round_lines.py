"""Rounds in words: how one begins, and how the next is decided upon.

In goes a record of the journal, out comes a line. Invariant: a strange record leaves something out and never raises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from orchestrator.cli.report import Line, counted, duration
from orchestrator.core.policies import Budget, RestartKind
from orchestrator.core.specs import GroupSpec, JobSpec


def round_settled_line(record: Mapping[str, Any], group: GroupSpec) -> Line:
    """A round that begins: how large it is, and which ranks are here."""
    nodes, workers = record.get("nodes"), record.get("world_size")
    place = ""
    if nodes != 1:
        base = record.get("base_rank", record.get("group_rank", 0) * group.worker.nproc)
        last = base + group.worker.nproc - 1
        place = f", this node has {f'rank {base}' if last == base else f'ranks {base}-{last}'}"
    text = f"round {record.get('round')}: {counted(nodes, 'node')}, {counted(workers, 'worker')}{place}"
    return Line(f"{text}{_attempt(record.get('charged'), group)}")


def _attempt(charged: object, group: GroupSpec) -> str:
    if group.restart.kind is RestartKind.NEVER or not isinstance(charged, int):
        return ""
    restart = group.restart
    most, apart = restart.budget.max, any(rule.budget for rule in restart.rules)
    bound = most is not None and restart.budget.per_s is None and not apart and not restart.progress.refill
    of = f" of {most + 1}" if most is not None and bound else ""
    return f" · attempt {charged + 1}{of}"


def restart_decided_line(record: Mapping[str, Any], group: GroupSpec) -> Line:
    """What was decided after a failure, and what is left of the budget."""
    delay = record.get("delay_s")
    when = f"in {duration(delay)}" if isinstance(delay, int | float) and delay > 0 else "now"
    left, most = record.get("remaining"), _budget(record.get("rule"), group).max
    if not record.get("charged"):
        price = "not charged to the budget"
    elif left is None or most is None:
        price = "no limit to restarts"
    else:
        price = f"{left} of {counted(most, 'restart')} left"
    return Line(f"restarting {_what(record.get('ranks'))} {when}; {price}", "warn", logging.WARNING)


def _budget(rule: object, group: GroupSpec) -> Budget:
    """That which was charged: a rule's own, or the group's."""
    rules = group.restart.rules
    own = rules[rule].budget if isinstance(rule, int) and rule < len(rules) else None
    return own or group.restart.budget


def _what(ranks: object) -> str:
    """What is restarted: the ranks that a narrower restart concerns, or everything."""
    if not isinstance(ranks, list) or not ranks:
        return "the whole group"
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def group_of(record: Mapping[str, Any], job: JobSpec) -> GroupSpec:
    """The group that a record is about."""
    return next((group for group in job.groups if group.role == record.get("group")), job.groups[0])
