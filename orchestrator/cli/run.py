"""Runs one job in this process: wires the parts of the edge together, and owns what is the process's own.

The terminal and being a subreaper belong to the process and therefore here, not to the agent. Invariant: an
agent that was started ends with a guard that has nothing left, a result.json, and an exit code.
"""
# ruff: noqa: PLC0415 - what is heavy is imported behind the guard's and the server's own start

from __future__ import annotations

import contextlib
import gc
import secrets as randomness
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.secrets import Secrets
from orchestrator.core.roles import admitted
from orchestrator.core.specs import UNIX, JobSpec, RendezvousKind
from orchestrator.edge.guard.launch import launch
from orchestrator.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from orchestrator.core.publication import Publication
    from orchestrator.edge.agent import Agent
    from orchestrator.edge.backends import Make
    from orchestrator.edge.embedded import EmbeddedServer
    from orchestrator.edge.health import Health
    from orchestrator.edge.journal import Journal
    from orchestrator.edge.processes import Processes
    from orchestrator.edge.redis.connection import Connection
    from orchestrator.edge.redis.group import GroupStore


def run_job(job: JobSpec, *, job_yaml: str, publication: Publication, secrets: Secrets) -> int:
    """Take part in ``job`` until it ends; returns the exit code. Raises only for our own bugs."""
    backends = _backends(job)
    with _health(job, secrets) as health:
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
        )
        return asyncio.run(run)


def _health(job: JobSpec, secrets: Secrets) -> AbstractContextManager[Health | None]:
    """Whoever answers for this agent from here to its end: started first, stopped last."""
    if job.health is None:
        return contextlib.nullcontext()
    from orchestrator.edge.health import Health

    return Health(job, job.health, secrets.mask)


def _backends(job: JobSpec) -> Mapping[str, Make]:
    """What the user has named to run workers, which is rare."""
    if all(group.worker.backend is None for group in job.groups):
        return {}
    from orchestrator.edge.backends import load_backends

    return load_backends(job)


def _plan_server(job: JobSpec) -> EmbeddedServer | None:
    if job.rendezvous.kind is not RendezvousKind.EMBEDDED:
        return None
    from orchestrator.edge.embedded import plan_server

    return plan_server(job.run_dir, listen=job.rendezvous.listen)


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
) -> int:
    from orchestrator.cli.signals import Signals
    from orchestrator.cli.voices import Voices
    from orchestrator.edge.agent import Agent
    from orchestrator.edge.guard.client import become_subreaper
    from orchestrator.edge.redis.stores import last_will

    gc.freeze()  # what was imported and composed stays, and need not be looked through
    gc.enable()
    become_subreaper()  # what a dying guard leaves behind comes to us, and is swept
    processes.attach()
    voices = Voices(job, secrets.mask)
    voices.keep("job.yaml", lambda path: path.write_text(job_yaml))
    processes.on_news = partial(voices.journal.write, round=0)
    connection, stores = _rendezvous(job, publication, server, voices.journal)
    connection.on_moved = lambda: processes.bequeath(last_will(stores.values(), "its agent died"))
    connection.on_moved()
    agent = Agent(
        job,
        processes=processes,
        connection=connection,
        stores=stores,
        journal=voices.journal,
        tailer=voices.tailer,
        backends=backends,
    )
    voices.terminal.begin(server.shared_url if server is not None else None)
    _follow(health, agent, voices.journal)
    if job.health is not None and job.health.host.startswith(UNIX):
        processes.inherit(job.health.host.removeprefix(UNIX))
    with Signals(job, agent):
        bug = await _take_part(agent)
        await _part(connection, server, job)
        await processes.quit()
        result = agent.result()
        voices.end(result)
    if bug is not None:
        raise bug
    return result.exit_code


def _follow(health: Health | None, agent: Agent, journal: Journal) -> None:
    """Let ``health`` show what the agent does, and whether its watchdog is alive."""
    if health is not None:
        health.follow(agent.snapshot, journal)
        health.board.watch("the watchdog", agent.alive_at)


async def _part(connection: Connection, server: EmbeddedServer | None, job: JobSpec) -> None:
    """Leave the server; one that we bring along stays until the others have left it too."""
    if server is not None and server.shared_url is not None:
        await connection.alone(job.rendezvous.lease_s)
    await connection.close()


async def _take_part(agent: Agent) -> Exception | None:
    """Run the agent to its end; returns a bug of ours instead of raising it, because the end must be put in order."""
    import asyncio

    def on_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        if "handle" in context and isinstance(context.get("exception"), Exception):
            agent.abort(context["exception"])  # a callback has failed, and what it was to tell is lost

    asyncio.get_running_loop().set_exception_handler(on_fault)
    try:
        await agent.run()
    except Exception as bug:  # noqa: BLE001 - raised again when nothing is left
        return bug
    return None


def _rendezvous(
    job: JobSpec, publication: Publication, server: EmbeddedServer | None, journal: Journal
) -> tuple[Connection, dict[str, GroupStore]]:
    from orchestrator.edge.redis.connection import Connection
    from orchestrator.edge.redis.stores import store_of

    connection = Connection.from_url(
        server.url if server is not None else job.rendezvous.url or "",
        grace_s=job.rendezvous.server_grace_s,
        on_lost=lambda reason: journal.write("server_lost", round=0, reason=reason),
        on_back=lambda: journal.write("server_back", round=0),
    )
    nonce = randomness.token_hex(8)
    mine = admitted(job.groups, job.node.name)
    stores = {group.role: store_of(job, group, connection, nonce, publication) for group in mine}
    return connection, stores
