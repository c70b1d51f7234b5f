"""The local workers of one round: orders to spawn them, and what their exits amount to.

Reports three things to the inbox: all are started, all have succeeded (each once a round), and one more has failed.
What follows from that is the machine's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.health import ProbeKind
from orchestrator.core.ranks import places
from orchestrator.core.rendezvous import Seat
from orchestrator.core.roles import Level
from orchestrator.core.snapshot import WorkerView
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.core.words import Event
from orchestrator.edge.backend import WorkerBackend
from orchestrator.edge.deaths import Deaths
from orchestrator.edge.failed import Failed, FailureBook
from orchestrator.edge.guard.client import Exited, Spawned, SpawnFailed
from orchestrator.edge.logs import Logs
from orchestrator.edge.messages import Message, Post
from orchestrator.edge.probes import Probes
from orchestrator.edge.processes import Processes
from orchestrator.edge.starter import Starter
from orchestrator.edge.stopping import Stopping
from orchestrator.edge.tail import Tailer
from orchestrator.edge.watchdog import Watchdog
from orchestrator.edge.worker_files import Worker


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
        self._workers: dict[int, Worker] = {}
        self._seat: Seat | None = None
        self._told: set[Event] = set()
        self._logs = Logs(job, group.role, tailer, log)
        self._starter = Starter(job, group, backend=backend, logs=self._logs, watchdog=watchdog, store=store)
        self._deaths = Deaths(group, job.node.name, logged=self._logs.kept)
        self.stopping = Stopping(job.stop, backend, log)
        self.failed = FailureBook()
        self._probes: Probes | None = None
        if group.probes is not None:
            self._probes = Probes(
                job,
                group,
                group.probes,
                processes=processes,
                failed=self._probe_failed,
                changed=self._readiness_changed,
                log=log,
            )
        watchdog.on_hang = self._hung

    def attach(self, tasks: asyncio.TaskGroup) -> None:
        """Where the tasks that ask workers how they are belong."""
        if self._probes is not None:
            self._probes.attach(tasks)

    # -- starting

    async def start(self, seat: Seat) -> None:
        """Order this node's workers of the round. Their being started, or not, is told by the backend.

        None of them is, if this is cancelled.
        """
        self._ask_no_more()
        self._seat, self._told = seat, set()
        self.failed.begin_round()
        workers = [self._starter.new(place) for place in places(seat, self._group.worker.nproc)]
        self._workers = {worker.handle: worker for worker in workers}
        problems = await self._starter.prepare(workers)
        self._logs.keep(workers)
        for worker, problem in zip(workers, problems, strict=True):
            if problem is None:
                self._starter.spawn(worker)
            else:
                self._spawn_failed(worker, f"creating {worker.directory}", problem.errno or 0)

    # -- stopping

    async def stop(self) -> list[int]:
        """Stop all of them and whatever they left behind; returns the pids that would not die."""
        asked = {worker.pid: self._watchdog.whom_to_ask(worker) for worker in self._workers.values() if worker.pid}
        self._ask_no_more()
        return await self.stopping.stop(list(self._workers.values()), asked) if self._workers else []

    def kill(self) -> None:
        """Kill them now; a stop under way ends the sooner for it."""
        self._ask_no_more()
        self._backend.kill(list(self._workers))

    def _ask_no_more(self) -> None:
        self._watchdog.rest()
        if self._probes is not None:
            self._probes.end_all()

    def forward(self, signum: int) -> None:
        """Pass a signal on to the workers as it is."""
        self._backend.signal([w.handle for w in self._workers.values() if w.pid and not w.ended], signum)

    def lost(self) -> None:
        """The guard died, and they with it: that is this round's failure, if some still ran and it had none before."""
        self._ask_no_more()
        dead = [worker for worker in self._workers.values() if not worker.ended]
        for worker in dead:
            worker.ended = True
        if dead and self.failed.first is None:
            self.failed.add(self._deaths.bereft(dead[0]))

    def views(self) -> tuple[WorkerView, ...]:
        """This round's workers, as they are now."""
        probes = self._probes
        return tuple(
            worker.view(ready=probes is None or probes.ready(worker.handle)) for worker in self._workers.values()
        )

    async def end(self) -> None:
        """No worker is left, and none will be started: wait for the last explanations of failures."""
        await self.failed.end()
        self._logs.end()
        self._starter.close()
        self._deaths.close()

    def level(self) -> Level:
        """How far this round's workers have come."""
        if any(worker.pid is None for worker in self._workers.values()):
            return Level.SETTLED
        ready = self._probes is None or all(self._probes.ready(handle) for handle in self._workers)
        return Level.HEALTHY if ready else Level.STARTED

    # -- listening

    def hear(self, event: Spawned | SpawnFailed | Exited) -> None:
        """The backend tells of a worker."""
        worker = self._workers.get(event.handle)
        if worker is None:
            return  # of an earlier round
        match event:
            case Spawned():
                worker.pid = event.pid
                self._watchdog.started(worker)
                if self._probes is not None:
                    self._probes.begin(worker.handle, worker.place)
                self._log("worker_started", rank=worker.place.rank, local_rank=worker.place.local_rank, pid=event.pid)
                if all(other.pid is not None for other in self._workers.values()):
                    self._tell(Event.WORKERS_STARTED, f"{len(self._workers)} workers run")
            case SpawnFailed(step="fenced"):
                worker.ended = True  # refused, because the lease has lapsed: that is told apart, and no failure
            case SpawnFailed():
                self._spawn_failed(worker, event.step, event.errno)
            case Exited():
                self._exited(worker, event)

    def _exited(self, worker: Worker, event: Exited) -> None:
        worker.ended = True
        self._watchdog.ended(worker)
        if self._probes is not None:
            self._probes.end(worker.handle)
        kind = "signaled" if event.signal is not None else "exited"
        place = worker.place
        self._log(
            "worker_exited",
            rank=place.rank,
            local_rank=place.local_rank,
            pid=event.pid,
            exit_code=event.exit_code,
            signal=event.signal,
            kind=kind,
            sent_by_us=event.sent_by_us,
        )
        if event.sent_by_us:
            return
        if event.exit_code == 0:
            if all(other.ended for other in self._workers.values()) and self.failed.first is None:
                self._tell(Event.WORKERS_SUCCEEDED, "all local workers exited with 0")
            return
        self._fail(self._deaths.exited(worker, event))

    def _spawn_failed(self, worker: Worker, step: str, errno: int) -> None:
        worker.ended = True
        self._fail(self._deaths.unborn(worker, step, errno))

    def _readiness_changed(self) -> None:
        if self._group.needed and self.level() is Level.HEALTHY:
            self._tell(Event.WORKERS_READY, "all local workers are ready, by their probes")

    def _probe_failed(self, handle: int, kind: ProbeKind, why: str) -> None:
        self._fail(self._deaths.unwell(self._workers[handle], kind, why), Event.PROBE_FAILED)

    def _hung(self, worker: Worker, why: str, stacks: str) -> None:
        """It hangs: that is its failure, and it will be stopped for it."""
        self._fail(self._deaths.hung(worker, why, stacks), Event.WORKER_HUNG)

    def _fail(self, failed: Failed, event: Event = Event.WORKER_FAILED) -> None:
        self.failed.add(failed)
        failure = failed.failure
        self._post(Message(event=event, reason=f"rank {failure.rank}: {failure.how()}", round=failure.round))

    def _tell(self, event: Event, reason: str) -> None:
        if self._seat is not None and event not in self._told:
            self._told.add(event)
            self._post(Message(event=event, reason=reason, round=self._seat.round))

    # -- what they reported

    def results(self) -> dict[int, Mapping[str, Any]]:
        """What each worker of the last round wrote to its result file, by rank; what is no JSON object is left out."""
        values = {worker.place.rank: worker.reported() for worker in self._workers.values()}
        return {rank: value for rank, value in values.items() if value is not None}
