"""What a guard says of itself, and what workers are given by it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, SLEEP, python, until

pytestmark = pytest.mark.e2e


def test_each_guard_of_an_agent_says_once_how_it_holds_processes_together(nodes: Nodes) -> None:
    run = nodes.start("a", *python("import signal; signal.pause()"))
    run.await_healthy()
    os.kill(run.guard_pid(), signal.SIGKILL)
    run.await_healthy(2)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    first, second = run.events("guard_started")
    assert first["pid"] != second["pid"]
    assert first["containment"] == second["containment"]


def test_workers_start_with_the_limits_and_on_the_processors_of_the_job(launch: Launcher) -> None:
    said = "import os, resource; print(resource.getrlimit(resource.RLIMIT_NOFILE), *os.sched_getaffinity(0))"
    cpu = max(os.sched_getaffinity(0))
    words = ["worker.limits.nofile=100:200", f"worker.affinity={cpu}", "logs=inherit"]
    run = launch(*words, "--", sys.executable, "-c", said)
    assert run.wait() == 0
    assert run.stdout == f"(100, 200) {cpu}\n"


@pytest.mark.parametrize("guards", [1, 2])
def test_a_killed_agent_leaves_neither_a_pipe_nor_a_socket(launch: Launcher, tmp_path: Path, guards: int) -> None:
    socket = tmp_path / "health"
    run = launch("watchdog=heartbeat", "health=http", f"health.host=unix:{socket}", *FAST, *SLEEP)
    for number in range(1, guards + 1):
        run.await_healthy(number)
        if number < guards:
            os.kill(run.guard_pid(), signal.SIGKILL)
    pipes = list(run.run_dir.glob("watchdog.*"))
    assert len(pipes) == 1
    assert socket.is_socket()
    run.signal(signal.SIGKILL)
    run.process.wait()
    until(lambda: not pipes[0].exists() and not socket.exists(), "the guard has removed them")
