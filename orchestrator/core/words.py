"""The machine's vocabulary: states, events, effects, guards, outcomes.

Only words live here; what they lead to is the table's business (`core/table.py`). Events are past tense, effects
imperative. A word that no block of rows uses is dead and is removed.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a worker group is, as one agent sees it."""

    INIT = "INIT"
    WAITING = "WAITING"  # for other roles, which this one depends on
    PREFLIGHT = "PREFLIGHT"  # before each join: looks whether this node is fit, or waits to look again
    RENDEZVOUS = "RENDEZVOUS"  # joining the next round, until it is settled
    STANDBY = "STANDBY"  # a round stands without us; waits for a gap in it, or for the next one
    STARTING = "STARTING"  # the round is settled; local workers are being spawned
    HEALTHY = "HEALTHY"  # every local worker runs
    DRAINING = "DRAINING"  # stopping for a membership change; goes back to RENDEZVOUS
    STOPPING = "STOPPING"  # stopping after a failure, ours or a peer's
    DECIDING = "DECIDING"  # local workers are gone; awaits the group's decision
    BACKOFF = "BACKOFF"  # a restart was decided; waits out its delay
    FINISHING = "FINISHING"  # local workers succeeded; exit barrier
    CLOSING = "CLOSING"  # the end is known; cleans up, then enters its outcome's final state
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


FINAL: frozenset[State] = frozenset({State.SUCCEEDED, State.FAILED, State.STOPPED})


class Event(StrEnum):
    """What happened."""

    AGENT_STARTED = "agent_started"
    DEPENDENCIES_MET = "dependencies_met"
    DEPENDENCY_FAILED = "dependency_failed"  # a role that this one needs has ended otherwise
    PREFLIGHT_PASSED = "preflight_passed"
    PREFLIGHT_FAILED = "preflight_failed"  # once more; it is tried again after a cool-down
    NODE_UNFIT = "node_unfit"  # preflight failed as often as it may, or a rule excludes this node
    ROUND_SETTLED = "round_settled"
    STOOD_BY = "stood_by"  # joined, but a round stands in which there is no place for us yet
    WORKERS_STARTED = "workers_started"
    WORKERS_READY = "workers_ready"  # by their probes, after all were started
    WORKERS_SUCCEEDED = "workers_succeeded"  # every local worker exited well
    WORKER_FAILED = "worker_failed"  # the first local failure of a round
    PART_FAILED = "part_failed"  # a failure that concerns only this worker, or this node's workers
    WORKER_HUNG = "worker_hung"  # a local worker has exceeded its watchdog's limit
    WORKERS_STOPPED = "workers_stopped"  # no process of ours is left
    WORKERS_UNKILLABLE = "workers_unkillable"  # some survived SIGKILL for stop.kill_wait_s
    PROBE_FAILED = "probe_failed"  # a local worker did not come up in time, or is no longer alive
    PEER_FAILED = "peer_failed"  # another agent's failure ended the round
    ROUND_SUPERSEDED = "round_superseded"  # the membership changed: a member was lost, or more may join
    RESTART_DECIDED = "restart_decided"
    ROUND_REPEATED = "round_repeated"  # everyone succeeded, and restart=always wants another round
    BACKOFF_ELAPSED = "backoff_elapsed"
    RUN_CLOSED = "run_closed"  # the group's outcome is known
    LEASE_LOST = "lease_lost"  # the group no longer counts us as a member
    GUARD_LOST = "guard_lost"  # the guard died, and our workers with it
    RENDEZVOUS_FAILED = "rendezvous_failed"  # timeout, refusal, or the server is gone for good
    STOP_REQUESTED = "stop_requested"
    PREEMPTED = "preempted"
    DRAINED = "drained"  # an operator wishes that this node leaves; the others go on
    RUN_LEFT = "run_left"  # the last word to the group was said


class Effect(StrEnum):
    """What to do about it. The agent performs effects; what they learn comes back as events."""

    AWAIT_DEPENDENCIES = "await_dependencies"
    RUN_PREFLIGHT = "run_preflight"
    JOIN_ROUND = "join_round"
    AWAIT_SEAT = "await_seat"
    START_WORKERS = "start_workers"
    REPLACE_WORKERS = "replace_workers"  # those that a failure concerns, within the round
    STOP_WORKERS = "stop_workers"
    KILL_WORKERS = "kill_workers"
    REVIVE_GUARD = "revive_guard"
    REPORT_FAILURE = "report_failure"
    REPORT_SUCCESS = "report_success"
    REPORT_LEVEL = "report_level"  # how far the workers have come, for roles that wait for this one
    AWAIT_DECISION = "await_decision"
    START_BACKOFF = "start_backoff"
    LEAVE_RUN = "leave_run"


class Guard(StrEnum):
    """A condition on the facts that an event carries. Guards of one family exclude each other and leave no gap."""

    ENDS_SUCCEEDED = "ends_succeeded"
    ENDS_FAILED = "ends_failed"
    ENDS_STOPPED = "ends_stopped"


class Outcome(StrEnum):
    """How a run ended, for all of its agents."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


class WorkerState(StrEnum):
    """torchelastic's view of a worker group's state. Its UNKNOWN has no equal: that is a bug, and raises."""

    INIT = "INIT"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


_VIEW: dict[State, WorkerState] = {
    State.HEALTHY: WorkerState.HEALTHY,
    State.STOPPING: WorkerState.UNHEALTHY,
    State.DRAINING: WorkerState.UNHEALTHY,
    State.DECIDING: WorkerState.STOPPED,
    State.BACKOFF: WorkerState.STOPPED,
    State.CLOSING: WorkerState.STOPPED,
    State.STOPPED: WorkerState.STOPPED,
    State.FINISHING: WorkerState.SUCCEEDED,
    State.SUCCEEDED: WorkerState.SUCCEEDED,
    State.FAILED: WorkerState.FAILED,
}


def worker_state(state: State) -> WorkerState:
    """The torchelastic view of ``state``; everything before the first workers run is INIT."""
    return _VIEW.get(state, WorkerState.INIT)
