"""The local workers of one round: orders to spawn them, and what their exits amount to.

Reports three things to the inbox: all are started, all have succeeded (each once a round), and one more has failed.
What follows from that is the machine's business.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.core.failures import Failure
from orchestrator.core.ranks import fill_in, places, worker_env
from orchestrator.core.rendezvous import Seat
from orchestrator.core.specs import GroupSpec, JobSpec, LogsKind
from orchestrator.core.words import Event
from orchestrator.edge.errorfile import last_lines, python_error, read_error_file
from orchestrator.edge.guard.client import Exited, Spawned, SpawnFailed
from orchestrator.edge.messages import Message, Post
from orchestrator.edge.processes import Processes
from orchestrator.edge.tail import Tailer, render_prefix
from orchestrator.edge.worker_files import Worker

FAILURES_KEPT = 100  # a job may fail and be restarted for years


class LocalWorkers:
    """This node's workers. A new round forgets the last one's, which are gone by then."""

    def __init__(
        self,
        job: JobSpec,
        group: GroupSpec,
        *,
        processes: Processes,
        tailer: Tailer | None,
        store: str,
        post: Post,
        log: Callable[..., None],
    ) -> None:
        self._job = job
        self._group = group
        self._processes = processes
        self._tailer = tailer
        self._store = store  # the URL under which workers reach what they share
        self._post = post
        self._log = log
        self._workers: dict[int, Worker] = {}
        self._seat: Seat | None = None
        self._told: set[Event] = set()
        self.failures: deque[Failure] = deque(maxlen=FAILURES_KEPT)  # the last ones of the run
        self._failed_now: list[tuple[Failure, int | None]] = []  # in this round, with the errno of a failed spawn
        self._handed_out = 0  # of these, to `news`
        processes.on_worker = self._hear

    # -- starting

    def start(self, seat: Seat) -> None:
        """Order this node's workers of the round. Their being started, or not, is told by the guard."""
        self._seat, self._told, self._failed_now, self._handed_out = seat, set(), [], 0
        self._workers = {}
        for place in places(seat, self._group.worker.nproc):
            handle = self._processes.new_handle()
            directory = Path(self._job.logs.dir, self._group.role, str(seat.round), str(place.rank)).absolute()
            self._workers[handle] = Worker(place=place, handle=handle, directory=directory)
        for worker in self._workers.values():
            self._spawn(worker)

    def _spawn(self, worker: Worker) -> None:
        place, spec = worker.place, self._group.worker
        try:
            worker.make_directory()
        except OSError as error:
            self._spawn_failed(worker, f"creating {worker.directory}", error.errno or 0)
            return
        files = self._job.logs.kind is not LogsKind.INHERIT
        if files:
            self._tail(worker)
        env = worker_env(
            self._job,
            self._group,
            place,
            os.environ,
            error_file=str(worker.error_file),
            result_file=str(worker.result_file),
            store=self._store,
        )
        self._processes.guard.spawn(
            worker.handle,
            fill_in(spec.cmd, self._job, self._group, place),
            env,
            cwd=spec.cwd,
            stdout=str(worker.stdout) if files else None,
            stderr=str(worker.stderr) if files else None,
            umask=spec.umask,
        )

    def _tail(self, worker: Worker) -> None:
        shown = self._job.logs.console
        if self._tailer is None or (shown is not None and worker.place.rank not in shown):
            return
        prefix = render_prefix(
            self._job.logs.prefix,
            role=self._group.role,
            rank=worker.place.rank,
            local_rank=worker.place.local_rank,
            node=self._job.node.name,
            round=worker.place.seat.round,
        )
        self._tailer.add(worker.stdout, prefix, 1)
        self._tailer.add(worker.stderr, prefix, 2)

    # -- stopping

    async def stop(self) -> list[int]:
        """Stop all of them and whatever they left behind; returns the pids that would not die."""
        policy = self._job.stop
        handles = list(self._workers)
        if not handles:
            return []
        return list(
            await self._processes.stop(
                handles, signum=policy.signal, grace_s=policy.grace_s, kill_wait_s=policy.kill_wait_s
            )
        )

    def kill(self) -> None:
        """Kill them now; a stop under way ends the sooner for it."""
        self._processes.guard.kill(list(self._workers))

    def forward(self, signum: int) -> None:
        """Pass a signal on to the workers as it is."""
        self._processes.guard.signal([w.handle for w in self._workers.values() if w.pid and not w.ended], signum)

    def lost(self) -> None:
        """The guard died, and they with it: that is this round's failure, if some still ran and it had none before."""
        dead = [worker for worker in self._workers.values() if not worker.ended]
        for worker in dead:
            worker.ended = True
        if dead and not self._failed_now:
            place = dead[0].place
            failure = self._failure("guard", place.rank, place.local_rank)
            failure = replace(failure, message="the guard process died, and its workers with it")
            self._failed_now.append((failure, None))
            self.failures.append(failure)

    @property
    def first(self) -> Failure | None:
        """The first failure of this round."""
        return self._failed_now[0][0] if self._failed_now else None

    def news(self) -> list[tuple[Failure, int | None]]:
        """This round's failures that were not asked for before, with the errno of a failed spawn."""
        fresh, self._handed_out = self._failed_now[self._handed_out :], len(self._failed_now)
        return fresh

    # -- listening

    def _hear(self, event: Spawned | SpawnFailed | Exited) -> None:
        worker = self._workers.get(event.handle)
        if worker is None:
            return  # of an earlier round
        match event:
            case Spawned():
                worker.pid = event.pid
                self._log("worker_started", rank=worker.place.rank, local_rank=worker.place.local_rank, pid=event.pid)
                if all(other.pid is not None for other in self._workers.values()):
                    self._tell(Event.WORKERS_STARTED, f"{len(self._workers)} workers run")
            case SpawnFailed():
                self._spawn_failed(worker, event.step, event.errno)
            case Exited():
                self._exited(worker, event)

    def _exited(self, worker: Worker, event: Exited) -> None:
        worker.ended = True
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
            if all(other.ended for other in self._workers.values()) and not self._failed_now:
                self._tell(Event.WORKERS_SUCCEEDED, "all local workers exited with 0")
            return
        self._failed(self._explained(worker, self._failure(kind, place.rank, place.local_rank), event))

    def _explained(self, worker: Worker, failure: Failure, event: Exited) -> Failure:
        """With what the worker has left to explain its death: its error file, or the end of its stderr."""
        kept = self._job.logs.kind is not LogsKind.INHERIT
        lines = last_lines(worker.stderr) if kept else ()
        told = read_error_file(worker.error_file)
        error_type, message = (told.error_type, told.message) if told else python_error(lines)
        return replace(
            failure,
            pid=event.pid,
            exit_code=event.exit_code,
            signal=event.signal,
            error_type=error_type,
            message=message,
            traceback=told.traceback if told else "",
            last_lines=lines,
            log=str(worker.stderr) if kept else "",
        )

    def _spawn_failed(self, worker: Worker, step: str, errno: int) -> None:
        worker.ended = True
        program = self._group.worker.cmd[0]
        failure = self._failure("spawn", worker.place.rank, worker.place.local_rank)
        self._failed(replace(failure, message=f"{program}: {os.strerror(errno)} (at {step})"), errno)

    def _failed(self, failure: Failure, errno: int | None = None) -> None:
        self.failures.append(failure)
        self._failed_now.append((failure, errno))
        self._post(
            Message(event=Event.WORKER_FAILED, reason=f"rank {failure.rank}: {failure.how()}", round=failure.round)
        )

    def _failure(self, kind: str, rank: int, local_rank: int) -> Failure:
        return Failure(
            kind=kind,
            group=self._group.role,
            node=self._job.node.name,
            rank=rank,
            local_rank=local_rank,
            round=self._seat.round if self._seat else 0,
            at=time.time(),
        )

    def _tell(self, event: Event, reason: str) -> None:
        if self._seat is not None and event not in self._told:
            self._told.add(event)
            self._post(Message(event=event, reason=reason, round=self._seat.round))

    # -- what they reported

    def results(self) -> dict[int, Mapping[str, Any]]:
        """What each worker of the last round wrote to its result file, by rank; what is no JSON object is left out."""
        values = {worker.place.rank: worker.reported() for worker in self._workers.values()}
        return {rank: value for rank, value in values.items() if value is not None}
