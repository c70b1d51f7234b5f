"""Judges failures before the group hears of them, where rules may keep them from the group.

A judgement may ask for what explains the failure, and so waits for a disk, within bounds. Invariant: every failure that
is taken is told, judged or not, before the round's workers count as stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.core.policies import RestartPolicy
from orchestrator.core.restart import Judgement, judge
from orchestrator.core.words import Event
from orchestrator.edge.failed import Failed, explain
from orchestrator.edge.worker_files import Worker


@dataclass(frozen=True, slots=True)
class Case:
    """A worker's failure, and by which event the machine hears of it if it concerns all."""

    worker: Worker
    failed: Failed
    event: Event


class Judging:
    """The failures of one node that are being judged. ``judged`` takes each, with what was found."""

    def __init__(self, policy: RestartPolicy, judged: Callable[[Case, Judgement], None]) -> None:
        self._policy = policy
        self._judged = judged
        self._tasks: dict[asyncio.Task[None], Case] = {}

    def take(self, tasks: asyncio.TaskGroup, case: Case) -> None:
        """Judge this failure."""
        task = tasks.create_task(self._judge(case), name=f"judge {case.worker.place.rank}")
        self._tasks[task] = case
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _judge(self, case: Case) -> None:
        await explain([case.failed])
        failure, errno = case.failed.failure, case.failed.errno
        self._judged(case, judge(failure, self._policy, spawn_errno=errno))

    async def settle(self) -> None:
        """Wait until all are judged."""
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def drop(self) -> list[Case]:
        """Judge nothing any more; returns what is not judged."""
        cases = list(self._tasks.values())
        for task in list(self._tasks):
            task.cancel()
        self._tasks.clear()
        return cases
