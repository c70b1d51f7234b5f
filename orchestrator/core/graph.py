"""The table drawn: mermaid for documents, aligned text for terminals."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.table import STOP_EVENTS, Row, Table
from orchestrator.core.words import FINAL, State


def mermaid(rows: Table) -> str:
    """A ``stateDiagram-v2``. Rows that change nothing are left out, and what ends a run from any state is one note."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.INIT}"]
    shown = [row for row in rows if row.source is not row.target and not _blanket(row)]
    edges: dict[tuple[State, State], list[str]] = {}
    for row in shown:
        label = row.event.value + (f" [{row.guard}]" if row.guard else "")
        edges.setdefault((row.source, row.target), []).append(label)
    lines += [f"    {source} --> {target}: {', '.join(labels)}" for (source, target), labels in edges.items()]
    lines += [f"    {state} --> [*]" for state in State if state in FINAL and any(row.target is state for row in rows)]
    everywhere = sorted({row.event.value for row in rows if row.event in STOP_EVENTS})
    lines += ["    note left of CLOSING", f"        from every state: {', '.join(everywhere)}", "    end note"]
    return "\n".join(lines) + "\n"


def text(rows: Table) -> str:
    """One aligned line a row, in the table's order."""
    cells = [
        (
            row.source.value,
            row.event.value,
            row.target.value,
            ", ".join(row.effects),
            row.guard.value if row.guard else "",
        )
        for row in rows
    ]
    head = ("in", "on", "go to", "and do", "if")
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(len(head))]
    return "\n".join(_aligned(line, widths) for line in [head, *cells]) + "\n"


def _aligned(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _blanket(row: Row) -> bool:
    """Whether the row only says that a run can be ended from here; the awaited end of a run is drawn."""
    return row.event in STOP_EVENTS and row.source not in (State.DECIDING, State.FINISHING)
