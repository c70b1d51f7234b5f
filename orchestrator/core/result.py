"""How a run ended: what ``Agent.run`` returns, and what result.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.failures import Failure
from orchestrator.core.rendezvous import Closed
from orchestrator.core.roles import RunVerdict
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
    groups: Mapping[str, RunResult] = field(default_factory=dict)  # by role, where there are several

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
            **({"groups": {role: one.to_dict() for role, one in self.groups.items()}} if self.groups else {}),
        }


def united(results: Mapping[str, RunResult], verdict: RunVerdict | None, closed: Closed | None) -> RunResult:
    """One result of several groups': the run's, if its ``verdict`` is known, else that of the one that ended worst.

    ``closed`` is the end of the role that decided. With one group only, the result is that group's.
    """
    if len(results) == 1 and verdict is None:
        return next(iter(results.values()))
    worst = max(results.values(), key=lambda one: (_BADNESS[one.state], one.exit_code))
    state, exit_code, reason, cause = worst.state, worst.exit_code, worst.reason, worst.root_cause
    if verdict is not None:
        state, reason = State[verdict.outcome.name], verdict.why
        exit_code = closed.exit_code if closed is not None else exit_code
        own = results[verdict.role].root_cause if verdict.role in results else None
        cause = own or (Failure.from_dict(closed.cause) if closed is not None and closed.cause else None)
    failures = sorted((failure for one in results.values() for failure in one.failures), key=lambda one: one.at)
    leading = results.get(verdict.role, worst) if verdict is not None else worst
    return RunResult(
        state=state,
        exit_code=exit_code,
        reason=reason,
        rounds=max(one.rounds for one in results.values()),
        restarts=sum(one.restarts for one in results.values()),
        root_cause=cause if state is State.FAILED else None,
        failures=tuple(failures),
        results=leading.results,
        timings={"total_s": max(one.timings.get("total_s", 0.0) for one in results.values())},
        groups=results,
    )


_BADNESS = {State.SUCCEEDED: 0, State.STOPPED: 1, State.FAILED: 2}
