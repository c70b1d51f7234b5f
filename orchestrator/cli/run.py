"""Runs one job in this process: wires the parts of the edge together, and owns what is the process's own.

The terminal and being a subreaper belong to the process and therefore here, not to the agent. Invariant: an
agent that was started ends with a guard that has nothing left, a result.json, and an exit code.
"""
# ruff: noqa: PLC0415 - what is heavy is imported behind the guard's and the server's own start

from __future__ import annotations

import contextlib
import gc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.secrets import Secrets
from orchestrator.core.specs import JobSpec, RendezvousKind
from orchestrator.edge.guard.launch import launch
from orchestrator.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from orchestrator.cli.voices import Voices
    from orchestrator.core.publication import Publication
    from orchestrator.edge.backends import Make
    from orchestrator.edge.embedded import EmbeddedServer
    from orchestrator.edge.health import Health
    from orchestrator.edge.processes import Processes

    MakeVoices = Callable[[JobSpec, Callable[[str], str]], Voices]


def run_job(
    job: JobSpec, *, job_yaml: str, publication: Publication, secrets: Secrets, voices: MakeVoices | None = None
) -> int:
    """Take part in ``job`` until it ends; returns the exit code. Raises only for our own bugs.

    ``voices``: how it is told, if not as usual.
    """
    backends = backends_of(job)
    with start_health(job, secrets) as health:
        process = launch()  # first of what takes time: its interpreter starts while this one imports
        try:
            Path(job.run_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                [Problem("hydra.run.dir", f"{job.run_dir}: {error.strerror}", "choose another")]
            ) from None
        import asyncio

        from orchestrator.edge.processes import Processes

        server = _plan_server(job)  # makes a directory, which is the guard's to remove as soon as it has heard of it
        processes = Processes(process, server)
        processes.guard.lay_ghosts(job.run_id)  # while the agents meet
        run = _run(
            job,
            secrets,
            processes,
            server,
            health=health,
            backends=backends,
            job_yaml=job_yaml,
            publication=publication,
            voices=voices,
        )
        return asyncio.run(run)


def start_health(job: JobSpec, secrets: Secrets) -> AbstractContextManager[Health | None]:
    """Whoever answers for this agent from here to its end: started first, stopped last."""
    if job.health is None:
        return contextlib.nullcontext()
    from orchestrator.edge.health import Health

    return Health(job, job.health, secrets.mask)


def backends_of(job: JobSpec) -> Mapping[str, Make]:
    """What the user has named to run workers, which is rare."""
    if all(group.worker.backend is None for group in job.groups):
        return {}

    from orchestrator.edge.backends import load_backends

    return load_backends(job)


def _plan_server(job: JobSpec) -> EmbeddedServer | None:
    if job.rendezvous.kind is not RendezvousKind.EMBEDDED:
        return None
    from orchestrator.edge.embedded import plan_server

    return plan_server(job.run_dir, listen=job.rendezvous.listen, password=job.rendezvous.password)


async def _run(
    job: JobSpec,
    secrets: Secrets,
    processes: Processes,
    server: EmbeddedServer | None,
    *,
    health: Health | None,
    backends: Mapping[str, Make],
    job_yaml: str,
    publication: Publication,
    voices: MakeVoices | None,
) -> int:
    from orchestrator.cli.member import Member, abort_on_fault
    from orchestrator.cli.signals import Signals
    from orchestrator.cli.voices import Voices
    from orchestrator.edge.guard.client import become_subreaper

    gc.freeze()  # what was imported and composed stays, and need not be looked through
    gc.enable()
    become_subreaper()  # what a dying guard leaves behind comes to us, and is swept
    processes.attach()
    told = (voices or Voices)(job, secrets.mask)
    told.keep("job.yaml", lambda path: path.write_text(job_yaml))
    processes.on_news = partial(told.journal.write, round=0)
    member = Member(
        job,
        processes=processes,
        server=server,
        journal=told.journal,
        publication=publication,
        backends=backends,
        tailer=told.tailer,
    )
    told.terminal.begin(_to_be_read(server, job))
    member.follow(health)
    abort_on_fault(member.agent)
    with Signals(member.agent, job.stop.forward, job.stop.preempt):
        result, bug = await member.run()
        await processes.quit()
        told.end(result)
    if bug is not None:
        raise bug
    return result.exit_code


def _to_be_read(server: EmbeddedServer | None, job: JobSpec) -> str | None:
    """The URL with the password that was made up; one that was given is known."""
    return server.shared_url if server is not None and job.rendezvous.password is None else None
