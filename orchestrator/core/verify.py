"""Proof, before anything runs, that a table cannot get stuck: what is checked is listed in `verify`.

Cheap enough for every start. It reads rows only; whether budgets can trip and rules can match is judged where those are
compiled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from orchestrator.core.table import STOP_EVENTS, Row, Table
from orchestrator.core.words import FINAL, Event, Guard, State

FAMILIES: tuple[frozenset[Guard], ...] = (
    frozenset({Guard.ENDS_SUCCEEDED, Guard.ENDS_FAILED, Guard.ENDS_STOPPED}),
)  # guards of a family exclude each other, and one of them always holds

_ANSWERS: frozenset[tuple[State, Event]] = frozenset(
    {(State.DECIDING, Event.RUN_CLOSED), (State.FINISHING, Event.RUN_CLOSED)}
)  # where the run's end is what the state waits for, and not an interruption


def verify(rows: Table) -> list[str]:
    """Every way in which ``rows`` could go wrong, in words; empty when the table is sound."""
    return [*_unreachable(rows), *_dead_ends(rows), *_competing(rows), *_unstoppable(rows), *_leaving_final(rows)]


def _unreachable(rows: Table) -> Iterable[str]:
    reached = _closure({State.INIT}, rows, lambda row: (row.source, row.target))
    for state in sorted(_states(rows) - reached):
        yield f"state {state} cannot be reached from INIT"


def _dead_ends(rows: Table) -> Iterable[str]:
    counted = [row for row in rows if row.event not in STOP_EVENTS or (row.source, row.event) in _ANSWERS]
    ending = _closure(set(FINAL), counted, lambda row: (row.target, row.source))
    for state in sorted(_states(rows) - ending):
        yield f"state {state} leads to no final state unless the run is stopped"


def _competing(rows: Table) -> Iterable[str]:
    choices: dict[tuple[State, Event], list[Guard | None]] = defaultdict(list)
    for row in rows:
        choices[row.source, row.event].append(row.guard)
    for (state, event), guards in choices.items():
        named = frozenset(guard for guard in guards if guard is not None)
        alone = guards == [None]
        if not alone and not (len(named) == len(guards) and named in FAMILIES):
            yield f"rows for {event} in {state} compete, or their guards leave a gap"


def _unstoppable(rows: Table) -> Iterable[str]:
    stoppable = {row.source for row in rows if row.event is Event.STOP_REQUESTED}
    for state in sorted(_states(rows) - FINAL - stoppable):
        yield f"state {state} does not accept {Event.STOP_REQUESTED}"


def _leaving_final(rows: Table) -> Iterable[str]:
    for row in rows:
        if row.source in FINAL:
            yield f"final state {row.source} has a row for {row.event}"


def _states(rows: Table) -> set[State]:
    return {state for row in rows for state in (row.source, row.target)}


def _closure(start: set[State], rows: Iterable[Row], edge: Callable[[Row], tuple[State, State]]) -> set[State]:
    found, grew = set(start), True
    while grew:
        grew = False
        for row in rows:
            here, there = edge(row)
            if here in found and there not in found:
                found.add(there)
                grew = True
    return found
