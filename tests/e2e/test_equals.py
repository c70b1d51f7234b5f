"""What torchelastic tells as events and metrics is told by the names that README gives for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher
from tests.e2e.harness import FAST, Launch, python, until
from tests.e2e.test_health import ask

pytestmark = pytest.mark.e2e

README = (Path(__file__).parents[2] / "README.md").read_text()
WATCHDOG = ("watchdog=heartbeat", "watchdog.timeout_s=1.5", "watchdog.warmup_s=1.5")


def named(kind: str) -> set[str]:
    """The names of one kind on the right side of README's table."""
    rows = README.split("| torchelastic's | here |")[1].split("\n\n")[0]
    right = [row.rstrip(" |").rpartition(" | ")[2] for row in rows.splitlines()[2:]]
    groups = re.findall(rf"{kind} ((?:`\w+`(?:, )?)+)", "; ".join(right))
    return {name for group in groups for name in re.findall(r"`(\w+)`", group)}


@pytest.fixture
def run(launch: Launcher) -> Launch:
    """A run in which a worker hangs, and the next one waits until it may end."""
    script = (
        "import os, time",
        "from orchestrator.worker import heartbeat",
        "while not os.path.exists('go') or os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':",
        "    time.sleep(0.02)",
        "    if os.environ['TORCHELASTIC_RESTART_COUNT'] != '0': heartbeat()",
    )
    return launch("health=http", *WATCHDOG, *FAST, *python(*script))


def test_all_names_are_told(run: Launch) -> None:
    run.await_healthy(2)
    until(lambda: ask(run, "/readyz")[0] == 200, "it runs again")
    told = ask(run, "/metrics")[1]
    (run.directory / "go").touch()
    assert run.wait() == 0
    metrics = set(re.findall(r"^(\w+)\{", told, re.MULTILINE))
    assert named("metric") <= metrics
    assert named("event") <= {record["event"] for record in run.journal}
    assert named("result") <= {*run.result, *run.result["timings"]}
    assert all(map(named, ("metric", "event", "result")))
