"""When and how often: what is done about failures and hangs, and how workers are stopped. Frozen, complete.

Policies say when; what to run, and where, is `specs`'. Durations are seconds (``_s``). Made by ``config/`` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


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


class Scope(StrEnum):
    """How much is stopped and started again after a failure. Narrower than the group keeps the round."""

    GROUP = "group"
    NODE = "node"
    WORKER = "worker"


class WatchdogKind(StrEnum):
    """How a worker that hangs is noticed."""

    DISABLED = "disabled"
    OBSERVE = "observe"  # it does nothing: that is told, and changes nothing
    TIMER = "timer"  # a timer of torch's expires
    HEARTBEAT = "heartbeat"  # it says nothing
    SECTIONS = "sections"  # it says nothing, or stays too long where it has said that it is


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
class LearnPolicy:
    """How the limits of a watchdog are learnt from the run, see `core.learning`."""

    factor: float  # times the second longest gap of any one worker
    after: int  # gaps that a worker must have come out of
    floor_s: float  # no limit is shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogPolicy:
    """When a worker counts as hung. Which fields matter depends on ``kind``."""

    kind: WatchdogKind = WatchdogKind.DISABLED
    after_s: float = 0.0  # observe: so long without processor time and output
    timeout_s: float = 0.0  # heartbeat, sections: so long without a word, outside of a section with a limit
    warmup_s: float = 0.0  # the same before a worker's first word
    sections: Mapping[str, float] = field(default_factory=dict)  # sections: seconds in each
    path: str | None = None  # timer: where the pipe is wished; None: in the run's directory
    learn: LearnPolicy | None = None  # heartbeat, sections: how the run makes their limits shorter; None: it does not

    @property
    def can_fail(self) -> bool:
        """Whether a hang is a failure; else it is only told."""
        return self.kind in (WatchdogKind.TIMER, WatchdogKind.HEARTBEAT, WatchdogKind.SECTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPolicy:
    """The stop ladder: ``signal``, SIGCONT, one shared ``grace_s``, SIGKILL to the tree, a bounded ``kill_wait_s``."""

    signal: int
    grace_s: float
    kill_wait_s: float
    relay: bool = False  # a signal that asks for the stop is what workers are asked with
    forward: frozenset[int] = frozenset()  # signals to the agent that go to workers as they are
    preempt: frozenset[int] = frozenset()  # signals to the agent that end it with exit code 75
    dump: bool = False  # whether those who take long are asked for their stacks
    platform_grace_s: float | None = None  # so long after its signal the platform kills everything
