"""Launches groups of worker processes that live and die together, on one node or on thousands.

The map of the house; arrows of import go cli → config, edge, core; config → core; edge → core:

    errors   whose fault it is, and the exit code
    worker   what a worker script may import
    entrypoint   what runs a function as a worker
    cli/     the commands: composes YAML with Hydra, owns the terminal and the signals
    config/  checks what was composed, and compiles it into specs and a machine's table
    core/    decides: the table, the machine, restarts, ranks; pure, without I/O
    edge/    does: the agent, the guard of processes, the Redis rendezvous, journal and logs

Public names are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orchestrator.cli.torchrun.launching import LaunchConfig, launch
    from orchestrator.core.result import RunResult
    from orchestrator.core.specs import JobSpec, WorkerSpec
    from orchestrator.core.words import WorkerState
    from orchestrator.edge.agent import Agent
    from orchestrator.edge.backend import Program, WorkerBackend
    from orchestrator.edge.health import HealthCheckServer
    from orchestrator.errors import ConfigError, OrchestratorError

_PUBLIC = {
    "Agent": "orchestrator.edge.agent",
    "ConfigError": "orchestrator.errors",
    "HealthCheckServer": "orchestrator.edge.health",
    "JobSpec": "orchestrator.core.specs",
    "LaunchConfig": "orchestrator.cli.torchrun.launching",
    "OrchestratorError": "orchestrator.errors",
    "Program": "orchestrator.edge.backend",
    "RunResult": "orchestrator.core.result",
    "WorkerBackend": "orchestrator.edge.backend",
    "WorkerSpec": "orchestrator.core.specs",
    "WorkerState": "orchestrator.core.words",
    "launch": "orchestrator.cli.torchrun.launching",
}

__all__ = [
    "Agent",
    "ConfigError",
    "HealthCheckServer",
    "JobSpec",
    "LaunchConfig",
    "OrchestratorError",
    "Program",
    "RunResult",
    "WorkerBackend",
    "WorkerSpec",
    "WorkerState",
    "launch",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - the guard imports this package, and nothing of importlib

    value: object = getattr(import_module(_PUBLIC[name]), name)
    return value
