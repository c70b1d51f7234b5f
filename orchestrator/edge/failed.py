"""The failures of a node's workers: those of the run, those of this round, and what is still to be explained of them.

A failure is news at once; what explains it is read meanwhile, by a thread, because no disk may hold up the agent's
loop. What follows from a failure is not known here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.core.failures import Failure

FAILURES_KEPT = 100  # a job may fail and be restarted for years
EXPLAINED_WITHIN_S = 2.0  # so long a report of failures waits for what a disk has to say about them


@dataclass(slots=True)
class Failed:
    """A failure, as far as it is explained, and the explanation that is under way."""

    failure: Failure
    errno: int | None = None  # of a spawn that failed
    explained: asyncio.Future[Failure] | None = None
    spared: bool = False  # whether the group is spared it: it stops for nobody's sake


class FailureBook:
    """Keeps them, in the order in which they were heard of."""

    def __init__(self) -> None:
        self._all: deque[Failed] = deque(maxlen=FAILURES_KEPT)  # the last ones of the run
        self._now: list[Failed] = []  # in this round
        self._handed_out = 0  # of these, to `news`
        self.count = 0  # in the whole run

    def begin_round(self) -> None:
        """What failed so far is of an earlier round."""
        self._now, self._handed_out = [], 0

    def add(self, failed: Failed) -> None:
        """One more of this round."""
        self._all.append(failed)
        self._now.append(failed)
        self.count += 1

    @property
    def all(self) -> tuple[Failure, ...]:
        """The last failures of the run."""
        return tuple(failed.failure for failed in self._all)

    @property
    def first(self) -> Failure | None:
        """The first failure of this round that concerns the group."""
        return next((failed.failure for failed in self._now if not failed.spared), None)

    async def news(self) -> list[tuple[Failure, int | None]]:
        """This round's failures that concern the group, and were not asked for before; with a failed spawn's errno."""
        fresh, self._handed_out = self._now[self._handed_out :], len(self._now)
        await explain(fresh)
        return [(failed.failure, failed.errno) for failed in fresh if not failed.spared]

    async def end(self) -> None:
        """Wait for the last explanations."""
        await explain(self._all)


async def explain(several: Collection[Failed]) -> None:
    """Wait until these are explained, or the disk has had its time."""
    waiting = [failed.explained for failed in several if failed.explained is not None]
    if waiting:
        await asyncio.wait(waiting, timeout=EXPLAINED_WITHIN_S)
    for failed in several:
        if failed.explained is not None and failed.explained.done():
            failed.failure, failed.explained = failed.explained.result(), None
