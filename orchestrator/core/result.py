"""How a run ended: what ``Agent.run`` returns, and what result.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.failures import Failure
from orchestrator.core.words import Outcome, State, WorkerState, worker_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a run ends, decided once. ``declares``: it is ours to tell the group; otherwise we only leave it."""

    outcome: Outcome
    exit_code: int
    reason: str
    cause: Failure | None = None
    declares: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One agent's view of a finished run. ``results`` has what this node's workers reported, by global rank."""

    state: State
    exit_code: int
    reason: str
    rounds: int
    restarts: int
    root_cause: Failure | None = None
    failures: tuple[Failure, ...] = ()
    results: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)  # total_s, and <state>_s for each state it was in

    @property
    def worker_state(self) -> WorkerState:
        """The same end in torchelastic's words."""
        return worker_state(self.state)

    def is_failed(self) -> bool:
        """Whether the run failed, as torchelastic's RunResult asks it."""
        return self.state is State.FAILED

    def to_dict(self) -> dict[str, Any]:
        """The object of result.json."""
        return {
            "state": self.state.value,
            "exit_code": self.exit_code,
            "reason": self.reason,
            "rounds": self.rounds,
            "restarts": self.restarts,
            "root_cause": self.root_cause.to_dict() if self.root_cause else None,
            "failures": [failure.to_dict() for failure in self.failures],
            "results": {str(rank): dict(values) for rank, values in self.results.items()},
            "timings": {name: round(seconds, 4) for name, seconds in self.timings.items()},
        }
