"""What the ends of one round's workers amount to: who has succeeded, who has failed, and for whom that matters.

Tells the inbox once that all are started, once that all have succeeded, and of each failure that the machine must hear
of. Invariant: a failure is told once, and from which failures the group is spared is known before any of them is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from orchestrator.core.policies import RuleAction, Scope, StopPolicy
from orchestrator.core.restart import Judgement, judges_first
from orchestrator.core.specs import GroupSpec
from orchestrator.core.words import Event
from orchestrator.edge.backend import WorkerBackend
from orchestrator.edge.failed import Failed, FailureBook
from orchestrator.edge.judging import Case, Judging
from orchestrator.edge.messages import Message, Post
from orchestrator.edge.replacing import Ask, Replacing
from orchestrator.edge.starter import Starter
from orchestrator.edge.worker_files import Worker


class Outcomes:
    """One node's workers of a round, by handle, as far as their ends matter."""

    def __init__(
        self,
        group: GroupSpec,
        workers: dict[int, Worker],
        failed: FailureBook,
        stop: StopPolicy,
        *,
        backend: WorkerBackend,
        starter: Starter,
        post: Post,
        log: Callable[..., None],
        start: Callable[[Sequence[Worker]], Awaitable[None]],
        leave: Callable[[Worker], None],
    ) -> None:
        """``start`` starts workers, ``leave`` hears of one that is nobody's concern any more though it may run."""
        self._group = group
        self._workers = workers
        self._failed = failed
        self._post = post
        self._log = log
        self._leave = leave
        self._round = 0
        self._told: set[Event] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._falling: set[asyncio.Task[None]] = set()  # put down workers that do not count any more
        self._judging = Judging(group.restart, self._judged) if judges_first(group.restart) else None
        self._replacing = Replacing(
            group.restart,
            stop,
            workers,
            backend=backend,
            starter=starter,
            post=post,
            log=log,
            start=start,
            unkillable=self._unkillable,
        )

    def attach(self, tasks: asyncio.TaskGroup) -> None:
        """Where the tasks that judge and replace workers belong."""
        self._tasks = tasks

    def begin_round(self, number: int) -> None:
        """Nothing of an earlier round counts."""
        self._round, self._told = number, set()
        self._failed.begin_round()

    def replace(self, ask: Ask) -> None:
        """Replace those that failures concern which the group is spared."""
        if self._tasks is not None:
            self._replacing.begin(self._tasks, ask)

    def rest(self) -> None:
        """The workers are being stopped, or are gone: none is replaced any more."""
        self._replacing.end()
        for task in self._falling:
            task.cancel()

    async def settle(self) -> None:
        """Wait until all that has failed is told."""
        if self._judging is not None:
            await self._judging.settle()

    def lost(self) -> None:
        """All workers are gone: what is not judged yet concerns the group, as that does."""
        for case in self._judging.drop() if self._judging is not None else ():
            self._failed.add(case.failed)

    @property
    def current(self) -> list[Worker]:
        """One of each local rank."""
        return [worker for worker in self._workers.values() if not worker.replaced]

    @property
    def ignored(self) -> int:
        """How many have failed, and do not count."""
        return sum(worker.ignored for worker in self.current)

    def fail(self, worker: Worker, failed: Failed, event: Event = Event.WORKER_FAILED) -> None:
        """It has failed; ``event`` is that by which the machine hears of it, if the group must."""
        case = Case(worker, failed, event)
        if self._judging is None or self._tasks is None:
            self._concern_all(case)
        else:
            self._judging.take(self._tasks, case)

    def _judged(self, case: Case, judgement: Judgement) -> None:
        worker, failed = case.worker, case.failed
        if not judgement.action.spares and judgement.scope is Scope.GROUP:
            self._concern_all(case)  # also if it was to be replaced for another one's failure
            return
        if judgement.action is not RuleAction.SUCCESS:
            failed.spared = True
            self._failed.add(failed)
        if worker.replaced:
            return
        if judgement.action.spares:
            self._log("failure_judged", **who(worker), pid=worker.pid, action=judgement.action, why=judgement.why)
            self._spare(case, ignored=judgement.action is RuleAction.IGNORE)
        else:
            self._replace_part(worker, failed, judgement)

    def _concern_all(self, case: Case) -> None:
        self._failed.add(case.failed)
        self._post_failure(case.event, case.failed)

    def _post_failure(self, event: Event, failed: Failed) -> None:
        failure = failed.failure
        self._post(Message(event=event, reason=f"rank {failure.rank}: {failure.how()}", round=failure.round))

    def _replace_part(self, worker: Worker, failed: Failed, judgement: Judgement) -> None:
        self._told -= {Event.WORKERS_STARTED}
        for old in self._replacing.plan(worker, failed, judgement):
            self._leave(old)
        self._post_failure(Event.PART_FAILED, failed)

    def _spare(self, case: Case, *, ignored: bool) -> None:
        """The worker counts no more; if it still runs, it is put down first."""
        worker = case.worker
        if worker.ended or self._tasks is None:
            self.settled(worker, ignored=ignored)
        else:
            task = self._tasks.create_task(self._put_down(case, ignored=ignored), name=f"put down {worker.place.rank}")
            self._falling.add(task)
            task.add_done_callback(self._falling.discard)

    async def _put_down(self, case: Case, *, ignored: bool) -> None:
        if await self._replacing.put_down(case.worker):
            self.settled(case.worker, ignored=ignored)
        else:
            self._unkillable(case.failed)

    def _unkillable(self, failed: Failed) -> None:
        """Something of it survives SIGKILL: this node is unfit, which the stop of all others will show."""
        failed.spared = False
        self._post_failure(Event.WORKER_FAILED, failed)

    def settled(self, worker: Worker, *, ignored: bool = False) -> None:
        """It has succeeded, or failed in a way that does not count."""
        if worker.replaced:
            return  # its successor counts
        worker.settled, worker.ignored = True, ignored
        self.count()

    def count(self) -> None:
        """Tell once that all are started, and once that all have succeeded."""
        current = self.current
        if all(worker.pid is not None or worker.settled for worker in current):
            if Event.WORKERS_STARTED not in self._told:
                for worker in current:
                    worker.was_ready = self._group.probes is None or self._group.probes.startup is None
            self.tell(Event.WORKERS_STARTED, f"{len(current)} workers run")
        if all(worker.settled for worker in current):
            ignored = self.ignored
            but = f", but for {ignored} whose failures restart.rules ignore" if ignored else ""
            self.tell(Event.WORKERS_SUCCEEDED, f"all local workers exited with 0{but}")

    def tell(self, event: Event, reason: str) -> None:
        """Post this, once a round."""
        if event not in self._told:
            self._told.add(event)
            self._post(Message(event=event, reason=reason, round=self._round))


def who(worker: Worker) -> dict[str, int]:
    """The worker, as records name it."""
    place = worker.place
    return {"rank": place.rank, "local_rank": place.local_rank, "incarnation": worker.incarnation}
