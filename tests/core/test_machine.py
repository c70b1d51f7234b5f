"""The machine under random histories: a small world answers its effects, and nothing it does may be illegal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.machine import Facts, GroupMachine
from orchestrator.core.policies import RestartKind, WatchdogKind
from orchestrator.core.specs import GroupSpec
from orchestrator.core.table import build
from orchestrator.core.words import FINAL, Effect, Event, Outcome, State
from orchestrator.errors import IllegalEvent
from tests.core.specs import AT_ONCE, BACKOFF, group


class World:
    """Workers, a guard and a server, as far as one agent can see them. Every answer is a choice of ``draw``.

    It answers an effect with one of the events that the real parts may answer with, and adds what may happen by itself.
    """

    def __init__(self, spec: GroupSpec, draw: st.DataObject) -> None:
        self.spec = spec
        self.draw = draw
        self.machine = GroupMachine(build(spec))
        self.charged = 0
        self.running = False
        self.outcome: Outcome | None = None
        self.inbox: list[Event] = [Event.AGENT_STARTED]
        self.failed_this_round = False
        self.most_charged = 0

    def choose(self, *options: Event) -> Event:
        return self.draw.draw(st.sampled_from(options))

    def close(self, outcome: Outcome, event: Event) -> None:
        self.outcome = self.outcome or outcome
        self.inbox.append(event)

    def happen(self) -> None:
        """Something that nobody ordered."""
        options = [Event.STOP_REQUESTED, Event.DRAINED, Event.LEASE_LOST, Event.GUARD_LOST, Event.RENDEZVOUS_FAILED]
        state = self.machine.state
        if state in {State.STARTING, State.HEALTHY}:
            options += [Event.WORKER_FAILED, Event.ROUND_SUPERSEDED]
            if self.spec.max_nodes > 1:
                options.append(Event.PEER_FAILED)
            if self.spec.watchdog.can_fail:
                options.append(Event.WORKER_HUNG)
        if state is State.INIT:
            options.remove(Event.LEASE_LOST)
        if state is State.BACKOFF and self.spec.max_nodes > 1:
            options.append(Event.PEER_FAILED)
        event = self.choose(*options)
        if event in {Event.STOP_REQUESTED, Event.DRAINED}:
            self.outcome = self.outcome or Outcome.STOPPED
        if event is Event.RENDEZVOUS_FAILED:
            self.outcome = self.outcome or Outcome.FAILED
        self.inbox.append(event)

    def decide(self) -> None:
        budget = self.spec.restart.budget.max
        if self.spec.restart.kind is RestartKind.NEVER or (budget is not None and self.charged >= budget):
            self.close(Outcome.FAILED, Event.RUN_CLOSED)
        else:
            self.charged += 1
            self.inbox.append(Event.RESTART_DECIDED)

    def answer(self, effect: Effect) -> None:
        match effect:
            case Effect.JOIN_ROUND:
                assert not self.running, "a round is joined only when the last one's workers are gone"
                self.inbox.append(Event.ROUND_SETTLED)
            case Effect.START_WORKERS:
                assert not self.running
                self.running = True
                self.inbox.append(self.choose(Event.WORKERS_STARTED, Event.WORKER_FAILED))
            case Effect.STOP_WORKERS:
                self.running = False
                self.inbox.append(Event.WORKERS_STOPPED)
            case Effect.AWAIT_DECISION:
                self.decide()
            case Effect.START_BACKOFF:
                self.inbox.append(Event.BACKOFF_ELAPSED)
            case Effect.REPORT_SUCCESS:
                if self.spec.restart.kind is RestartKind.ALWAYS and self.charged < (self.spec.restart.budget.max or 0):
                    self.inbox.append(Event.ROUND_REPEATED)
                else:
                    self.close(Outcome.SUCCEEDED, Event.RUN_CLOSED)
            case Effect.LEAVE_RUN:
                self.inbox.append(Event.RUN_LEFT)
            case Effect.REVIVE_GUARD:
                self.running = False
            case _:
                pass

    def step(self) -> None:
        event = self.inbox.pop(0)
        before = self.machine.state
        if event is Event.GUARD_LOST:
            self.running = False
        if _stale(event, before):
            return
        if before is State.HEALTHY and event is Event.WORKERS_SUCCEEDED:
            self.running = False
        step = self.machine.step(event, Facts(outcome=self.outcome))
        if self.machine.state is not before:
            self.inbox = [late for late in self.inbox if late not in SCOPED]
        for effect in step.effects:
            self.answer(effect)


SCOPED = {Event.ROUND_SETTLED, Event.BACKOFF_ELAPSED, Event.RESTART_DECIDED}  # dropped at the door after a move
OF_A_ROUND = {
    Event.WORKERS_STARTED,
    Event.WORKERS_SUCCEEDED,
    Event.WORKER_FAILED,
    Event.WORKER_HUNG,
    Event.WORKERS_STOPPED,
    Event.PEER_FAILED,
    Event.ROUND_SUPERSEDED,
    Event.ROUND_REPEATED,
}


def _stale(event: Event, state: State) -> bool:
    """What the agent's door would have dropped: word of a round that was left, or of workers that are gone."""
    if state in {State.INIT, State.RENDEZVOUS}:
        return event in OF_A_ROUND
    gone = {Event.WORKERS_STARTED, Event.WORKERS_SUCCEEDED, Event.WORKER_FAILED, Event.WORKERS_STOPPED}
    if event is Event.WORKER_HUNG:  # nothing takes time between the guard's death and our hearing of it
        return state in {State.BACKOFF, State.FINISHING}
    return state in {State.DECIDING, State.BACKOFF, State.FINISHING} and event in gone


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_history_is_illegal_and_a_stop_always_ends(data: st.DataObject) -> None:
    spec = group(
        data.draw(st.sampled_from(RestartKind)),
        nodes=data.draw(st.sampled_from([(1, 1), (1, 3)])),
        backoff=data.draw(st.sampled_from([BACKOFF, AT_ONCE])),
        budget=data.draw(st.integers(0, 3)),
        watchdog=data.draw(st.sampled_from([WatchdogKind.OBSERVE, WatchdogKind.TIMER])),
    )
    world = World(spec, data)
    for _ in range(data.draw(st.integers(0, 25))):
        if world.machine.final:
            break
        if not world.inbox or data.draw(st.booleans()):
            if world.machine.state is State.HEALTHY and data.draw(st.booleans()):
                world.inbox.append(Event.WORKERS_SUCCEEDED)
            else:
                world.happen()
        world.step()
        assert world.charged <= (spec.restart.budget.max or 0)
    world.close(Outcome.STOPPED, Event.STOP_REQUESTED)
    for _ in range(100):
        if world.machine.final or not world.inbox:
            break
        world.step()
    assert world.machine.state in FINAL


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(0, 5), st.sampled_from([RestartKind.ON_FAILURE, RestartKind.NEVER]))
def test_a_group_that_always_fails_ends_when_its_budget_does(
    data: st.DataObject, budget: int, kind: RestartKind
) -> None:
    world = World(group(kind, budget=budget), data)
    for _ in range(20 * (budget + 2)):
        if world.machine.final:
            break
        if not world.inbox:
            world.inbox.append(Event.WORKER_FAILED)
        world.step()
    assert world.machine.state is State.FAILED
    assert world.charged == (0 if kind is RestartKind.NEVER else budget)


def test_a_run_without_trouble_passes_through_the_states_in_order() -> None:
    machine = GroupMachine(build(group()))
    path = [machine.state]
    for event in (
        Event.AGENT_STARTED,
        Event.ROUND_SETTLED,
        Event.WORKERS_STARTED,
        Event.WORKERS_SUCCEEDED,
        Event.RUN_CLOSED,
        Event.RUN_LEFT,
    ):
        machine.step(event, Facts(outcome=Outcome.SUCCEEDED))
        path.append(machine.state)
    assert [str(state) for state in path] == (
        ["INIT", "RENDEZVOUS", "STARTING", "HEALTHY", "FINISHING", "CLOSING", "SUCCEEDED"]
    )


def test_an_illegal_event_names_itself_and_the_state() -> None:
    machine = GroupMachine(build(group()))
    with pytest.raises(IllegalEvent, match="no row for event 'worker_failed' in state 'INIT'"):
        machine.step(Event.WORKER_FAILED)
    assert machine.state is State.INIT


def test_a_step_gives_the_reason_it_was_told() -> None:
    machine = GroupMachine(build(group()))
    assert machine.step(Event.AGENT_STARTED, Facts(reason="because")).reason == "because"
