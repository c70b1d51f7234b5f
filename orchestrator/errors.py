"""The exception tree: whose fault it is, and the exit code that says so (README, "Exit codes").

OrchestratorError            an exit code, and a message of path + fact + remedy
├── ConfigError        2     the configuration; nothing was started
├── WorkersFailed      1     workers failed or were stopped; what `orchestrator.launch` raises
├── RendezvousError    3     the agents could not meet, or the server is gone
│   ├── RoundEnded           a worker's round is over; what it asks for is the next round's business
│   └── Excluded       4     this node has been told to keep away
├── NodeError          4     this node is unfit: an unkillable process, a failed preflight
└── InternalError     70     our bug; the only one that shows a traceback
    └── IllegalEvent         the machine has no row for an event in its state
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orchestrator.core.failures import Failure


class ExitCode(IntEnum):
    """What the process tells its caller. 128+N (stopped by signal N) is computed, not listed."""

    SUCCEEDED = 0
    WORKERS_FAILED = 1
    BAD_CONFIG = 2
    RENDEZVOUS = 3
    NODE_UNFIT = 4
    INTERNAL = 70
    PREEMPTED = 75


class OrchestratorError(Exception):
    """Base of everything raised on purpose; ``exit_code`` is what the launcher ends with."""

    exit_code: ExitCode = ExitCode.INTERNAL


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration.

    ``path`` is the dotted conf path, ``fact`` what is wrong with its value, ``remedy`` what is allowed or what to do
    (may be empty), ``origin`` where the value came from, as ``file:line`` or as the override's text (may be empty).
    """

    path: str
    fact: str
    remedy: str = ""
    origin: str = ""

    def __str__(self) -> str:
        where = f" [{self.origin}]" if self.origin else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.path}: {self.fact}{remedy}{where}"


class ConfigError(OrchestratorError):
    """The configuration is wrong. Carries *every* problem that was found, so that one run shows all of them."""

    exit_code = ExitCode.BAD_CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class WorkersFailed(OrchestratorError):
    """Workers have failed, or were stopped. ``failures``: each rank's first one, the root cause first."""

    exit_code = ExitCode.WORKERS_FAILED

    def __init__(self, reason: str, failures: Mapping[int, Failure]) -> None:
        causes = [f"rank {rank}: {one.how()}" for rank, one in failures.items()][:1]
        super().__init__("; ".join([reason, *causes]))
        self.failures = dict(failures)

    def get_first_failure(self) -> tuple[int, Failure]:
        """The root cause, with its rank; LookupError if no worker has failed by itself."""
        if not self.failures:
            raise LookupError("no worker has failed")
        return next(iter(self.failures.items()))


class RendezvousError(OrchestratorError):
    """The agents could not meet: a timeout, a refusal, or a server that stayed away for too long."""

    exit_code = ExitCode.RENDEZVOUS


class RoundEnded(RendezvousError):
    """This worker's round is over: its group has moved on, and what it shares is closed to it."""


class Excluded(RendezvousError):
    """The group has had enough of this node's failures."""

    exit_code = ExitCode.NODE_UNFIT


class ValuesLost(RendezvousError):
    """The round stands, but the server has lost its memory since it began, and with it what its workers had shared."""


class NodeError(OrchestratorError):
    """This node cannot take part."""

    exit_code = ExitCode.NODE_UNFIT


class InternalError(OrchestratorError):
    """A broken promise of our own."""


class IllegalEvent(InternalError):
    """An event arrived for which the machine's table has no row; the state has not moved."""

    def __init__(self, state: str, event: str) -> None:
        super().__init__(f"no row for event '{event}' in state '{state}'")
        self.state = state
        self.event = event
