"""The machine as data: one block of rows per feature, and `build`, which picks the blocks that a job uses.

What leads where is said here and nowhere else. A feature that the configuration does not use contributes no row, so
the table of a job shows exactly what can happen to it. A row whose target is its own source is a decision too: the
event may arrive there, and changes nothing but for its effects.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.core.policies import RestartKind
from orchestrator.core.restart import excludes, judges_first, narrows
from orchestrator.core.specs import GroupSpec
from orchestrator.core.words import FINAL, Effect, Event, Guard, State

S, E, F, G = State, Event, Effect, Guard


@dataclass(frozen=True, slots=True)
class Row:
    """In ``source``, on ``event``, if ``guard`` holds: go to ``target`` and do ``effects``, in order."""

    source: State
    event: Event
    target: State
    effects: tuple[Effect, ...] = ()
    guard: Guard | None = None


Table = tuple[Row, ...]

CORE: Table = (
    #   in            on                      go to          and do                                  if
    Row(S.INIT,       E.AGENT_STARTED,        S.RENDEZVOUS,  (F.JOIN_ROUND,)),
    Row(S.RENDEZVOUS, E.ROUND_SETTLED,        S.STARTING,    (F.START_WORKERS,)),
    Row(S.STARTING,   E.WORKERS_STARTED,      S.HEALTHY),
    Row(S.STARTING,   E.WORKER_FAILED,        S.STOPPING,    (F.REPORT_FAILURE, F.STOP_WORKERS)),
    Row(S.HEALTHY,    E.WORKER_FAILED,        S.STOPPING,    (F.REPORT_FAILURE, F.STOP_WORKERS)),
    Row(S.HEALTHY,    E.WORKERS_SUCCEEDED,    S.FINISHING,   (F.REPORT_SUCCESS,)),
    Row(S.STOPPING,   E.WORKERS_STOPPED,      S.DECIDING,    (F.AWAIT_DECISION,)),
    Row(S.STOPPING,   E.WORKER_FAILED,        S.STOPPING,    (F.REPORT_FAILURE,)),
    Row(S.DECIDING,   E.RUN_CLOSED,           S.CLOSING,     (F.LEAVE_RUN,)),
    Row(S.FINISHING,  E.RUN_CLOSED,           S.CLOSING,     (F.LEAVE_RUN,)),
    Row(S.CLOSING,    E.WORKERS_STOPPED,      S.CLOSING,     (F.LEAVE_RUN,)),
    Row(S.CLOSING,    E.WORKERS_UNKILLABLE,   S.CLOSING,     (F.LEAVE_RUN,)),
    Row(S.CLOSING,    E.GUARD_LOST,           S.CLOSING,     (F.REVIVE_GUARD, F.LEAVE_RUN)),
    Row(S.CLOSING,    E.RUN_LEFT,             S.SUCCEEDED,   (),                                     G.ENDS_SUCCEEDED),
    Row(S.CLOSING,    E.RUN_LEFT,             S.FAILED,      (),                                     G.ENDS_FAILED),
    Row(S.CLOSING,    E.RUN_LEFT,             S.STOPPED,     (),                                     G.ENDS_STOPPED),
)  # fmt: skip
"""What every job needs: meet, start, watch, stop, and end with the group's outcome."""

MEMBERSHIP: Table = (
    Row(S.STARTING,   E.LEASE_LOST,           S.DRAINING,    (F.STOP_WORKERS,)),
    Row(S.HEALTHY,    E.LEASE_LOST,           S.DRAINING,    (F.STOP_WORKERS,)),
    Row(S.RENDEZVOUS, E.LEASE_LOST,           S.RENDEZVOUS,  (F.JOIN_ROUND,)),
    Row(S.DECIDING,   E.LEASE_LOST,           S.RENDEZVOUS,  (F.JOIN_ROUND,)),
    Row(S.FINISHING,  E.LEASE_LOST,           S.RENDEZVOUS,  (F.JOIN_ROUND,)),
    Row(S.STOPPING,   E.LEASE_LOST,           S.STOPPING),
    Row(S.DRAINING,   E.LEASE_LOST,           S.DRAINING),
    Row(S.DRAINING,   E.WORKERS_STOPPED,      S.RENDEZVOUS,  (F.JOIN_ROUND,)),
    Row(S.DRAINING,   E.WORKER_FAILED,        S.DRAINING),
    Row(S.CLOSING,    E.LEASE_LOST,           S.CLOSING),
    Row(S.STARTING,   E.ROUND_SUPERSEDED,     S.DRAINING,    (F.STOP_WORKERS,)),
    Row(S.HEALTHY,    E.ROUND_SUPERSEDED,     S.DRAINING,    (F.STOP_WORKERS,)),
    Row(S.DECIDING,   E.ROUND_SUPERSEDED,     S.RENDEZVOUS,  (F.JOIN_ROUND,)),
    Row(S.FINISHING,  E.ROUND_SUPERSEDED,     S.RENDEZVOUS,  (F.JOIN_ROUND,)),
    Row(S.STOPPING,   E.ROUND_SUPERSEDED,     S.STOPPING),
    Row(S.DRAINING,   E.ROUND_SUPERSEDED,     S.DRAINING),
    Row(S.CLOSING,    E.ROUND_SUPERSEDED,     S.CLOSING),
)  # fmt: skip
"""The membership changed, or no longer counts us: even an only member can be forgotten, or be taken for dead."""

STANDBY: Table = (
    Row(S.RENDEZVOUS, E.STOOD_BY,             S.STANDBY,     (F.AWAIT_SEAT,)),
    Row(S.STANDBY,    E.ROUND_SETTLED,        S.STARTING,    (F.START_WORKERS,)),
    Row(S.STANDBY,    E.LEASE_LOST,           S.RENDEZVOUS,  (F.JOIN_ROUND,)),
    Row(S.STANDBY,    E.GUARD_LOST,           S.STANDBY,     (F.REVIVE_GUARD,)),
)  # fmt: skip
"""There may be more agents than places: by ``MIN:MAX`` while a round below MAX runs, or as spares."""

PEERS: Table = (
    Row(S.STARTING,   E.PEER_FAILED,          S.STOPPING,    (F.STOP_WORKERS,)),
    Row(S.HEALTHY,    E.PEER_FAILED,          S.STOPPING,    (F.STOP_WORKERS,)),
    Row(S.FINISHING,  E.PEER_FAILED,          S.DECIDING,    (F.AWAIT_DECISION,)),
    Row(S.STOPPING,   E.PEER_FAILED,          S.STOPPING),
    Row(S.DRAINING,   E.PEER_FAILED,          S.DRAINING),
    Row(S.DECIDING,   E.PEER_FAILED,          S.DECIDING),
    Row(S.CLOSING,    E.PEER_FAILED,          S.CLOSING),
)  # fmt: skip
"""Several nodes: another agent's failure ends the round for all."""

RESTART: Table = (
    Row(S.DECIDING,   E.RESTART_DECIDED,      S.BACKOFF,     (F.START_BACKOFF,)),
    Row(S.BACKOFF,    E.BACKOFF_ELAPSED,      S.RENDEZVOUS,  (F.JOIN_ROUND,)),
    Row(S.BACKOFF,    E.LEASE_LOST,           S.BACKOFF),
    Row(S.BACKOFF,    E.ROUND_SUPERSEDED,     S.BACKOFF),
    Row(S.BACKOFF,    E.GUARD_LOST,           S.BACKOFF,     (F.REVIVE_GUARD,)),
)  # fmt: skip
"""The group may be started again after a failure."""

RESTART_PEERS: Table = (
    Row(S.BACKOFF,    E.PEER_FAILED,          S.BACKOFF),
)  # fmt: skip
"""Word of the same ended round may reach an agent that already waits to be restarted."""

RESTART_AT_ONCE: Table = (
    Row(S.DECIDING,   E.RESTART_DECIDED,      S.RENDEZVOUS,  (F.JOIN_ROUND,)),
)  # fmt: skip
"""The same without a delay: there is no BACKOFF to be in."""

REPEAT: Table = (
    Row(S.FINISHING,  E.ROUND_REPEATED,       S.DECIDING,    (F.AWAIT_DECISION,)),
    Row(S.DECIDING,   E.ROUND_REPEATED,       S.DECIDING),
    Row(S.CLOSING,    E.ROUND_REPEATED,       S.CLOSING),
)  # fmt: skip
"""restart=always: a round in which everyone succeeded is followed by another."""

GUARD: Table = (
    Row(S.STARTING,   E.GUARD_LOST,           S.DECIDING,    (F.REVIVE_GUARD, F.REPORT_FAILURE, F.AWAIT_DECISION)),
    Row(S.HEALTHY,    E.GUARD_LOST,           S.DECIDING,    (F.REVIVE_GUARD, F.REPORT_FAILURE, F.AWAIT_DECISION)),
    Row(S.STOPPING,   E.GUARD_LOST,           S.DECIDING,    (F.REVIVE_GUARD, F.AWAIT_DECISION)),
    Row(S.DRAINING,   E.GUARD_LOST,           S.RENDEZVOUS,  (F.REVIVE_GUARD, F.JOIN_ROUND)),
    Row(S.INIT,       E.GUARD_LOST,           S.INIT,        (F.REVIVE_GUARD,)),
    Row(S.RENDEZVOUS, E.GUARD_LOST,           S.RENDEZVOUS,  (F.REVIVE_GUARD,)),
    Row(S.DECIDING,   E.GUARD_LOST,           S.DECIDING,    (F.REVIVE_GUARD,)),
    Row(S.FINISHING,  E.GUARD_LOST,           S.FINISHING,   (F.REVIVE_GUARD,)),
)  # fmt: skip
"""The guard's death takes the workers with it; a new guard is started in any state, if only to clean up."""

REPEAT_WAITS: Table = (
    Row(S.BACKOFF,    E.ROUND_REPEATED,       S.BACKOFF),
)  # fmt: skip
"""The same word, come late."""

PROBES: Table = (
    Row(S.STARTING,   E.PROBE_FAILED,         S.STOPPING,    (F.REPORT_FAILURE, F.STOP_WORKERS)),
    Row(S.HEALTHY,    E.PROBE_FAILED,         S.STOPPING,    (F.REPORT_FAILURE, F.STOP_WORKERS)),
    Row(S.STOPPING,   E.PROBE_FAILED,         S.STOPPING,    (F.REPORT_FAILURE,)),
    Row(S.DRAINING,   E.PROBE_FAILED,         S.DRAINING),
    Row(S.DECIDING,   E.PROBE_FAILED,         S.DECIDING),
    Row(S.CLOSING,    E.PROBE_FAILED,         S.CLOSING),
)  # fmt: skip
"""A worker that a startup or liveness probe gives up has failed. The guard's death may overtake that news."""

WATCHDOG: Table = (
    Row(S.STARTING,   E.WORKER_HUNG,          S.STOPPING,    (F.REPORT_FAILURE, F.STOP_WORKERS)),
    Row(S.HEALTHY,    E.WORKER_HUNG,          S.STOPPING,    (F.REPORT_FAILURE, F.STOP_WORKERS)),
    Row(S.STOPPING,   E.WORKER_HUNG,          S.STOPPING,    (F.REPORT_FAILURE,)),
    Row(S.DRAINING,   E.WORKER_HUNG,          S.DRAINING),
    Row(S.DECIDING,   E.WORKER_HUNG,          S.DECIDING),
    Row(S.CLOSING,    E.WORKER_HUNG,          S.CLOSING),
)  # fmt: skip
"""A worker that hangs has failed. The guard's death may overtake the news, which is of no use any more then."""

PARTS: Table = (
    Row(S.STARTING,   E.PART_FAILED,          S.STARTING,    (F.REPLACE_WORKERS,)),
    Row(S.HEALTHY,    E.PART_FAILED,          S.STARTING,    (F.REPLACE_WORKERS,)),
    Row(S.STOPPING,   E.PART_FAILED,          S.STOPPING),
    Row(S.DRAINING,   E.PART_FAILED,          S.DRAINING),
    Row(S.DECIDING,   E.PART_FAILED,          S.DECIDING),
    Row(S.CLOSING,    E.PART_FAILED,          S.CLOSING),
)  # fmt: skip
"""restart.scope: a failure may concern less than the group, which keeps its round."""

JUDGED: Table = (
    Row(S.DECIDING,   E.WORKER_FAILED,        S.DECIDING),
    Row(S.DECIDING,   E.WORKERS_STARTED,      S.DECIDING),
    Row(S.DECIDING,   E.WORKERS_SUCCEEDED,    S.DECIDING),
)  # fmt: skip
"""A failure is judged before anybody hears of it, so that the guard's death may overtake the news."""

EXCLUDED: Table = (
    Row(S.DECIDING,   E.NODE_UNFIT,           S.CLOSING,     (F.LEAVE_RUN,)),
)  # fmt: skip
"""A rule may exclude the node on which a worker failed."""

DEPENDENCIES: Table = (
    Row(S.WAITING,    E.DEPENDENCY_FAILED,    S.CLOSING,     (F.LEAVE_RUN,)),
    Row(S.WAITING,    E.LEASE_LOST,           S.WAITING),
    Row(S.WAITING,    E.GUARD_LOST,           S.WAITING,     (F.REVIVE_GUARD,)),
)  # fmt: skip
"""Other roles come first: `_through` leads all ways to a round here."""

NEEDED: Table = (
    Row(S.STARTING,   E.WORKERS_READY,        S.STARTING),
    Row(S.HEALTHY,    E.WORKERS_READY,        S.HEALTHY,     (F.REPORT_LEVEL,)),
    Row(S.STOPPING,   E.WORKERS_READY,        S.STOPPING),
    Row(S.DRAINING,   E.WORKERS_READY,        S.DRAINING),
    Row(S.DECIDING,   E.WORKERS_READY,        S.DECIDING),
    Row(S.CLOSING,    E.WORKERS_READY,        S.CLOSING),
)  # fmt: skip
"""Another role waits until the workers of this one are ready, by their probes."""

PREFLIGHT: Table = (
    Row(S.PREFLIGHT,  E.PREFLIGHT_PASSED,     S.RENDEZVOUS,  (F.JOIN_ROUND,)),
    Row(S.PREFLIGHT,  E.PREFLIGHT_FAILED,     S.PREFLIGHT,   (F.RUN_PREFLIGHT,)),
    Row(S.PREFLIGHT,  E.NODE_UNFIT,           S.CLOSING,     (F.LEAVE_RUN,)),
    Row(S.PREFLIGHT,  E.LEASE_LOST,           S.PREFLIGHT),
    Row(S.PREFLIGHT,  E.GUARD_LOST,           S.PREFLIGHT,   (F.REVIVE_GUARD, F.RUN_PREFLIGHT)),
)  # fmt: skip
"""This node is looked at before each join: `_through` leads all ways to a round here first."""

_STARTED = Row(S.STARTING, E.WORKERS_STARTED, S.HEALTHY)

BUSY: frozenset[State] = frozenset({S.STARTING, S.HEALTHY})  # workers run and nobody stops them yet
ENDING: frozenset[State] = frozenset({S.STOPPING, S.DRAINING})  # workers are being stopped

STOP_EVENTS: frozenset[Event] = frozenset({E.STOP_REQUESTED, E.PREEMPTED, E.DRAINED, E.RUN_CLOSED, E.RENDEZVOUS_FAILED})
"""What ends a run, or our part in it, from any state. They mask dead ends, so the verification does not count them."""


def build(spec: GroupSpec, *, preempt: bool = False) -> Table:
    """The table of this group: the core, and a block for each feature that its configuration uses."""
    rows = [*CORE, *MEMBERSHIP, *GUARD]
    if spec.spare_nodes > 0 or spec.max_nodes > spec.min_nodes:
        rows += STANDBY
    if spec.max_nodes > 1:
        rows += PEERS
    if spec.watchdog.can_fail:
        rows += WATCHDOG
    if spec.restart.kind is not RestartKind.NEVER:
        rows += _restart_blocks(spec)
    if spec.probes is not None and spec.probes.can_fail:
        rows += PROBES
    if spec.needed:
        rows = [replace(row, effects=(F.REPORT_LEVEL,)) if row == _STARTED else row for row in rows]
        rows += NEEDED if spec.probes is not None else ()
    if spec.preflight is not None:
        rows = [_through(S.PREFLIGHT, F.RUN_PREFLIGHT, F.JOIN_ROUND, row) for row in rows]
    if spec.depends_on:
        first = F.JOIN_ROUND if spec.preflight is None else F.RUN_PREFLIGHT
        rows = [_through(S.WAITING, F.AWAIT_DEPENDENCIES, first, row) for row in rows]
        state = S.RENDEZVOUS if spec.preflight is None else S.PREFLIGHT
        rows += (Row(S.WAITING, E.DEPENDENCIES_MET, state, (first,)), *DEPENDENCIES)
    if spec.preflight is not None:
        rows += PREFLIGHT
    states = {state for row in rows for state in (row.source, row.target)}
    return (*rows, *_endings(rows, [state for state in State if state in states and state not in FINAL], preempt))


def _through(state: State, effect: Effect, instead_of: Effect, row: Row) -> Row:
    """The same row, with a stay in ``state`` before what it orders now."""
    if instead_of not in row.effects:
        return row
    return replace(row, target=state, effects=tuple(effect if one is instead_of else one for one in row.effects))


def _restart_blocks(spec: GroupSpec) -> Iterable[Row]:
    """What a restart needs: a wait if there is a backoff, peers if there are any, repetition if it is wished."""
    waits, always = spec.restart.backoff.max_s > 0, spec.restart.kind is RestartKind.ALWAYS
    yield from RESTART if waits else RESTART_AT_ONCE
    if judges_first(spec.restart):
        yield from JUDGED
    if narrows(spec.restart):
        yield from PARTS
    if excludes(spec.restart):
        yield from EXCLUDED
    if waits and spec.max_nodes > 1:
        yield from RESTART_PEERS
    if always:
        yield from REPEAT
    if waits and always:
        yield from REPEAT_WAITS


def _endings(rows: Iterable[Row], states: Iterable[State], preempt: bool) -> list[Row]:
    """For every state: how it is left when the run must end, unless a block has said so already."""
    known = {(row.source, row.event) for row in rows}
    events = [E.STOP_REQUESTED, E.DRAINED, E.RUN_CLOSED, E.RENDEZVOUS_FAILED, *([E.PREEMPTED] if preempt else [])]
    made = [
        Row(state, event, S.CLOSING, _closing_effects(state, event))
        for state in states
        for event in events
        if (state, event) not in known
    ]
    made += [Row(state, E.WORKERS_UNKILLABLE, S.CLOSING, (F.LEAVE_RUN,)) for state in states if state in ENDING]
    made += [Row(S.CLOSING, E.WORKER_FAILED, S.CLOSING)]
    late = (E.WORKERS_STARTED, E.WORKERS_SUCCEEDED)  # reported before the stop, heard after it
    made += [Row(state, event, state) for state in (*sorted(ENDING), S.CLOSING) for event in late]
    return made


def _closing_effects(state: State, event: Event) -> tuple[Effect, ...]:
    """Workers that run are stopped first; a stop under way goes on, and its end says the last word to the group."""
    if state is S.CLOSING:
        return (F.KILL_WORKERS,) if event is E.STOP_REQUESTED else ()
    if state in BUSY:
        return (F.STOP_WORKERS,)
    return () if state in ENDING else (F.LEAVE_RUN,)
