"""What the YAML may say: one small dataclass per group of ``conf/``, with the same words, units and defaults.

Only the shape of single values lives here; relations between them are in `checks`. Invariant, kept by a test: a file in
``conf/GROUP/KIND.yaml`` holds exactly the keys and the defaults of the dataclass for that kind.
"""

# ruff: noqa: RUF009 - calls of section and choice make dataclass fields, as field() does

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from signal import SIGTERM, SIGUSR1, SIGUSR2

from orchestrator.config.command import Flag, command, env_value, flag_value, function_name, json_list, json_mapping
from orchestrator.config.convert import Choices, choice, key, section
from orchestrator.config.health import HealthDisabled, HealthHttp, class_name
from orchestrator.config.needs import need
from orchestrator.config.output import line_filters, streams
from orchestrator.config.process import Limit, cpus, limits
from orchestrator.config.readers import (
    catchable,
    console,
    counted_flag,
    flag,
    host_port,
    list_of,
    mapping_of,
    module,
    name,
    nodes,
    number,
    optional,
    password,
    redis_url,
    seconds,
    signal_number,
    text,
    umask,
    whole,
    word,
)
from orchestrator.config.restart import RESTART, RestartNever, RestartOnFailure
from orchestrator.config.roles import roles, success
from orchestrator.config.sweep import SweepConfig
from orchestrator.config.watchdog import WATCHDOG, WatchdogConfig
from orchestrator.core.specs import Macros, Show, SuccessPolicy

NPROC_MAX = 65536  # workers of one node; more is a slip of the hand, and would fill the memory before anything starts


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Who this agent is. None: made up."""

    name: str | None = key(optional(name), default=None)
    rank: int | None = key(optional(whole(0)), default=None)
    addr: str | None = key(optional(text), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What a worker is."""

    cmd: tuple[str, ...] | None = key(command, default=None)
    entrypoint: str | None = key(optional(function_name), default=None)
    args: tuple[object, ...] = key(json_list, default=())
    kwargs: Mapping[str, object] = key(json_mapping, default={})
    flags: Mapping[str, Flag] = key(mapping_of(flag_value), default={})
    flags_style: str = key(word("gnu", "spaced", "hydra"), default="gnu")
    start: str = key(word("exec", "zygote"), default="exec")
    preload: tuple[str, ...] = key(list_of(module), default=())
    nproc: int | str = key(whole(1, NPROC_MAX, words=("cpu", "gpu", "auto")), default=1)
    env: Mapping[str, str | None] = key(mapping_of(env_value), default={})
    cwd: str | None = key(optional(text), default=None)
    umask: int | None = key(optional(umask), default=None)
    limits: Mapping[str, Limit] = key(limits, default={})
    affinity: str | frozenset[int] | None = key(optional(cpus), default=None)
    store: str = key(word("agent", "worker", "none"), default="agent")
    backend: str | None = key(optional(class_name), default=None)
    macros: str = key(word(*Macros), default="own")
    virtual_local_rank: bool = key(flag, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RendezvousEmbedded:
    """rendezvous=embedded."""

    kind: str = "embedded"
    listen: tuple[str, int] | None = key(optional(host_port), default=None)
    password: str | None = key(optional(password), default=None)
    join_timeout_s: float = key(seconds, default=600.0)
    last_call_s: float = key(seconds, default=1.0)
    lease_s: float = key(number(1, what="seconds"), default=5.0)
    scale_up_s: float = key(seconds, default=10.0)
    spares: int = key(whole(0), default=0)
    server_grace_s: float = key(seconds, default=600.0)
    on_isolation: str = key(word("stop", "run"), default="stop")
    reopen: bool = key(counted_flag, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RendezvousRedis:
    """rendezvous=redis."""

    kind: str = "redis"
    url: str | None = key(optional(redis_url), default=None)
    join_timeout_s: float = key(seconds, default=600.0)
    last_call_s: float = key(seconds, default=1.0)
    lease_s: float = key(number(1, what="seconds"), default=5.0)
    scale_up_s: float = key(seconds, default=10.0)
    spares: int = key(whole(0), default=0)
    server_grace_s: float = key(seconds, default=600.0)
    on_isolation: str = key(word("stop", "run"), default="stop")
    reopen: bool = key(counted_flag, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopDefault:
    """stop=default."""

    kind: str = "default"
    signal: int = key(signal_number, default=int(SIGTERM))
    relay: bool = key(flag, default=False)
    grace_s: float = key(seconds, default=30.0)
    forward: tuple[int, ...] = key(list_of(catchable), default=(int(SIGUSR1), int(SIGUSR2)))
    preempt_signals: tuple[int, ...] = key(list_of(catchable), default=())
    kill_wait_s: float = key(seconds, default=10.0)
    dump: bool = key(flag, default=False)
    platform_grace_s: float | None = key(optional(seconds), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsFiles:
    """logs=files."""

    kind: str = "files"
    dir: str | None = key(optional(text), default=None)
    max_bytes: int | None = key(optional(whole(65536)), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsTee:
    """logs=tee."""

    kind: str = "tee"
    dir: str | None = key(optional(text), default=None)
    max_bytes: int | None = key(optional(whole(65536)), default=None)
    prefix: str = key(text, default="[{role}{rank}] ")
    console: frozenset[int] | None = key(console, default=None)
    console_bytes_per_s: int | None = key(optional(whole(1)), default=None)
    streams: Mapping[int | None, tuple[Show, Show]] = key(streams, default={})
    filters: Mapping[str, tuple[str, ...]] = key(line_filters, default={})


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsInherit:
    """logs=inherit."""

    kind: str = "inherit"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeHeader:
    """What a recipe says of itself. ``dir`` is where it stands, when it says what to run."""

    name: str | None = key(optional(text), default=None)
    description: str | None = key(optional(text), default=None)
    needs: tuple[str, ...] = key(list_of(need), default=())
    dir: str | None = key(optional(text), default=None)


RENDEZVOUS: Choices = {"embedded": RendezvousEmbedded, "redis": RendezvousRedis}
STOP: Choices = {"default": StopDefault}
LOGS: Choices = {"files": LogsFiles, "tee": LogsTee, "inherit": LogsInherit}
HEALTH: Choices = {"disabled": HealthDisabled, "http": HealthHttp}
GROUPS: Mapping[str, Choices] = {
    "restart": RESTART,
    "watchdog": WATCHDOG,
    "rendezvous": RENDEZVOUS,
    "stop": STOP,
    "logs": LOGS,
    "health": HEALTH,
}
"""The groups of ``conf/``: what may be chosen as GROUP=KIND."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """The whole file."""

    run_id: str | None = key(optional(name), default=None)
    role: str = key(name, default="default")
    nodes: tuple[int, int] = key(nodes, default=(1, 1))
    node: NodeConfig = section(NodeConfig)
    worker: WorkerConfig = section(WorkerConfig)
    restart: RestartNever | RestartOnFailure = choice(RESTART, "on_failure")
    watchdog: WatchdogConfig = choice(WATCHDOG, "observe")
    rendezvous: RendezvousEmbedded | RendezvousRedis = choice(RENDEZVOUS, "embedded")
    stop: StopDefault = choice(STOP, "default")
    logs: LogsFiles | LogsTee | LogsInherit = choice(LOGS, "tee")
    health: HealthDisabled | HealthHttp = choice(HEALTH, "disabled")
    roles: Mapping[str, object] = key(roles, default={})
    success: SuccessPolicy = key(success, default=SuccessPolicy())
    sweep: SweepConfig = section(SweepConfig)
    recipe: RecipeHeader = section(RecipeHeader)
