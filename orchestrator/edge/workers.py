"""The local workers of one round: orders to spawn them, and what their exits amount to.

Reports three things to the inbox: all are started, all have succeeded (each once a round), and one more has failed.
What follows from that is the machine's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.core.health import ProbeKind, ProbesPolicy
from orchestrator.core.ranks import places
from orchestrator.core.rendezvous import Seat
from orchestrator.core.roles import Level
from orchestrator.core.snapshot import WorkerView
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.core.words import Event
from orchestrator.edge.backend import WorkerBackend
from orchestrator.edge.deaths import Deaths
from orchestrator.edge.failed import FailureBook
from orchestrator.edge.guard.client import Exited, Spawned, SpawnFailed
from orchestrator.edge.logs import Logs
from orchestrator.edge.memory_marks import mark
from orchestrator.edge.messages import Post
from orchestrator.edge.outcomes import Outcomes, who
from orchestrator.edge.processes import Processes
from orchestrator.edge.replacing import Ask
from orchestrator.edge.starter import Starter
from orchestrator.edge.stopping import Stopping
from orchestrator.edge.tail import Tailer
from orchestrator.edge.watchdog import Watchdog
from orchestrator.edge.worker_files import Worker

if TYPE_CHECKING:
    from orchestrator.edge.probes import Probes


class LocalWorkers:
    """This node's workers. A new round forgets the last one's, which are gone by then."""

    def __init__(
        self,
        job: JobSpec,
        group: GroupSpec,
        *,
        backend: WorkerBackend,
        processes: Processes,
        tailer: Tailer | None,
        watchdog: Watchdog,
        store: str,
        post: Post,
        log: Callable[..., None],
    ) -> None:
        self._job = job
        self._group = group
        self._backend = backend
        self._watchdog = watchdog
        self._post = post
        self._log = log
        self._workers: dict[int, Worker] = {}  # by handle; with those that are being replaced
        self._logs = Logs(job, group.role, tailer, log)
        self._starter = Starter(job, group, backend=backend, logs=self._logs, watchdog=watchdog, store=store, log=log)
        self._deaths = Deaths(group, job.node.name, logged=self._logs.kept)
        self.stopping = Stopping(job.stop, backend, log)
        self._probes = None if group.probes is None else self._make_probes(group.probes, processes)
        watchdog.on_hang = self._hung
        self.failed = FailureBook()
        self._outcomes = Outcomes(
            group,
            self._workers,
            self.failed,
            job.stop,
            backend=backend,
            starter=self._starter,
            post=post,
            log=log,
            start=self._start,
            leave=self._leave,
        )

    def _make_probes(self, policy: ProbesPolicy, processes: Processes) -> Probes:
        from orchestrator.edge.probes import Probes  # noqa: PLC0415 - few jobs want it

        return Probes(
            self._job,
            self._group,
            policy,
            processes=processes,
            failed=self._probe_failed,
            changed=self._readiness_changed,
            log=self._log,
        )

    def attach(self, tasks: asyncio.TaskGroup) -> None:
        """Where the tasks that ask, judge and replace workers belong."""
        self._outcomes.attach(tasks)
        if self._probes is not None:
            self._probes.attach(tasks)

    # -- starting

    async def start(self, seat: Seat) -> None:
        """Order this node's workers of the round. Their being started, or not, is told by the backend.

        None of them is, if this is cancelled.
        """
        self._ask_no_more()
        self._outcomes.begin_round(seat.round)
        workers = [self._starter.new(place) for place in places(seat, self._group.worker.nproc)]
        self._workers.clear()
        self._workers.update({worker.handle: worker for worker in workers})
        await self._start(workers)

    async def _start(self, workers: Sequence[Worker]) -> None:
        problems = await self._starter.prepare(workers)
        self._logs.keep(self._outcomes.current)  # all of them: it forgets the others
        for worker, problem in zip(workers, problems, strict=True):
            if problem is None:
                self._starter.spawn(worker)
            else:
                self._spawn_failed(worker, f"creating {worker.directory}", problem.errno or 0)

    def replace(self, ask: Ask) -> None:
        """Replace those that failures concern which the group is spared."""
        self._outcomes.replace(ask)

    # -- stopping

    async def stop(self) -> list[int]:
        """Stop all of them and whatever they left behind; returns the pids that would not die.

        Whatever had failed before is told by then.
        """
        asked = {worker.pid: self._watchdog.whom_to_ask(worker) for worker in self._workers.values() if worker.pid}
        self._ask_no_more()
        if not self._workers:
            return []
        unkillable = await self.stopping.stop(list(self._workers.values()), asked)
        await self._outcomes.settle()
        return unkillable

    def kill(self) -> None:
        """Kill them now; a stop under way ends the sooner for it."""
        self._ask_no_more()
        self._backend.kill(list(self._workers))

    def _ask_no_more(self) -> None:
        self._watchdog.rest()
        self._outcomes.rest()
        if self._probes is not None:
            self._probes.end_all()

    def forward(self, signum: int) -> None:
        """Pass a signal on to the workers as it is."""
        self._backend.signal([w.handle for w in self._workers.values() if w.pid and not w.ended], signum)

    def lost(self) -> None:
        """The guard died, and they with it: that is this round's failure, if some still ran and it had none before."""
        self._ask_no_more()
        blamed = self.failed.first is not None
        self._outcomes.lost()
        dead = [worker for worker in self._workers.values() if not worker.ended]
        for worker in dead:
            worker.ended = True
        if dead and not blamed:
            self.failed.add(self._deaths.bereft(dead[0]))

    def views(self) -> tuple[WorkerView, ...]:
        """This round's workers, as they are now."""
        probes = self._probes
        return tuple(
            worker.view(ready=probes is None or probes.ready(worker.handle)) for worker in self._outcomes.current
        )

    async def end(self) -> None:
        """No worker is left, and none will be started: wait for the last explanations of failures."""
        await self.failed.end()
        self._logs.end()
        self._starter.close()
        self._deaths.close()

    def level(self) -> Level:
        """How far this round's workers have come."""
        left = [worker for worker in self._outcomes.current if not worker.settled]
        if any(worker.pid is None for worker in left):
            return Level.SETTLED
        ready = self._probes is None or all(self._probes.ready(worker.handle) for worker in left)
        return Level.HEALTHY if ready else Level.STARTED

    # -- listening

    def hear(self, event: Spawned | SpawnFailed | Exited) -> None:
        """The backend tells of a worker."""
        worker = self._workers.get(event.handle)
        if worker is None:
            return  # of an earlier round
        match event:
            case Spawned():
                self._spawned(worker, event)
            case SpawnFailed(step="fenced" | "stopped"):
                worker.ended = True  # refused, because the lease has lapsed, which is told apart, or it was stopped
            case SpawnFailed():
                self._spawn_failed(worker, event.step, event.errno)
            case Exited():
                self._exited(worker, event)

    def _spawned(self, worker: Worker, event: Spawned) -> None:
        worker.pid, worker.started_s, worker.memory = event.pid, time.monotonic(), mark(event.pid)
        self._log("worker_started", **who(worker), pid=event.pid)
        if worker.replaced:
            return  # it is stopped already
        self._watchdog.started(worker)
        if self._probes is not None:
            self._probes.begin(worker.handle, worker.place)
        self._outcomes.count()

    def _exited(self, worker: Worker, event: Exited) -> None:
        worker.ended = True
        self._note_readiness(worker)
        sections = self._watchdog.ended(worker)
        if self._probes is not None:
            self._probes.end(worker.handle)
        kind = "signaled" if event.signal is not None else "exited"
        self._log(
            "worker_exited",
            **who(worker),
            pid=event.pid,
            exit_code=event.exit_code,
            signal=event.signal,
            kind=kind,
            sent_by_us=event.sent_by_us,
        )
        if event.sent_by_us:
            return
        if event.exit_code == 0:
            self._outcomes.settled(worker)
        else:
            self._outcomes.fail(worker, self._deaths.exited(worker, event, sections))

    def _note_readiness(self, worker: Worker) -> None:
        """Whether it had come up, while that is still known."""
        asked = self._probes is not None and self._group.probes is not None and self._group.probes.startup is not None
        if asked and self._probes is not None:
            worker.was_ready = self._probes.started(worker.handle)

    def _spawn_failed(self, worker: Worker, step: str, errno: int) -> None:
        worker.ended = True
        self._outcomes.fail(worker, self._deaths.unborn(worker, step, errno))

    def _readiness_changed(self) -> None:
        if self._group.needed and self.level() is Level.HEALTHY:
            self._outcomes.tell(Event.WORKERS_READY, "all local workers are ready, by their probes")

    def _probe_failed(self, handle: int, kind: ProbeKind, why: str, said: tuple[str, ...]) -> None:
        worker = self._workers[handle]
        self._note_readiness(worker)
        self._outcomes.fail(worker, self._deaths.unwell(worker, kind, why, said), Event.PROBE_FAILED)

    def _hung(self, worker: Worker, why: str, stacks: str, sections: tuple[str, ...]) -> None:
        """It hangs: that is its failure, and it will be stopped for it."""
        self._note_readiness(worker)
        self._outcomes.fail(worker, self._deaths.hung(worker, why, stacks, sections), Event.WORKER_HUNG)

    def _leave(self, worker: Worker) -> None:
        """It will be stopped for a failure that the group is spared: nothing that it does from here on counts."""
        self._watchdog.ended(worker)
        if self._probes is not None:
            self._probes.end(worker.handle)

    @property
    def ignored(self) -> int:
        """How many have failed, and do not count."""
        return self._outcomes.ignored

    # -- what they reported

    def results(self) -> dict[int, Mapping[str, Any]]:
        """What each worker of the last round wrote to its result file, by rank; what is no JSON object is left out."""
        values = {worker.place.rank: worker.reported() for worker in self._outcomes.current}
        return {rank: value for rank, value in values.items() if value is not None}
