"""What a job is, once its YAML has been checked: frozen, typed, with every default made explicit.

Specs say *what* to run and *where*; policies say *when* and *how often*. Nothing here reads a file, a clock or an
environment. Durations are seconds (``_s``). Made by ``config/compile.py`` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.core.health import PreflightPolicy, ProbesPolicy


class RestartKind(StrEnum):
    """When a group is restarted."""

    NEVER = "never"
    ON_FAILURE = "on_failure"
    ALWAYS = "always"


class RuleAction(StrEnum):
    """What a failure leads to, mildest first: the most severe of a round decides."""

    SUCCESS = "success"  # it is none: the worker has succeeded
    IGNORE = "ignore"  # the worker stays down, and counts no more
    RETRY_FREE = "retry_free"
    RETRY = "retry"
    EXCLUDE_NODE = "exclude_node"  # as retry, without this node
    FATAL = "fatal"

    @property
    def severity(self) -> int:
        """From 0 for the mildest; `lua/fail.lua` ranks those that end a round in the same order."""
        return list(RuleAction).index(self)

    @property
    def spares(self) -> bool:
        """Whether the others run on as if nothing had been."""
        return self in (RuleAction.SUCCESS, RuleAction.IGNORE)

    @property
    def is_charged(self) -> bool:
        """Whether it costs a restart of a budget."""
        return self in (RuleAction.RETRY, RuleAction.EXCLUDE_NODE)


class Scope(StrEnum):
    """How much is stopped and started again after a failure. Narrower than the group keeps the round."""

    GROUP = "group"
    NODE = "node"
    WORKER = "worker"


class LogsKind(StrEnum):
    """Where workers' output goes: to files, to files and the console, or straight to the console."""

    FILES = "files"
    TEE = "tee"
    INHERIT = "inherit"


class RendezvousKind(StrEnum):
    """Who runs the server through which agents meet."""

    EMBEDDED = "embedded"
    REDIS = "redis"


class OnIsolation(StrEnum):
    """What becomes of workers while their agent is cut off from the server, and for all we know from the others too."""

    STOP = "stop"
    RUN = "run"


class WatchdogKind(StrEnum):
    """How a worker that hangs is noticed."""

    DISABLED = "disabled"
    OBSERVE = "observe"  # it does nothing: that is told, and changes nothing
    TIMER = "timer"  # a timer of torch's expires
    HEARTBEAT = "heartbeat"  # it says nothing
    SECTIONS = "sections"  # it says nothing, or stays too long where it has said that it is


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
    backend: str | None = None  # the user's class that runs them, as package.module:Class; None: this node's processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """At most ``max`` restarts within any ``per_s`` seconds (None: in the whole run). ``max`` None: no bound."""

    max: int | None
    per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delay before the n-th consecutive restart: ``initial_s * factor**(n-1)``, at most ``max_s``, give or take jitter.

    ``jitter`` is a fraction: 0.1 draws from ±10 %. After ``reset_after_s`` of health the count begins again.
    """

    initial_s: float
    factor: float
    max_s: float
    jitter: float
    reset_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of ``restart.rules``. Every condition that is given must hold; an empty one is not given."""

    action: RuleAction
    exit_codes: frozenset[int] = frozenset()
    signals: frozenset[int] = frozenset()
    kinds: frozenset[str] = frozenset()
    error_types: frozenset[str] = frozenset()
    message: str | None = None  # regular expression, searched in the failure's message and last lines
    oom: bool | None = None  # whether the kernel has killed it for want of memory
    phase: str | None = None  # starting, running, or a section that it was in
    min_age_s: float | None = None  # at its death
    max_age_s: float | None = None
    budget: Budget | None = None  # of its own, instead of the policy's
    backoff: Backoff | None = None  # likewise
    scope: Scope | None = None  # likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressPolicy:
    """What `orchestrator.worker.progress` means to budgets. ``max_stalled`` None: restarts may make no progress."""

    refill: bool = False  # whether all budgets begin anew once the run has got further than at the last charge
    max_stalled: int | None = None  # so many charged restarts in a row without progress end the run


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When to restart the group, how often, and how patiently."""

    kind: RestartKind
    budget: Budget  # of charged restarts, shared by all nodes
    free: Budget  # bounds the restarts that are not charged, so that they cannot loop hot
    backoff: Backoff
    rules: tuple[Rule, ...] = ()
    scope: Scope = Scope.GROUP
    progress: ProgressPolicy = ProgressPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogPolicy:
    """When a worker counts as hung. Which fields matter depends on ``kind``."""

    kind: WatchdogKind = WatchdogKind.DISABLED
    after_s: float = 0.0  # observe: so long without processor time and output
    timeout_s: float = 0.0  # heartbeat, sections: so long without a word, outside of a section with a limit
    warmup_s: float = 0.0  # the same before a worker's first word
    sections: Mapping[str, float] = field(default_factory=dict)  # sections: seconds in each
    path: str | None = None  # timer: where the pipe is wished; None: in the run's directory

    @property
    def can_fail(self) -> bool:
        """Whether a hang is a failure; else it is only told."""
        return self.kind in (WatchdogKind.TIMER, WatchdogKind.HEARTBEAT, WatchdogKind.SECTIONS)


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
    watchdog: WatchdogPolicy = WatchdogPolicy()
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
    join_timeout_s: float
    last_call_s: float
    lease_s: float
    scale_up_s: float
    server_grace_s: float
    on_isolation: OnIsolation = OnIsolation.STOP
    reopen: bool = False  # whether our first join continues a run that has failed or was stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPolicy:
    """The stop ladder: ``signal``, SIGCONT, one shared ``grace_s``, SIGKILL to the tree, a bounded ``kill_wait_s``."""

    signal: int
    grace_s: float
    kill_wait_s: float
    forward: frozenset[int] = frozenset()  # signals to the agent that go to workers as they are
    preempt: frozenset[int] = frozenset()  # signals to the agent that end it with exit code 75
    dump: bool = False  # whether those who take long are asked for their stacks
    platform_grace_s: float | None = None  # so long after its signal the platform kills everything


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsSpec:
    """Where workers' output goes. ``console`` is None for all ranks; ``prefix`` has {role}, {rank}, … or ${…}."""

    kind: LogsKind
    dir: str
    prefix: str
    console: frozenset[int] | None = None
    max_bytes: int | None = None  # of each file the newest so many are kept
    console_bytes_per_s: int | None = None  # of all that is shown; more is left out there


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSpec:
    """The health check server. Clients must know ``token``, if there is one; port 0 is any free one."""

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
