"""Starts one worker: its directory, its logs on the console, its environment, and the order to the backend.

Which workers there are, and when they start, is `workers`' business. Invariant: nothing in here waits for a disk in the
agent's loop, and no worker is ordered whose directory could not be made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from orchestrator.core.ranks import Place, fill_in, worker_env
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.edge.backend import Program, WorkerBackend, Zygote
from orchestrator.edge.filework import FileThread
from orchestrator.edge.logs import Logs
from orchestrator.edge.watchdog import Watchdog
from orchestrator.edge.worker_files import Worker, worker_name


class Starter:
    """Makes workers of places. ``store`` is the URL under which workers reach what they share."""

    def __init__(
        self,
        job: JobSpec,
        group: GroupSpec,
        *,
        backend: WorkerBackend,
        logs: Logs,
        watchdog: Watchdog,
        store: str,
        log: Callable[..., None],
    ) -> None:
        self._job = job
        self._group = group
        self._backend = backend
        self._logs = logs
        self._watchdog = watchdog
        self._store = store
        self._making = FileThread("workers' directories")
        self._log = log
        self._zygote: Zygote | str | None = None  # or why there is none; made with the first environment
        self._environ = dict(os.environ)  # decoded once, not for each of very many workers

    def new(self, place: Place, incarnation: int = 0) -> Worker:
        """A worker at that place, which does not run yet; ``incarnation`` counts the earlier ones of the round."""
        directory = self._logs.home(place.seat.round, worker_name(place.rank, incarnation))
        handle = self._backend.new_handle()
        return Worker(place=place, handle=handle, directory=directory, incarnation=incarnation)

    async def prepare(self, workers: Sequence[Worker]) -> list[OSError | None]:
        """Make their directories; returns, for each, why that could not be done."""
        return await self._making.ask(lambda: [self._prepared(worker) for worker in workers])

    def _prepared(self, worker: Worker) -> OSError | None:
        try:
            worker.make_directory()
        except OSError as error:
            return error
        self._logs.show(worker)
        return None

    def spawn(self, worker: Worker) -> None:
        """Order the process; what became of it is told by the backend."""
        place, spec = worker.place, self._group.worker
        env = worker_env(
            self._job,
            self._group,
            place,
            self._environ,
            error_file=str(worker.error_file),
            result_file=str(worker.result_file),
            store=self._store,
            watchdog=self._watchdog.path,
            stacks_file=str(worker.stacks_file),
            incarnation=worker.incarnation,
        )
        argv = fill_in(spec.cmd, self._job, self._group, place)
        program = Program(
            argv=argv,
            env=env,
            cwd=spec.cwd,
            stdout=str(worker.stdout) if self._logs.kept else None,
            stderr=str(worker.stderr) if self._logs.kept else None,
            umask=spec.umask,
            limits=spec.limits,
            cpus=spec.affinity[place.local_rank] if spec.affinity else (),
            zygote=None if spec.preload is None else self._mother(argv, env),
        )
        self._backend.start(worker.handle, program)

    def _mother(self, argv: Sequence[str], env: Mapping[str, str]) -> Zygote | None:
        """What this group's workers are forked from, if that is possible; else it is said why not, once."""
        if self._zygote is None:
            from orchestrator.edge.zygotes import zygote_for  # noqa: PLC0415 - few jobs want it

            self._zygote = zygote_for(self._group.worker, argv, env, self._logs.zygote)
            if isinstance(self._zygote, str):
                self._log("zygote_failed", reason=self._zygote)
        return None if isinstance(self._zygote, str) else self._zygote

    def close(self) -> None:
        """No worker will be started any more."""
        self._making.close(0.0)
