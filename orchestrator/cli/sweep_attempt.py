"""One attempt at one job of a sweep: an agent at the sweep's guard and server, and what became of it.

Invariant: whatever goes wrong with a job, our own bugs included, is that job's end and no other's.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator.cli.member import Member
from orchestrator.cli.run import backends_of, start_health
from orchestrator.cli.sweep_folder import value_of
from orchestrator.cli.sweep_jobs import Planned
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
    ) -> None:
        self._planned = planned
        self._spec = _on(planned.spec, grant)
        self._processes = processes
        self._server = server if planned.spec.rendezvous.kind is RendezvousKind.EMBEDDED else None
        self._objective = objective
        self._say = say
        self._stops: list[int] = []
        self.agent: Agent | None = None

    async def run(self) -> Outcome:
        """Run it to its end."""
        journal = open_journal(self._spec, self._planned.secrets.mask, self._say)
        try:
            return await self._attend(journal)
        except (OrchestratorError, OSError) as error:
            return Outcome(JobState.FAILED, message=str(error).partition("\n")[0])
        except Exception as bug:  # noqa: BLE001 - the other jobs have nothing to do with it
            self._say(traceback.format_exc().rstrip())
            return Outcome(JobState.FAILED, message=f"a bug of the orchestrator: {bug!r}")
        finally:
            self.agent = None
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
            for signum in self._stops:
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
        else:
            self._stops.append(signum)

    def _outcome(self, result: RunResult) -> Outcome:
        value = value_of(result.results.get(0), self._objective)
        if result.state is State.SUCCEEDED and self._objective is not None and value is None:
            return Outcome(JobState.FAILED, message=f"it reported no number as {self._objective!r}")
        if result.state is State.SUCCEEDED:
            return Outcome(JobState.SUCCEEDED, value)
        if result.state is State.STOPPED:
            return Outcome(JobState.CANCELLED, value, result.reason)
        cause = result.root_cause.message if result.root_cause is not None else ""
        told = f"{result.reason}: {cause}" if cause and cause not in result.reason else result.reason
        return Outcome(JobState.FAILED, value, told.partition("\n")[0], again=True)


def _on(spec: JobSpec, grant: Grant) -> JobSpec:
    """The job as it is run in a sweep: with the GPUs that it was granted, and its output in files only."""
    logs = replace(spec.logs, kind=LogsKind.FILES if spec.logs.kind is LogsKind.TEE else spec.logs.kind)
    groups = tuple(_seeing(group, ",".join(grant.gpus)) for group in spec.groups) if grant.gpus else spec.groups
    return replace(spec, logs=logs, groups=groups)


def _seeing(group: GroupSpec, devices: str) -> GroupSpec:
    if _DEVICES in group.worker.env:
        return group  # somebody knows better
    return replace(group, worker=replace(group.worker, env={**group.worker.env, _DEVICES: devices}))
