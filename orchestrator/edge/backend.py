"""Where a group's workers run: what an agent asks of that place, and what it hears from there.

The machine, the rendezvous, logs, restarts and the watchdog do not know where workers run; whoever wants them to run
elsewhere than as this node's processes writes a `WorkerBackend` and names it as ``worker.backend``. Invariant: every
process that was asked for is told of by exactly one `Spawned` or `SpawnFailed`, and every spawned one by one `Exited`,
unless the whole backend is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from orchestrator.edge.guard.events import Exited, Fenced, Spawned, SpawnFailed

__all__ = ["BackendEvent", "BackendLost", "Exited", "Fenced", "Program", "SpawnFailed", "Spawned", "WorkerBackend"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Zygote:
    """How to start a process that imports ``preload``, for workers to be forked from. Told apart by identity."""

    python: Sequence[str]  # the workers', with its flags
    runs: Sequence[str]  # what of their argv follows: a script, or -m and a module
    preload: Sequence[str]
    env: Mapping[str, str]  # what all of them have in common
    cwd: str | None = None
    log: str | None = None  # what it says is appended to this
    umask: int | None = None
    limits: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    cpus: Collection[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One worker to be started. Paths are this node's; None: inherited."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)  # the whole environment
    cwd: str | None = None
    stdout: str | None = None  # appended to
    stderr: str | None = None
    umask: int | None = None
    limits: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)  # soft, hard
    cpus: Collection[int] = ()  # the processors that it may use; none: as they are
    zygote: Zygote | None = None  # what it may be forked from, so that it need not import that itself


@dataclass(frozen=True, slots=True)
class BackendLost:
    """All workers are gone, and nothing can be started until `WorkerBackend.recover`."""

    reason: str


BackendEvent = Spawned | SpawnFailed | Exited | Fenced | BackendLost


@runtime_checkable
class WorkerBackend(Protocol):
    """One group's workers on one node. Called from the agent's event loop only; nothing here may block it.

    Made as ``cls(job, group, local)``: the `JobSpec`, the `GroupSpec`, and the backend that would run the workers as
    this node's processes, for one that only changes something about that. Handles are numbers by which agent and
    backend mean one worker; they are never used twice.
    """

    def attach(self, hear: Callable[[BackendEvent], None]) -> None:
        """Whom to tell of events, from the event loop's thread; called once, before anything else."""

    def new_handle(self) -> int:
        """A number for a worker that is about to be started."""

    def start(self, handle: int, program: Program) -> None:
        """Start a worker; answered by `Spawned` or `SpawnFailed`."""

    async def stop(self, handles: Sequence[int], *, signum: int, grace_s: float, kill_wait_s: float) -> Sequence[int]:
        """Stop workers together, and everything that they started; returns what could not be ended, as pids.

        They are asked by ``signum``, have ``grace_s`` seconds, and are ended by force then, which may take
        ``kill_wait_s``. What ends on the way is told by `Exited` with ``sent_by_us``. Raises `asyncio.CancelledError`
        if the backend is lost meanwhile.
        """

    def kill(self, handles: Iterable[int]) -> None:
        """End workers by force now; a `stop` that waits for them returns the sooner for it."""

    def signal(self, handles: Iterable[int], signum: int) -> None:
        """Pass a signal on to workers."""

    def fence(self, at_s: float | None) -> None:
        """End all workers at this moment of CLOCK_BOOTTIME unless a later one is set in time, and say `Fenced`.

        Others may be starting in their place then, so it must not depend on the agent. None: never. From that moment
        on what is started fails with the step ``fenced``, until a moment to come is set.
        """

    def recover(self) -> None:
        """After `BackendLost`: clean up what is left, and be ready to start workers again."""

    async def close(self) -> None:
        """No worker is left, and none will be started."""
