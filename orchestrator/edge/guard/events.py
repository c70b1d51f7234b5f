"""What the guard tells the agent, as values; and how they are read off the wire.

Nothing is done here. Invariant: a message that is no event of ours raises, it is never passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator.edge.guard.protocol import ProtocolError

if TYPE_CHECKING:
    from orchestrator.edge.guard.protocol import Message


@dataclass(frozen=True, slots=True)
class GuardStarted:
    """The guard is ready. ``containment`` is cgroup2 or subreaper; ``cgroup`` the directory of its cgroups, if any."""

    pid: int
    containment: str
    cgroup: str | None


@dataclass(frozen=True, slots=True)
class GhostsKilled:
    """Processes of the run whose guard had been killed together with its agent."""

    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Spawned:
    """The worker runs: exec has succeeded."""

    handle: int
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The worker, or the server, could not be started.

    ``step`` is one of cgroup, pipe, fork, pidfd, setsid, open_stdin, open_stdout, open_stderr, umask, chdir, limits,
    limits.NAME, affinity, pdeathsig, signals, exec, zygote; fenced when a fence has fallen and no later one was set;
    stopped when it was stopped while it waited for its zygote; id_in_use when the handle was used before (a mistake of
    the agent).
    """

    handle: int
    step: str
    errno: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker's main process has ended, by a code or by a signal."""

    handle: int
    pid: int
    exit_code: int | None
    signal: int | None
    core: bool
    sent_by_us: bool  # it ended after our own stop or kill: a consequence, never a root cause


@dataclass(frozen=True, slots=True)
class Stopped:
    """A stop is over: nothing is left of its workers but, maybe, processes that the kernel does not let die."""

    ticket: int
    unkillable: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServerStarted:
    """A server runs; for the first time or again."""

    handle: int
    pid: int


@dataclass(frozen=True, slots=True)
class ServerDied:
    """A server has ended; if it was to be restarted, a ServerStarted follows."""

    handle: int
    exit_code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class ZygoteFailed:
    """No worker will be forked from this zygote any more; those for which it was asked are started by exec.

    ``ready`` if it had served, so that another one may.
    """

    handle: int
    ready: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Fenced:
    """The moment of the fence has passed without being extended: all workers are being killed, and none is started."""

    at_s: float  # the moment, of CLOCK_BOOTTIME


@dataclass(frozen=True, slots=True)
class GuardLost:
    """The guard has ended unasked. Its direct children died with it; `sweep_orphans` finds the rest."""

    pid: int
    exit_code: int | None
    signal: int | None


GuardEvent: TypeAlias = (
    GuardStarted
    | GhostsKilled
    | Spawned
    | SpawnFailed
    | Exited
    | Stopped
    | ServerStarted
    | ServerDied
    | ZygoteFailed
    | Fenced
    | GuardLost
)


_KINDS: dict[str, type[GuardEvent]] = {
    "guard_started": GuardStarted,
    "ghosts_killed": GhostsKilled,
    "spawned": Spawned,
    "spawn_failed": SpawnFailed,
    "exited": Exited,
    "stopped": Stopped,
    "server_started": ServerStarted,
    "server_died": ServerDied,
    "zygote_failed": ZygoteFailed,
    "fenced": Fenced,
}


def event_of(message: Message) -> GuardEvent:
    """The event that a message tells of. Raises ProtocolError if it is none."""
    fields: dict[str, Any] = dict(message)
    kind = _KINDS.get(fields.pop("op"))
    if kind is None:
        raise ProtocolError(f"the guard tells of {message['op']!r}, which is no event")
    if "id" in fields:
        fields["handle"] = fields.pop("id")
    for name in ("unkillable", "pids"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return kind(**fields)
