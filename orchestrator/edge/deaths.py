"""What ended a worker, as a `Failure` with all that it has left to explain it.

Files are read in a thread, because no disk may hold up the agent's loop. What follows from a failure is not known here.
"""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace
from functools import partial

from orchestrator.core.failures import Failure
from orchestrator.core.health import ProbeKind
from orchestrator.core.specs import GroupSpec
from orchestrator.edge.failed import Failed
from orchestrator.edge.filework import FileThread
from orchestrator.edge.guard.client import Exited
from orchestrator.edge.guard.steps import spawn_failure
from orchestrator.edge.worker_files import Worker


class Deaths:
    """Describes the ends of one node's workers. ``logged``: whether what they wrote is in files."""

    def __init__(self, group: GroupSpec, node: str, *, logged: bool) -> None:
        self._group = group
        self._node = node
        self._logged = logged
        self._reading = FileThread("workers' last words")

    def exited(self, worker: Worker, event: Exited, sections: tuple[str, ...]) -> Failed:
        """It has exited, as nobody had asked it to, while it was in these sections."""
        kind = "signaled" if event.signal is not None else "exited"
        oom = event.signal == signal.SIGKILL and worker.memory is not None and worker.memory.moved()
        failure = replace(
            self._failure(kind, worker, sections),
            pid=event.pid,
            exit_code=event.exit_code,
            signal=event.signal,
            oom=oom,
        )
        return Failed(failure, explained=self._explained(partial(worker.explain, failure, logged=self._logged)))

    def unborn(self, worker: Worker, step: str, errno: int) -> Failed:
        """It could not be started."""
        message = spawn_failure(self._group.worker.cmd[0], step, errno)
        return Failed(replace(self._failure("spawn", worker), message=message), errno)

    def unwell(self, worker: Worker, kind: ProbeKind, why: str, said: tuple[str, ...]) -> Failed:
        """A probe has given it up, whose command has said this last."""
        word = "start_timeout" if kind is ProbeKind.STARTUP else "probe"
        return Failed(replace(self._failure(word, worker), pid=worker.pid, message=why, last_lines=said))

    def hung(self, worker: Worker, why: str, stacks: str, sections: tuple[str, ...]) -> Failed:
        """It hangs, and will be stopped for it."""
        failure = replace(self._failure("hang", worker, sections), pid=worker.pid, message=why, stacks=stacks)
        return Failed(failure, explained=self._explained(partial(worker.add_lines, failure, logged=self._logged)))

    def bereft(self, worker: Worker) -> Failed:
        """Its guard died, and it with it."""
        message = "the guard process died, and its workers with it"
        return Failed(replace(self._failure("guard", worker), message=message))

    def _explained(self, read: partial[Failure]) -> asyncio.Future[Failure]:
        return self._reading.ask(read)

    def _failure(self, kind: str, worker: Worker, sections: tuple[str, ...] = ()) -> Failure:
        place = worker.place
        return Failure(
            kind=kind,
            group=self._group.role,
            node=self._node,
            rank=place.rank,
            local_rank=place.local_rank,
            round=place.seat.round,
            at=time.time(),
            phases=("running" if worker.was_ready else "starting", *sections),
            age_s=round(time.monotonic() - worker.started_s, 3) if worker.pid is not None else 0.0,
            incarnation=worker.incarnation,
        )

    def close(self) -> None:
        """Nobody waits for explanations any more."""
        self._reading.close(0.0)
