"""Every shipped configuration compiles to a table that tests/core drives exhaustively."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.plan import rows
from orchestrator.core.table import build
from tests.cli.invoke import Commands
from tests.core.test_table import CONFIGS

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SEVERAL = ("run_id=j1", "rendezvous.url=redis://127.0.0.1:6379")
DRIVEN = [json.dumps(rows(build(spec, preempt=preempt))) for spec, preempt in CONFIGS]


@pytest.mark.parametrize(
    "words",
    [
        *((f"recipe={name}", *(SEVERAL if name == "elastic" else ())) for name in RECIPES),
        *((f"restart={kind}", "--", "true") for kind in ("never", "on_failure", "always")),
        *((f"watchdog={kind}", "--", "true") for kind in ("disabled", "observe", "timer", "heartbeat")),
        (*SEVERAL, "nodes=2", "stop.preempt_signals=[USR1]", "--", "true"),
    ],
    ids=" ".join,
)
def test_its_machine_is_one_of_those_that_are_driven_through_every_event(
    commands: Commands, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RUN_ID", "REDIS_PASSWORD"):  # recipe=kubernetes needs them
        monkeypatch.setenv(name, "given-to-all")
    said = commands.ctl("graph", "--json", *words)
    assert said.code == 0, said.err
    shown = json.loads(said.out)
    assert any(json.dumps(table) in DRIVEN for table in tables(shown)), words


def tables(shown: object) -> list[object]:
    """Every list of rows in what was shown, however it is wrapped."""
    if isinstance(shown, list) and shown and isinstance(shown[0], dict) and "source" in shown[0]:
        return [shown]
    inner = shown.values() if isinstance(shown, dict) else shown if isinstance(shown, list) else ()
    return [table for value in inner for table in tables(value)]
