"""One attempt at one job of a sweep: an agent at the sweep's guard and server, and what became of it.

Invariant: whatever goes wrong with a job, our own bugs included, is that job's end and no other's.
"""

from __future__ import annotations

import asyncio
import signal
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.cli.member import Member
from orchestrator.cli.report import last_word
from orchestrator.cli.run import backends_of, start_health
from orchestrator.cli.sweep.folder import value_of
from orchestrator.cli.sweep.jobs import Planned
from orchestrator.cli.voices import open_journal
from orchestrator.core.result import RunResult
from orchestrator.core.slots import Grant
from orchestrator.core.specs import GroupSpec, JobSpec, LogsKind, RendezvousKind
from orchestrator.core.sweep import JobState
from orchestrator.core.words import State
from orchestrator.edge.agent import Agent
from orchestrator.edge.embedded import EmbeddedServer
from orchestrator.edge.journal import Journal, write_result
from orchestrator.edge.processes import Processes
from orchestrator.edge.reports import Hear, Reports
from orchestrator.edge.worker_files import worker_name
from orchestrator.errors import OrchestratorError

_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. ``again``: whether another one might end otherwise."""

    state: JobState
    value: float | None = None
    message: str = ""
    again: bool = False


class Attempt:
    """One agent's life within a sweep. ``say`` tells a person what they should know besides."""

    def __init__(
        self,
        planned: Planned,
        grant: Grant,
        processes: Processes,
        server: EmbeddedServer | None,
        *,
        objective: str | None,
        say: Callable[[str], None],
        reports: Reports | None = None,
        hear: Hear = lambda _: None,
    ) -> None:
        self._planned = planned
        self._spec = _on(planned.spec, grant, planned.key)
        self._processes = processes
        self._server = server if planned.spec.rendezvous.kind is RendezvousKind.EMBEDDED else None
        self._objective = objective
        self._say = say
        self._stops: list[int] = []
        self._reports = reports
        self._hear = hear
        self._followed: list[int] = []
        self._pruned = ""  # why
        self._journal: Journal | None = None
        self.agent: Agent | None = None

    async def run(self) -> Outcome:
        """Run it to its end."""
        outcome = await self._run()
        return replace(outcome, message=self._planned.secrets.mask(outcome.message))

    async def _run(self) -> Outcome:
        journal = self._journal = open_journal(self._spec, self._planned.secrets.mask, self._say)
        if self._reports is not None:
            journal.subscribe(self._observe)
        try:
            return await self._attend(journal)
        except OSError as error:
            return Outcome(JobState.FAILED, message=f"{self._spec.run_dir}: {error.strerror or error}")
        except OrchestratorError as error:
            return Outcome(JobState.FAILED, message=str(error).partition("\n")[0])
        except Exception as bug:  # noqa: BLE001 - the other jobs have nothing to do with it
            self._say(traceback.format_exc().rstrip())
            return Outcome(JobState.FAILED, message=f"a bug of the orchestrator: {bug!r}")
        finally:
            self.agent = self._journal = None
            self._leave()
            await asyncio.to_thread(journal.close)  # which waits for the disk

    async def _attend(self, journal: Journal) -> Outcome:
        directory = Path(self._spec.run_dir)
        (directory / "job.yaml").write_text(self._planned.job_yaml, encoding="utf-8")
        with start_health(self._spec, self._planned.secrets) as health:
            member = Member(
                self._spec,
                processes=self._processes,
                server=self._server,
                journal=journal,
                publication=self._planned.publication,
                backends=backends_of(self._spec),
            )
            self.agent = member.agent
            member.follow(health)
            for signum in tuple(self._stops):
                self.agent.request_stop(signum)
            result, bug = await member.run()
        mask = self._planned.secrets.mask
        await asyncio.to_thread(partial(write_result, directory / "result.json", result.to_dict(), mask=mask))
        if bug is not None:
            raise bug
        return self._outcome(result)

    def request_stop(self, signum: int) -> None:
        """Stop the agent, or have it stopped as soon as there is one."""
        if self.agent is not None:
            self.agent.request_stop(signum)
        self._stops.append(signum)

    def prune(self, why: str) -> None:
        """Stop the agent because others did better."""
        if not self._pruned and not self._stops and self.agent is not None:
            self._pruned = why
            if self._journal is not None:
                self._journal.write("job_pruned", round=0, reason=why)
            self.agent.request_stop(signal.SIGTERM)

    def _observe(self, record: Mapping[str, Any]) -> None:
        """Follow what rank 0 reports, in each round anew."""
        if record["event"] != "worker_started" or record.get("rank") != 0 or self._reports is None:
            return
        home = Path(self._spec.logs.dir, record["group"], str(record["round"]))
        try:
            number = self._reports.follow(home / worker_name(0, record["incarnation"]), self._hear)
        except OSError as error:
            self._say(f"what is reported meanwhile is not heard: {home}: {error.strerror}")
        else:
            self._followed.append(number)

    def _leave(self) -> None:
        if self._reports is not None:
            for number in self._followed:
                self._reports.leave(number)

    def _outcome(self, result: RunResult) -> Outcome:
        value = value_of(result.results.get(0), self._objective)
        if result.state is State.SUCCEEDED and self._objective is not None and value is None:
            return Outcome(JobState.FAILED, message=f"it reported no number as {self._objective!r}")
        if result.state is State.SUCCEEDED:
            return Outcome(JobState.SUCCEEDED, value)
        if result.state is State.STOPPED and self._pruned:
            return Outcome(JobState.PRUNED, value, self._pruned)
        if result.state is State.STOPPED:
            return Outcome(JobState.CANCELLED, value, result.reason)
        cause = last_word(result.root_cause) if result.root_cause is not None else ""
        told = f"{result.reason}: {cause}" if cause and cause not in result.reason else result.reason
        return Outcome(JobState.FAILED, value, told.partition("\n")[0], again=True)


def _on(spec: JobSpec, grant: Grant, key: str) -> JobSpec:
    """The job as it is run in a sweep: with the GPUs that it was granted, and its output in files of its own only."""
    kind = LogsKind.FILES if spec.logs.kind is LogsKind.TEE else spec.logs.kind
    own = Path(spec.logs.dir).is_relative_to(spec.run_dir)
    logs = replace(spec.logs, kind=kind, dir=spec.logs.dir if own else str(Path(spec.logs.dir, key)))
    groups = tuple(_seeing(group, ",".join(grant.gpus)) for group in spec.groups) if grant.gpus else spec.groups
    return replace(spec, logs=logs, groups=groups)


def _seeing(group: GroupSpec, devices: str) -> GroupSpec:
    if _DEVICES in group.worker.env:
        return group  # somebody knows better
    return replace(group, worker=replace(group.worker, env={**group.worker.env, _DEVICES: devices}))
