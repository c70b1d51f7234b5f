"""Runs the jobs of a sweep: as many at once as there is room for, on one guard and one server.

Invariant: when `close` has returned, no process of any job is left; and a job that was begun has ended in the book.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from orchestrator.cli.member import abort_on_fault
from orchestrator.cli.signals import Signals
from orchestrator.cli.sweep.attempt import Attempt, Outcome
from orchestrator.cli.sweep.book import Book
from orchestrator.cli.sweep.folder import Folder, value_of
from orchestrator.cli.sweep.jobs import Planned
from orchestrator.config.sweep import SweepConfig
from orchestrator.core.halving import Halving, HalvingPolicy
from orchestrator.core.slots import Grant, Need, Slots
from orchestrator.core.specs import RendezvousKind
from orchestrator.core.sweep import JobState, Sweep, SweepJob, extended
from orchestrator.edge.embedded import EmbeddedServer, plan_server
from orchestrator.edge.guard.client import become_subreaper
from orchestrator.edge.guard.launch import launch
from orchestrator.edge.processes import Processes
from orchestrator.edge.reports import Reports
from orchestrator.errors import ConfigError, ExitCode, Problem

Again = Callable[[Planned], Planned]  # the same job with another run_id
Task = tuple[Planned, Need]


class SweepRun:
    """The part of a sweep that has processes. ``again`` makes a job ready to be started once more."""

    def __init__(
        self,
        folder: Folder,
        config: SweepConfig,
        *,
        slots: Slots,
        book: Book,
        again: Again,
        say: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._config = config
        self._slots = slots
        self._book = book
        self._again = again
        self._say = say
        self._running: dict[str, Attempt] = {}
        self._processes: Processes | None = None
        self._server: EmbeddedServer | None = None
        self._reports: Reports | None = None
        self._halving: Halving | None = None
        if config.prune == "halving":
            self._halving = Halving(HalvingPolicy(maximize=config.direction == "maximize"))
        self.preempt = self.forwarded = frozenset[int]()  # signals, as the last batch had them
        self.stopped_by: int | None = None  # a signal
        self.exit_code: int | None = None  # what that makes of the sweep's
        self.halted = ""  # why no job is begun any more

    async def batch(self, jobs: Sequence[Task]) -> None:
        """Run jobs to their ends."""
        processes = self._open([planned for planned, _ in jobs])
        if self._halving is not None:
            remember(self._halving, self._book.sweep)
        abort_on_fault(self)
        self.forwarded = frozenset[int]().union(*(planned.spec.stop.forward for planned, _ in jobs))
        self.preempt = frozenset[int]().union(*(planned.spec.stop.preempt for planned, _ in jobs))
        with Signals(self, self.forwarded, self.preempt):
            await self._all(deque(jobs), processes)

    async def _all(self, waiting: deque[Task], processes: Processes) -> None:
        running: set[asyncio.Task[None]] = set()
        while waiting or running:
            while waiting and not self.halted and (grant := self._slots.take(waiting[0][1])) is not None:
                planned, _ = waiting.popleft()
                running.add(asyncio.create_task(self._job(planned, grant, processes), name=planned.key))
            if self.halted:
                for planned, _ in waiting:
                    job = self._book[planned.key]
                    self._book.put(replace(job, state=JobState.CANCELLED, message=self.halted))
                waiting.clear()
            if running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()

    def _open(self, jobs: Sequence[Planned]) -> Processes:
        """The guard of all jobs, and their server if any of them needs one."""
        embedded = any(planned.spec.rendezvous.kind is RendezvousKind.EMBEDDED for planned in jobs)
        if self._processes is None:
            process = launch()
            self._server = plan_server(self._folder.path) if embedded else None
            self._folder.note(self._server.cleanup if self._server is not None else ())
            become_subreaper()
            self._processes = Processes(process, self._server)
            self._processes.attach()
            if self._config.objective is not None:
                self._reports = Reports()
        elif embedded and self._server is None:
            fact = "was not what the first jobs had"
            raise ConfigError([Problem("rendezvous", fact, "choose one kind for the whole sweep")])
        return self._processes

    async def _job(self, planned: Planned, grant: Grant, processes: Processes) -> None:
        """A job, as often as it may be tried."""
        try:
            for left in range(self._config.retries, -1, -1):
                outcome = await self._attempt(planned, grant, processes, left=left)
                job = self._book[planned.key]
                if job.state is not JobState.PENDING:
                    break
                try:
                    planned = self._again(planned)
                except ConfigError as error:  # what it needs is no longer there
                    self._say(f"job {job.n} is not tried again: {error.problems[0]}")
                    self._book.put(replace(job, state=outcome.state))
                    break
            if outcome.state is JobState.FAILED and self._config.on_failure == "stop":
                self._halt(f"job {self._book[planned.key].n} has failed", signal.SIGTERM)
        finally:
            self._slots.give_back(grant)

    async def _attempt(self, planned: Planned, grant: Grant, processes: Processes, *, left: int) -> Outcome:
        """Try a job, which is PENDING again afterwards if it failed and there are attempts ``left`` for it."""
        known = self._book[planned.key]
        if self._halving is not None:
            self._halving.forget(planned.key)
        if known.run_id:
            processes.guard.lay_ghosts(known.run_id)  # of a sweep that was killed
        job = known.begun(time.time(), planned.spec.run_id)
        try:
            self._book.begin(job)
        except OSError as error:
            return self._ended(job, Outcome(JobState.FAILED, message=f"{job.dir}: {error.strerror}"))
        attempt = Attempt(
            planned,
            grant,
            processes,
            self._server,
            objective=self._config.objective,
            say=self._say,
            reports=self._reports,
            hear=partial(self._heard, planned.key),
        )
        self._running[planned.key] = attempt
        began = time.monotonic()
        try:
            outcome = await attempt.run()
        finally:
            del self._running[planned.key]
        job = replace(self._book[planned.key], seconds=time.monotonic() - began)
        return self._ended(job, outcome, again=outcome.again and left > 0 and not self.halted)

    def _heard(self, key: str, values: Mapping[str, Any]) -> None:
        """A job has reported while it runs."""
        value, step = value_of(values, self._config.objective), values.get("step")
        attempt = self._running.get(key)
        if value is None or attempt is None:
            return
        job = self._book[key]
        self._book.heard(replace(job, value=value, curve=extended(job.curve, step, value)))
        if self._halving is not None:
            verdict = self._halving.heard(key, step, value)
            if verdict.stop:
                attempt.prune(verdict.why)

    def _ended(self, job: SweepJob, outcome: Outcome, *, again: bool = False) -> Outcome:
        value = job.value if outcome.state is JobState.PRUNED and outcome.value is None else outcome.value
        state = JobState.PENDING if again else outcome.state
        self._book.put(replace(job, state=state, value=value, message=outcome.message))
        return outcome

    # --- what befalls all jobs

    def request_stop(self, signum: int) -> None:
        """Stop all jobs because of a signal; when asked again, kill what is still stopping."""
        self.stopped_by = signum
        self.exit_code = int(ExitCode.PREEMPTED) if signum in self.preempt else 128 + signum
        self._halt(f"stopped by {signal.Signals(signum).name}", signum)

    def forward(self, signum: int) -> None:
        """Pass a signal on to all workers."""
        for attempt in list(self._running.values()):
            if attempt.agent is not None:
                attempt.agent.forward(signum)

    def abort(self, error: BaseException) -> None:
        """A callback of some job has failed, and nobody can tell of which."""
        for attempt in list(self._running.values()):
            if attempt.agent is not None:
                attempt.agent.abort(error)

    def _halt(self, why: str, signum: int) -> None:
        self.halted = self.halted or why
        for attempt in list(self._running.values()):
            attempt.request_stop(signum)

    async def close(self) -> None:
        """End the guard, and with it all that is left."""
        if self._processes is not None:
            await self._processes.quit()
            self._processes = None
        if self._reports is not None:
            self._reports.close()


def remember(halving: Halving, sweep: Sweep) -> None:
    """Tell ``halving`` what the jobs that are done had reported; what it knows already it does not judge again."""
    for job in sweep.jobs:
        for step, value in job.curve if job.state.is_done else ():
            halving.heard(job.key, step, value)
