"""What a job is, once its YAML has been checked: frozen, typed, with every default made explicit.

Specs say *what* to run and *where*; `policies` say *when* and *how often*. Nothing here reads a file, a clock or an
environment. Durations are seconds (``_s``). Made by ``config/compile.py`` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.core.health import PreflightPolicy, ProbesPolicy
from orchestrator.core.policies import RestartPolicy, StopPolicy, WatchdogPolicy


class LogsKind(StrEnum):
    """Where workers' output goes: to files, to files and the console, or straight to the console."""

    FILES = "files"
    TEE = "tee"
    INHERIT = "inherit"


class StoreKind(StrEnum):
    """What MASTER_ADDR and MASTER_PORT lead to."""

    AGENT = "agent"  # a store that the agent of rank 0 hosts
    WORKER = "worker"  # nothing yet: a port for what the worker of rank 0 hosts
    NONE = "none"  # there are none


class RendezvousKind(StrEnum):
    """Who runs the server through which agents meet."""

    EMBEDDED = "embedded"
    REDIS = "redis"


class OnIsolation(StrEnum):
    """What becomes of workers while their agent is cut off from the server, and for all we know from the others too."""

    STOP = "stop"
    RUN = "run"


class Macros(StrEnum):
    """What is filled in in a worker's command: ``__rank__`` and its like; torchrun's ``${local_rank}``; or nothing."""

    OWN = "own"
    TORCHRUN = "torchrun"
    NONE = "none"


class Show(StrEnum):
    """Where one stream of a worker goes besides its file: the console with a prefix, without one, or nowhere."""

    TEE = "tee"
    BARE = "bare"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """This agent's identity: ``name`` is unique among live agents of a run, ``rank`` a hint for the first round."""

    name: str
    rank: int | None = None
    addr: str | None = None  # published as MASTER_ADDR when this node has rank 0; None: that of the server connection


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One worker group's processes, as this node starts them."""

    cmd: tuple[str, ...]  # argv; macros such as __rank__ are not filled in yet
    nproc: int  # workers on this node
    env: Mapping[str, str | None] = field(default_factory=dict)  # None unsets a variable of the agent's environment
    cwd: str | None = None
    umask: int | None = None
    limits: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)  # soft, hard; None: unlimited
    affinity: tuple[frozenset[int], ...] = ()  # the processors of each, by local rank; empty: as they are
    macros: Macros = Macros.OWN
    virtual_local_rank: bool = False  # each sees itself as local rank 0, with one device
    preload: tuple[str, ...] | None = None  # modules of a zygote from which they are forked; None: started by exec
    store: StoreKind = StoreKind.WORKER
    backend: str | None = None  # the user's class that runs them, as package.module:Class; None: this node's processes


class Need(StrEnum):
    """How far a role must have come before one that depends on it is started."""

    STARTED = "started"  # all workers of its round run
    HEALTHY = "healthy"  # and were ready, by their probes
    SUCCEEDED = "succeeded"  # it is over, and well


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """One role: its processes, how many nodes it spans, and its policy."""

    role: str
    min_nodes: int
    max_nodes: int
    worker: WorkerSpec
    restart: RestartPolicy
    spare_nodes: int = 0  # agents beyond ``max_nodes`` that stand by for a gap
    probes: ProbesPolicy | None = None  # what each worker is asked
    preflight: PreflightPolicy | None = None  # what each node is looked at for before each join
    watchdog: WatchdogPolicy = field(default_factory=WatchdogPolicy)
    on: tuple[str, ...] = ()  # patterns of the names of its nodes, as of fnmatch; none: all
    depends_on: Mapping[str, Need] = field(default_factory=dict)  # other roles
    needed: bool = False  # another role depends on this one
    cascade: bool = False  # restarted when a role that it depends on is


class SuccessKind(StrEnum):
    """Which roles decide how a run ends."""

    ALL = "all"
    ANY = "any"
    LISTED = "listed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessPolicy:
    """How a run of several roles ends: well when all, any or all ``roles`` that are listed have succeeded."""

    kind: SuccessKind = SuccessKind.ALL
    roles: tuple[str, ...] = ()  # listed: the others are stopped then, and do not count


@dataclass(frozen=True, slots=True, kw_only=True)
class RendezvousSpec:
    """How agents meet. ``url`` is None for an embedded server, whose address is made when it starts."""

    kind: RendezvousKind
    url: str | None = None
    listen: tuple[str, int] | None = None  # embedded: TCP host and port for other nodes
    password: str | None = field(default=None, repr=False)  # embedded, with `listen`; None: one is made up
    join_timeout_s: float
    last_call_s: float
    lease_s: float
    scale_up_s: float
    server_grace_s: float
    on_isolation: OnIsolation = OnIsolation.STOP
    reopen: bool = False  # whether our first join continues a run that has failed or was stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsSpec:
    """Where workers' output goes. ``console`` is None for all ranks; ``prefix`` has {role}, {rank}, … or ${…}."""

    kind: LogsKind
    dir: str
    prefix: str
    console: frozenset[int] | None = None
    max_bytes: int | None = None  # of each file the newest so many are kept
    console_bytes_per_s: int | None = None  # of all that is shown; more is left out there
    streams: Mapping[int | None, tuple[Show, Show]] = field(default_factory=dict)  # by local rank; None: others
    filters: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # lines with one of these words are copied to a file


UNIX = "unix:"  # what a host begins with that is a path of the file system


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSpec:
    """The health check server. Clients must know ``token``, if there is one; port 0 is any free one.

    ``host`` may be ``unix:PATH``: then there is no port.
    """

    host: str
    port: int
    timeout_s: int  # an agent that has not turned for so long is not alive
    token: str | None = None
    server: str | None = None  # the user's class, as package.module:Class


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """All that one agent needs to know."""

    run_id: str
    run_dir: str  # holds events.jsonl, result.json, job.yaml
    node: NodeSpec
    groups: tuple[GroupSpec, ...]
    rendezvous: RendezvousSpec
    stop: StopPolicy
    logs: LogsSpec
    health: HealthSpec | None = None
    success: SuccessPolicy = SuccessPolicy()
