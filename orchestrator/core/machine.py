"""The machine that runs a table. The only module that knows `transitions`.

`GroupMachine.step` is synchronous and does nothing to the world: it moves the state and says what to do and why.
An event without a row raises `IllegalEvent`, and the state has not moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import assert_never

from transitions import EventData, Machine, MachineError

from orchestrator.core.table import Row, Table
from orchestrator.core.words import FINAL, Effect, Event, Guard, Outcome, State
from orchestrator.errors import IllegalEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an event carries: its ``reason``, for people, and what guards look at."""

    reason: str = ""
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What a step decided. ``row`` is the row that fired."""

    row: Row
    effects: tuple[Effect, ...]
    reason: str


class _Position:
    """All that `transitions` needs of a model: where it is. Nothing is injected into it."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: str = State.INIT.value


class GroupMachine:
    """One worker group's machine, compiled from its table."""

    def __init__(self, rows: Table) -> None:
        self._position = _Position()
        self._fired: Row | None = None
        states = [state.value for state in State if any(state in (row.source, row.target) for row in rows)]
        self._machine = Machine(
            model=None, states=states, initial=State.INIT.value, auto_transitions=False, send_event=True
        )
        for row in rows:
            self._machine.add_transition(
                row.event.value,
                row.source.value,
                row.target.value,
                conditions=None if row.guard is None else partial(_admits, row.guard),
                after=partial(self._record, row),
            )

    @property
    def state(self) -> State:
        """Where the group is."""
        return State(self._position.state)

    @property
    def final(self) -> bool:
        """Whether the machine has ended."""
        return self.state in FINAL

    def step(self, event: Event, facts: Facts | None = None) -> Step:
        """Take one event; raises `IllegalEvent` if no row admits it."""
        facts = facts or Facts()
        before, self._fired = self.state, None
        trigger = self._machine.events.get(event.value)
        try:
            if trigger is not None:
                trigger.trigger(self._position, facts)
        except MachineError as error:
            raise IllegalEvent(before, event) from error
        if self._fired is None:
            raise IllegalEvent(before, event)
        return Step(self._fired, self._fired.effects, facts.reason or event.value.replace("_", " "))

    def _record(self, row: Row, _: EventData) -> None:
        self._fired = row


def holds(guard: Guard, facts: Facts) -> bool:
    """Whether ``guard`` is true of ``facts``."""
    match guard:
        case Guard.ENDS_SUCCEEDED:
            return facts.outcome is Outcome.SUCCEEDED
        case Guard.ENDS_FAILED:
            return facts.outcome is Outcome.FAILED
        case Guard.ENDS_STOPPED:
            return facts.outcome is Outcome.STOPPED
        case _:
            assert_never(guard)


def _admits(guard: Guard, data: EventData) -> bool:
    (facts,) = data.args
    return holds(guard, facts)
