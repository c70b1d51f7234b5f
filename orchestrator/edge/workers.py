"""The local workers of one round: orders to spawn them, and what their exits amount to.

Reports three things to the inbox, each at most once a round: all are started, all have succeeded, the first has failed.
What follows from that is the machine's business.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.core.failures import Failure
from orchestrator.core.ranks import Place, fill_in, places, worker_env
from orchestrator.core.rendezvous import Seat
from orchestrator.core.specs import GroupSpec, JobSpec, LogsKind
from orchestrator.core.words import Event
from orchestrator.edge.errorfile import last_lines, python_error, read_error_file
from orchestrator.edge.guard.client import Exited, Spawned, SpawnFailed
from orchestrator.edge.messages import Message, Post
from orchestrator.edge.processes import Processes
from orchestrator.edge.tail import Tailer, render_prefix

RESULT_LIMIT = 1 << 20  # bytes of a result file; beyond that it is no result


@dataclass(slots=True)
class Worker:
    """One process of this round, and the files that are its."""

    place: Place
    handle: int
    directory: Path
    pid: int | None = None
    ended: bool = False

    @property
    def error_file(self) -> Path:
        """Where the worker, or torch in it, describes its error."""
        return self.directory / "error.json"

    @property
    def result_file(self) -> Path:
        """Where it reports values."""
        return self.directory / "result.json"

    @property
    def stderr(self) -> Path:
        """Its standard error."""
        return self.directory / "stderr.log"

    @property
    def stdout(self) -> Path:
        """Its standard output."""
        return self.directory / "stdout.log"


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
        self.failures: list[Failure] = []
        self.first: tuple[Failure, int | None] | None = None  # of this round, with the errno of a failed spawn
        processes.on_worker = self._hear

    # -- starting

    def start(self, seat: Seat) -> None:
        """Order this node's workers of the round. Their being started, or not, is told by the guard."""
        self._seat, self._told, self.first = seat, set(), None
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
            worker.directory.mkdir(parents=True, exist_ok=True)
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
        """The guard died, and they with it: that is this round's failure, if it had none before."""
        if self._seat is not None and self.first is None:
            local = next((worker.place for worker in self._workers.values() if not worker.ended), None)
            rank, local_rank = (local.rank, local.local_rank) if local else (self._seat.base_rank, 0)
            failure = replace(
                self._failure("guard", rank, local_rank), message="the guard process died, and its workers with it"
            )
            self.first = (failure, None)
            self.failures.append(failure)
        self._workers = {}

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
            if all(other.ended for other in self._workers.values()) and self.first is None:
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
        if self.first is None:
            self.first = (failure, errno)
            self._tell(Event.WORKER_FAILED, f"rank {failure.rank}: {failure.how()}")

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
        found: dict[int, Mapping[str, Any]] = {}
        for worker in self._workers.values():
            try:
                with worker.result_file.open("rb") as file:
                    value = json.loads(file.read(RESULT_LIMIT))
            except (OSError, ValueError):
                continue
            if isinstance(value, dict):
                found[worker.place.rank] = value
        return found
