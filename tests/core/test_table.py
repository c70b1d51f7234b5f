"""The table, exhaustively: every state, every event, every guard, of every kind of configuration."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from orchestrator.core.graph import mermaid, text
from orchestrator.core.health import ProbeSpec, ProbesPolicy, ProbeWay
from orchestrator.core.machine import Facts, GroupMachine
from orchestrator.core.policies import RestartKind, Rule, RuleAction, Scope, WatchdogKind
from orchestrator.core.specs import GroupSpec, Need
from orchestrator.core.table import CORE, Row, Table, build
from orchestrator.core.verify import verify
from orchestrator.core.words import FINAL, Effect, Event, Outcome, State
from orchestrator.errors import IllegalEvent
from tests.core.specs import AT_ONCE, BACKOFF, group

EXCLUDES, IGNORES = Rule(action=RuleAction.EXCLUDE_NODE), Rule(action=RuleAction.IGNORE)
CONFIGS = [
    (
        group(
            kind,
            nodes=(low, high),
            spares=spares,
            backoff=backoff,
            preflight=health,
            probes=health,
            watchdog=watchdog,
            depends_on={"data": Need.HEALTHY} if roles else {},
            needed=roles,
            scope=scope,
            rules=rules,
        ),
        preempt,
    )
    for kind, (low, high, spares), backoff, preempt, health, watchdog, roles, (scope, rules) in product(
        RestartKind,
        ((1, 1, 0), (2, 2, 0), (1, 4, 0), (1, 1, 1), (2, 2, 1)),
        (BACKOFF, AT_ONCE),
        (False, True),
        (False, True),
        (WatchdogKind.OBSERVE, WatchdogKind.HEARTBEAT),
        (False, True),
        ((Scope.GROUP, ()), (Scope.WORKER, (EXCLUDES,)), (Scope.GROUP, (IGNORES,))),
    )
    if not rules or not (roles or preempt)  # which have nothing to do with each other
]
READINESS = ProbesPolicy(readiness=ProbeSpec(way=ProbeWay.TCP, port="1"))
CONFIGS += [
    (replace(group(needed=True, watchdog=WatchdogKind.OBSERVE), probes=READINESS), False),
    (group(depends_on={"data": Need.HEALTHY}, watchdog=WatchdogKind.OBSERVE), False),
]
IDS = [
    f"{spec.restart.kind}-{spec.min_nodes}:{spec.max_nodes}+{spec.spare_nodes}-{spec.restart.backoff.max_s:g}s-{preempt}"
    f"{'-health' if spec.preflight else ''}-{spec.watchdog.kind}{'-roles' if spec.needed else ''}"
    f"-{spec.restart.scope}{''.join(f'-{rule.action}' for rule in spec.restart.rules)}"
    for spec, preempt in CONFIGS
]


def states(rows: Table) -> set[State]:
    return {state for row in rows for state in (row.source, row.target)}


@pytest.mark.parametrize(("spec", "preempt"), CONFIGS, ids=IDS)
def test_every_state_event_and_guard_is_a_row_or_an_illegal_event(spec: GroupSpec, preempt: bool) -> None:
    rows = build(spec, preempt=preempt)
    known = {(row.source, row.event): row for row in rows if row.guard is None}
    guarded = {(row.source, row.event) for row in rows if row.guard is not None}
    machine = GroupMachine(rows)
    for state, event, outcome in product(states(rows), Event, Outcome):
        machine._position.state = state.value
        if (state, event) in known:
            step = machine.step(event, Facts(outcome=outcome))
            assert step.row == known[state, event]
            assert machine.state is step.row.target
        elif (state, event) in guarded:
            machine.step(event, Facts(outcome=outcome))
            assert (
                machine.state
                is {"succeeded": State.SUCCEEDED, "failed": State.FAILED, "stopped": State.STOPPED}[outcome]
            )
        else:
            with pytest.raises(IllegalEvent):
                machine.step(event, Facts(outcome=outcome))
            assert machine.state is state, "an illegal event must not move the machine"


@pytest.mark.parametrize(("spec", "preempt"), CONFIGS, ids=IDS)
def test_every_configuration_compiles_to_a_sound_table(spec: GroupSpec, preempt: bool) -> None:
    assert verify(build(spec, preempt=preempt)) == []


@pytest.mark.parametrize(("spec", "preempt"), CONFIGS, ids=IDS)
def test_workers_are_stopped_before_a_run_is_left(spec: GroupSpec, preempt: bool) -> None:
    with_workers = {State.STARTING, State.HEALTHY}
    for row in build(spec, preempt=preempt):
        if row.source in with_workers and row.target not in {*with_workers, State.FINISHING, State.DECIDING}:
            assert Effect.STOP_WORKERS in row.effects, row


@pytest.mark.parametrize(("spec", "preempt"), CONFIGS, ids=IDS)
def test_a_part_that_failed_keeps_the_round_or_comes_too_late(spec: GroupSpec, preempt: bool) -> None:
    rows = [row for row in build(spec, preempt=preempt) if row.event is Event.PART_FAILED]
    replaced = {(row.source, row.target) for row in rows if row.effects == (Effect.REPLACE_WORKERS,)}
    narrow = spec.restart.scope is not Scope.GROUP and spec.restart.kind is not RestartKind.NEVER
    assert replaced == ({(one, State.STARTING) for one in (State.STARTING, State.HEALTHY)} if narrow else set())
    late = [row for row in rows if row.effects != (Effect.REPLACE_WORKERS,)]
    assert all(row.target is row.source and not row.effects for row in late)


@pytest.mark.parametrize(("spec", "preempt"), CONFIGS, ids=IDS)
def test_a_node_can_be_drained_in_every_state_and_that_kills_nothing(spec: GroupSpec, preempt: bool) -> None:
    rows = build(spec, preempt=preempt)
    drained = {row.source: row for row in rows if row.event is Event.DRAINED}
    assert set(drained) == states(rows) - FINAL
    assert {row.target for row in drained.values()} == {State.CLOSING}
    assert not any(Effect.KILL_WORKERS in row.effects for row in drained.values())


@pytest.mark.parametrize(("spec", "preempt"), CONFIGS, ids=IDS)
def test_a_lost_guard_is_replaced_in_every_state(spec: GroupSpec, preempt: bool) -> None:
    rows = build(spec, preempt=preempt)
    revived = {row.source for row in rows if row.event is Event.GUARD_LOST and Effect.REVIVE_GUARD in row.effects}
    assert revived == states(rows) - FINAL, "only another guard knows what the dead one has left"


@pytest.mark.parametrize(("spec", "preempt"), CONFIGS, ids=IDS)
def test_no_round_is_joined_but_after_a_look_at_the_node_where_that_is_wished(spec: GroupSpec, preempt: bool) -> None:
    joins = [row for row in build(spec, preempt=preempt) if Effect.JOIN_ROUND in row.effects]
    looked = {(row.source, row.event) for row in joins} == {(State.PREFLIGHT, Event.PREFLIGHT_PASSED)}
    assert looked is (spec.preflight is not None)


@pytest.mark.parametrize(("spec", "preempt"), CONFIGS, ids=IDS)
def test_a_role_that_depends_on_others_waits_before_it_looks_at_the_node_or_joins(
    spec: GroupSpec, preempt: bool
) -> None:
    rows = build(spec, preempt=preempt)
    first = {(row.target, row.effects) for row in rows if row.event is Event.AGENT_STARTED}
    waits = (State.WAITING, (Effect.AWAIT_DEPENDENCIES,))
    assert (first == {waits}) is bool(spec.depends_on)
    met = [row.effects for row in rows if row.event is Event.DEPENDENCIES_MET]
    expected = Effect.RUN_PREFLIGHT if spec.preflight else Effect.JOIN_ROUND
    assert met == ([(expected,)] if spec.depends_on else [])


@pytest.mark.parametrize(("spec", "preempt"), CONFIGS, ids=IDS)
def test_only_a_role_that_others_need_tells_how_far_it_has_come(spec: GroupSpec, preempt: bool) -> None:
    told = {row.event for row in build(spec, preempt=preempt) if Effect.REPORT_LEVEL in row.effects}
    ready = {Event.WORKERS_READY} if spec.probes else set()
    assert told == ({Event.WORKERS_STARTED, *ready} if spec.needed else set())


def test_an_unused_feature_leaves_no_row() -> None:
    never = build(group(RestartKind.NEVER))
    assert State.BACKOFF not in states(never)
    assert not any(row.event in {Event.RESTART_DECIDED, Event.PEER_FAILED, Event.PREEMPTED} for row in never)
    assert State.BACKOFF not in states(build(group(backoff=AT_ONCE)))
    assert any(row.event is Event.PEER_FAILED for row in build(group(nodes=(2, 2))))
    assert any(row.event is Event.PREEMPTED for row in build(group(), preempt=True))
    assert not any(row.event is Event.ROUND_REPEATED for row in build(group()))
    assert any(row.event is Event.ROUND_REPEATED for row in build(group(RestartKind.ALWAYS)))
    assert State.WAITING not in states(build(group()))
    for word in (Event.PART_FAILED, Event.NODE_UNFIT):
        assert not any(row.event is word for row in build(group()))
    assert (State.DECIDING, Event.WORKER_FAILED) not in {(row.source, row.event) for row in build(group())}
    assert any(row.event is Event.PART_FAILED for row in build(group(scope=Scope.NODE)))
    assert not any(row.event is Event.PART_FAILED for row in build(group(RestartKind.NEVER, scope=Scope.NODE)))
    assert any(row.event is Event.NODE_UNFIT for row in build(group(rules=(EXCLUDES,))))
    assert State.PREFLIGHT not in states(build(group()))
    assert State.PREFLIGHT not in states(build(group(probes=True)))
    assert not any(row.event is Event.PROBE_FAILED for row in build(group(preflight=True)))
    for kind in WatchdogKind:
        kills = kind in {WatchdogKind.TIMER, WatchdogKind.HEARTBEAT, WatchdogKind.SECTIONS}
        assert any(row.event is Event.WORKER_HUNG for row in build(group(watchdog=kind))) is kills
    assert State.STANDBY not in states(build(group(nodes=(2, 2))))
    assert State.STANDBY in states(build(group(nodes=(2, 2), spares=1)))
    assert State.STANDBY in states(build(group(nodes=(1, 4))))


def test_every_word_is_used_by_some_configuration() -> None:
    rows = [row for spec, preempt in CONFIGS for row in build(spec, preempt=preempt)]
    assert {row.event for row in rows} == set(Event)
    assert {effect for row in rows for effect in row.effects} == set(Effect)
    assert {state for row in rows for state in (row.source, row.target)} == set(State)


ROW = {(row.source, row.event): row for row in CORE}
SOUND = build(group())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((*SOUND, Row(State.SUCCEEDED, Event.WORKER_FAILED, State.FAILED)), "final state SUCCEEDED has a row for"),
        ((*SOUND, Row(State.INIT, Event.AGENT_STARTED, State.HEALTHY)), "rows for agent_started in INIT compete"),
        (tuple(row for row in SOUND if row.source is not State.BACKOFF), "state BACKOFF leads to no final state"),
        (tuple(row for row in SOUND if row.target is not State.DRAINING), "state DRAINING cannot be reached"),
        (
            tuple(row for row in SOUND if (row.source, row.event) != (State.HEALTHY, Event.STOP_REQUESTED)),
            "state HEALTHY does not accept stop_requested",
        ),
        (
            (*SOUND, next(row for row in SOUND if row.target is State.STOPPED)),
            "rows for run_left in CLOSING compete, or their guards leave a gap",
        ),
        (
            tuple(row for row in SOUND if row.target is not State.STOPPED),
            "rows for run_left in CLOSING compete, or their guards leave a gap",
        ),
    ],
)
def test_a_broken_table_is_found_out(rows: Table, said: str) -> None:
    assert any(said in problem for problem in verify(rows)), verify(rows)


def test_stop_rows_do_not_hide_a_dead_end() -> None:
    only_stops = tuple(row for row in SOUND if row.source is not State.STOPPING or row.event is Event.STOP_REQUESTED)
    assert any("STOPPING leads to no final state" in problem for problem in verify(only_stops))


def test_the_graph_shows_every_move_of_the_machine() -> None:
    drawing = mermaid(SOUND)
    everywhere = {Event.STOP_REQUESTED, Event.DRAINED, Event.RENDEZVOUS_FAILED}
    for row in SOUND:
        if row.source is not row.target and row.event not in everywhere:
            drawn = f"{row.source} --> {row.target}: " in drawing and row.event in drawing
            assert drawn or row.event is Event.RUN_CLOSED, row
    assert drawing.startswith("stateDiagram-v2\n    [*] --> INIT\n")


def test_the_text_has_one_line_a_row() -> None:
    assert len(text(SOUND).splitlines()) == len(SOUND) + 1


def test_a_row_is_data() -> None:
    assert replace(ROW[State.INIT, Event.AGENT_STARTED], target=State.HEALTHY).target is State.HEALTHY
    assert {State.SUCCEEDED, State.FAILED, State.STOPPED} == FINAL
