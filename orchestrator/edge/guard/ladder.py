"""The stop ladder: a signal, SIGCONT, one deadline for all, SIGKILL to the trees, and a bounded wait.

Invariant: every ladder answers exactly once, when nothing of its workers is left or when the wait is over; and it
never blocks the loop meanwhile, so that a kill can hurry it.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.edge.guard.loop import Loop, Timer
    from orchestrator.edge.guard.worker import Worker
    from orchestrator.edge.guard.workers import Workers


class Ladder:
    """One stop request on its way down."""

    def __init__(
        self, loop: Loop, workers: Workers, waiting: list[Worker], answer: Callable[[list[int]], None]
    ) -> None:
        self._loop = loop
        self._workers = workers
        self._waiting = waiting
        self._answer = answer
        self._timer: Timer | None = None
        self._kill_wait_s = 0.0
        self._killing = False
        self.done = False

    def descend(self, signum: int, grace_s: float, kill_wait_s: float) -> None:
        """Set foot on the first rung. Nothing left to stop is answered at once."""
        self._kill_wait_s = kill_wait_s
        if not self._waiting:
            self._finish([])
        elif grace_s <= 0 or signum == signal.SIGKILL:
            self._kill()
        else:
            for worker in self._waiting:
                self._workers.send(worker, signum, ours=True)
                self._workers.send(worker, signal.SIGCONT, ours=True)  # a stopped process obeys nothing but SIGKILL
            self._timer = self._loop.call_later(grace_s, self._kill)

    def hurry(self) -> None:
        """Someone has killed workers of ours: if that were all of them, the grace is over."""
        if not self._killing and not self.done and all(worker.doomed or not worker.running for worker in self._waiting):
            self._kill()

    def left(self, worker: Worker) -> None:
        """Nothing of this worker is left."""
        if worker in self._waiting:
            self._waiting.remove(worker)
            if not self._waiting and not self.done:  # done: it was called unkillable, and dies after all
                self._finish([])

    def _kill(self) -> None:
        self._killing = True
        self._loop.cancel(self._timer)
        for worker in self._waiting:
            self._workers.kill(worker)
        self._timer = self._loop.call_later(self._kill_wait_s, self._give_up)

    def _give_up(self) -> None:
        """The kernel does not let go of them: say which, and let the agent live on."""
        self._finish(self._workers.left_of(self._waiting))

    def _finish(self, unkillable: list[int]) -> None:
        self._loop.cancel(self._timer)
        self.done = True
        self._answer(unkillable)
