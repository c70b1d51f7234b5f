"""The failures of this node's workers, as far as they are explained by now.

A failure is news at once; what explains it is read meanwhile, by a thread. Invariant: nobody who asks waits for a disk
longer than `EXPLAINED_WITHIN_S`.
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


class FailureBook:
    """All failures of the run, the last ones kept; and those of this round."""

    def __init__(self) -> None:
        self._kept: deque[Failed] = deque(maxlen=FAILURES_KEPT)
        self._now: list[Failed] = []
        self._handed_out = 0  # of these, to `news`

    def turn_page(self) -> None:
        """A new round begins."""
        self._now, self._handed_out = [], 0

    def note(self, failed: Failed) -> None:
        """One more."""
        self._kept.append(failed)
        self._now.append(failed)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The last failures of the run."""
        return tuple(failed.failure for failed in self._kept)

    @property
    def first(self) -> Failure | None:
        """The first failure of this round."""
        return self._now[0].failure if self._now else None

    async def news(self) -> list[tuple[Failure, int | None]]:
        """This round's failures that were not asked for before, with the errno of a failed spawn."""
        fresh, self._handed_out = self._now[self._handed_out :], len(self._now)
        await _explain(fresh)
        return [(failed.failure, failed.errno) for failed in fresh]

    async def settle(self) -> None:
        """Wait for the last explanations."""
        await _explain(self._kept)


async def _explain(several: Collection[Failed]) -> None:
    """Wait until these are explained, or the disk has had its time."""
    waiting = [failed.explained for failed in several if failed.explained is not None]
    if waiting:
        await asyncio.wait(waiting, timeout=EXPLAINED_WITHIN_S)
    for failed in several:
        if failed.explained is not None and failed.explained.done():
            failed.failure, failed.explained = failed.explained.result(), None
