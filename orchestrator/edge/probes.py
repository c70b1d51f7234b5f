"""Asks workers how they are: by a command, by HTTP, by TCP, by a file. What answers amount to is `core.health`'s.

Each probe of each worker has a task of its own, from the worker's start to its end. Invariant: our own lateness is
never held against a worker: what was asked or heard too late is unknown.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from orchestrator.core.health import ProbeKind, ProbeSpec, ProbesPolicy, ProbeWay, Result, WorkerHealth
from orchestrator.core.ranks import Place, fill_in, rank_variables
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.edge.filework import FileThread
from orchestrator.edge.guard.client import Exited, SpawnFailed
from orchestrator.edge.overheard import Overheard
from orchestrator.edge.processes import Processes

AT_ONCE = 16  # questions under way; others wait their turn
LINE_BYTES = 4096
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})\b")
_GOOD = range(200, 400)

OnFailed = Callable[[int, ProbeKind, str, tuple[str, ...]], None]


class Answer(NamedTuple):
    """What came of one question, why, and what a command said last."""

    result: Result
    why: str = ""
    last_lines: tuple[str, ...] = ()


@dataclass(slots=True)
class _Watched:
    """One worker, and who asks it."""

    place: Place
    health: WorkerHealth
    since: float  # on the loop's clock
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Probes:
    """The probes of this node's workers.

    ``failed`` hears, once a worker, which probe has failed for good, why, and the last lines of what its command said.
    ``changed`` is called when some worker has become ready, or is no longer.
    """

    def __init__(
        self,
        job: JobSpec,
        group: GroupSpec,
        policy: ProbesPolicy,
        *,
        processes: Processes,
        failed: OnFailed,
        changed: Callable[[], None],
        log: Callable[..., None],
    ) -> None:
        self._job = job
        self._group = group
        self._policy = policy
        self._processes = processes
        self._failed = failed
        self._changed = changed
        self._log = log
        self._watched: dict[int, _Watched] = {}
        self._threads: dict[tuple[int, str], FileThread] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._tasks: asyncio.TaskGroup | None = None
        self._ask: dict[ProbeWay, Callable[[ProbeSpec, Place], Awaitable[Answer]]] = {
            ProbeWay.EXEC: self._exec,
            ProbeWay.HTTP: self._http,
            ProbeWay.TCP: self._tcp,
            ProbeWay.FILE: self._file,
        }

    def attach(self, tasks: asyncio.TaskGroup) -> None:
        """Where the tasks belong."""
        self._tasks = tasks

    def begin(self, handle: int, place: Place) -> None:
        """This worker runs now."""
        watched = _Watched(place, WorkerHealth(self._policy), asyncio.get_running_loop().time())
        self._watched[handle] = watched
        self._start_asking(handle, watched)

    def end(self, handle: int) -> None:
        """It does not, or is being stopped: nothing that it does from here on counts."""
        watched = self._watched.pop(handle, None)
        for task in watched.tasks if watched else ():
            task.cancel()

    def end_all(self) -> None:
        """No worker is to be asked any more."""
        for handle in list(self._watched):
            self.end(handle)
        for thread in self._threads.values():
            thread.close(0.0)
        self._threads.clear()

    def started(self, handle: int) -> bool:
        """Whether this worker has come up."""
        watched = self._watched.get(handle)
        return watched is not None and watched.health.started

    def ready(self, handle: int) -> bool:
        """Whether this worker does its work."""
        watched = self._watched.get(handle)
        return watched is not None and watched.health.ready

    def _start_asking(self, handle: int, watched: _Watched) -> None:
        for kind in ProbeKind:
            spec: ProbeSpec | None = getattr(self._policy, kind)
            if spec is not None and watched.health.asks(kind) and self._tasks is not None:
                work = self._keep_asking(handle, watched, kind, spec)
                watched.tasks.append(self._tasks.create_task(work, name=f"{kind} {watched.place.rank}"))

    async def _keep_asking(self, handle: int, watched: _Watched, kind: ProbeKind, spec: ProbeSpec) -> None:
        loop = asyncio.get_running_loop()
        due = max(loop.time(), watched.since + spec.initial_delay_s)
        while watched.health.asks(kind):
            await asyncio.sleep(due - loop.time())
            async with self._turns:
                late_s, asked = loop.time() - due, loop.time()
                answer = await self._answer(spec, watched.place)
                late_s = max(late_s, loop.time() - asked - spec.timeout_s)
            if answer.result is Result.FAILED and late_s > spec.period_s / 2:
                answer = Answer(Result.UNKNOWN)
            self._heard(handle, watched, kind, answer)
            due = max(due + spec.period_s, loop.time())

    async def _answer(self, spec: ProbeSpec, place: Place) -> Answer:
        try:
            async with asyncio.timeout(None if spec.way is ProbeWay.EXEC else spec.timeout_s):
                return await self._ask[spec.way](spec, place)
        except TimeoutError:
            return Answer(Result.FAILED, _too_slow(spec))
        except (OSError, ValueError) as error:
            return Answer(Result.FAILED, getattr(error, "strerror", None) or str(error))

    def _heard(self, handle: int, watched: _Watched, kind: ProbeKind, answer: Answer) -> None:
        before, after = watched.health, watched.health.heard(kind, answer.result)
        watched.health = after
        who = {"rank": watched.place.rank, "local_rank": watched.place.local_rank}
        if after.ready is not before.ready:
            self._log("readiness", **who, ready=after.ready, reason=answer.why)
            self._changed()
        if after.failed is not None:
            self._log("probe_failed", **who, probe=kind, reason=answer.why, last_lines=answer.last_lines)
            self._failed(handle, kind, answer.why, answer.last_lines)
        elif after.started and not before.started:
            self._start_asking(handle, watched)

    # -- the ways to ask

    def _filled(self, text: str, place: Place) -> str:
        return fill_in([text], self._job, self._group, place)[0]

    def _environment(self, place: Place) -> Mapping[str, str]:
        own = {"ORCHESTRATOR_RUN_ID": self._job.run_id, "ORCHESTRATOR_GROUP": self._group.role}
        return {**os.environ, **rank_variables(place, self._group), **own}

    async def _exec(self, spec: ProbeSpec, place: Place) -> Answer:
        cmd = fill_in(spec.cmd, self._job, self._group, place)
        try:
            overheard = Overheard()
        except OSError:  # we have no descriptors left: that is not the worker's fault
            return Answer(Result.UNKNOWN)
        with overheard:
            ended = await self._processes.execute(
                cmd,
                self._environment(place),
                output=overheard.path,
                within_s=spec.timeout_s,
                cwd=self._group.worker.cwd,
            )
            said = overheard.last_lines()
        match ended:
            case Exited(exit_code=0):
                return Answer(Result.PASSED)
            case Exited():
                return Answer(Result.FAILED, f"{cmd[0]}: exit code {ended.exit_code}", said)
            case SpawnFailed(step="fenced"):
                return Answer(Result.UNKNOWN)
            case SpawnFailed():
                return Answer(Result.FAILED, f"{cmd[0]}: {os.strerror(ended.errno)} (at {ended.step})")
            case _:
                return Answer(Result.FAILED, _too_slow(spec), said)

    async def _connected(self, spec: ProbeSpec, place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = int(self._filled(spec.port, place))
        try:
            return await asyncio.open_connection(spec.host, port, limit=LINE_BYTES)
        except OverflowError as error:
            raise ValueError(f"port {port} is none") from error

    async def _tcp(self, spec: ProbeSpec, place: Place) -> Answer:
        _, writer = await self._connected(spec, place)
        writer.transport.abort()
        return Answer(Result.PASSED)

    async def _http(self, spec: ProbeSpec, place: Place) -> Answer:
        reader, writer = await self._connected(spec, place)
        try:
            path = self._filled(spec.path, place)
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: orchestrator\r\nConnection: close\r\n\r\n"
            writer.write(head.encode("ascii"))
            line = await reader.readline()
        finally:
            writer.transport.abort()
        found = _STATUS.match(line)
        if found is None:
            return Answer(Result.FAILED, "the answer is not HTTP")
        status = int(found[1])
        return Answer(Result.PASSED) if status in _GOOD else Answer(Result.FAILED, f"HTTP status {status}")

    async def _file(self, spec: ProbeSpec, place: Place) -> Answer:
        path = self._filled(spec.path, place)
        thread = self._threads.setdefault((place.rank, path), FileThread("probe", 1))  # a hung disk costs one thread
        try:
            stats = await thread.ask(partial(os.stat, path))
        except OSError as error:
            return Answer(Result.FAILED, f"{path}: {error.strerror}")
        old_s = time.time() - stats.st_mtime
        if spec.fresh_s is not None and old_s > spec.fresh_s:
            why = f"{path} was written to {old_s:.0f} s ago; the limit is {spec.fresh_s:g} s"
            return Answer(Result.FAILED, why)
        return Answer(Result.PASSED)


def _too_slow(spec: ProbeSpec) -> str:
    return f"no answer within {spec.timeout_s:g} s"
