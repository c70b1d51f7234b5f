"""Nodes that are looked at before they join: real commands, real limits, real agents."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, SLEEP, alive, marked, python, until

QUICK = ("health.preflight_cooldown_s=0.05",)


def checks(*several: str) -> str:
    return f"health.preflight=[{','.join(several)}]"


def script(text: str, timeout_s: float = 30) -> str:
    """A check that runs a Python script, quoted for Hydra."""
    return f"{{exec: [{sys.executable}, -c, {json.dumps(text)}], timeout_s: {timeout_s}}}"


def test_a_fit_node_joins(launch: Launcher) -> None:
    every = ("{fds: 16}", "{memory: {free_mb: 1}}", "{disk: {path: /, free_mb: 1}}", "{clock_skew_s: 5}")
    run = launch(checks(*every, script("print(1)")), *python("pass"))
    assert run.wait() == 0
    assert len(run.events("check_passed")) == 5
    path = [record["to"] for record in run.events("transition")]
    assert path[:4] == ["PREFLIGHT", "RENDEZVOUS", "STARTING", "HEALTHY"]


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("{fds: 1000000000}", "files, and 1000000000 are needed"),
        ("{memory: {free_mb: 100000000}}", "MiB are available, and 100000000 are needed"),
        ("{disk: {path: /, free_mb: 100000000000}}", "MiB are free, and 100000000000 are needed"),
        ("{disk: {path: /not/there, free_mb: 1}}", "No such file or directory"),
        ("{exec: [/not/there]}", "it cannot be started: No such file or directory (at "),
        (script("import sys; sys.exit(3)"), "exit code 3"),
        (script("import os; os.kill(os.getpid(), 9)"), "killed by SIGKILL"),
        (script("import time; time.sleep(600)", 0.3), "it was killed after 0.3 s"),
    ],
)
def test_a_node_that_stays_unfit_ends_with_4_and_has_started_nothing(launch: Launcher, check: str, says: str) -> None:
    run = launch(checks(check), "health.preflight_attempts=2", *QUICK, *SLEEP)
    assert run.wait() == 4
    failed = run.events("preflight_failed")
    assert [(one["attempt"], one["retry_s"]) for one in failed] == [(1, 0.05), (2, None)]
    assert says in failed[0]["reason"]
    assert "health.preflight[0]" in run.stderr + run.stdout
    assert run.events("worker_started") == []
    assert "this node is unfit" in run.result["reason"]


def test_the_last_lines_of_a_check_are_told(launch: Launcher) -> None:
    run = launch(checks(script("print('the GPU is gone'); raise SystemExit(1)")), "health.preflight_attempts=1", *SLEEP)
    assert run.wait() == 4
    assert run.events("preflight_failed")[0]["last_lines"] == ["the GPU is gone"]
    assert "    | the GPU is gone" in run.stderr + run.stdout


def test_a_node_that_becomes_fit_joins_after_its_cooldown(launch: Launcher, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    run = launch(checks(script(f"open({str(ready)!r})")), "health.preflight_attempts=1000", *QUICK[:1], *SLEEP)
    run.await_event("preflight_failed")
    ready.touch()
    run.await_healthy()
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_a_node_is_looked_at_before_every_round(launch: Launcher) -> None:
    crash = python("import os", "os._exit(os.environ['TORCHELASTIC_RESTART_COUNT'] == '0')")
    run = launch(checks("{fds: 16}"), *FAST, *crash)
    assert run.wait() == 0
    assert len(run.events("check_passed")) == 2


def test_an_unfit_node_keeps_nobody_else_from_their_round(nodes: Nodes, tmp_path: Path) -> None:
    fit = "import os; raise SystemExit(os.environ['ORCHESTRATOR_NODE'] == 'bad')"
    common = ("nodes=1:2", checks(script(fit)), "health.preflight_attempts=100", *QUICK, *SLEEP)
    bad = nodes.start("bad", *common)
    bad.await_event("preflight_failed")
    good = nodes.start("good", *common)
    good.await_healthy()
    assert good.events("round_settled")[0]["nodes"] == 1
    bad.signal(signal.SIGTERM)
    good.signal(signal.SIGTERM)
    assert {bad.wait(), good.wait()} == {143}


def test_a_node_whose_fence_fell_is_looked_at_again(nodes: Nodes) -> None:
    run = nodes.start("a", "nodes=1:2", "rendezvous.lease_s=1", checks(script("pass")), *SLEEP)
    (pid,) = run.workers(run.await_healthy()).values()
    run.signal(signal.SIGSTOP)
    until(lambda: not alive(pid), "the guard kills the workers of a paused agent")
    run.signal(signal.SIGCONT)
    run.await_healthy(2)
    assert run.events("fenced")
    assert run.events("preflight_failed") == []
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_a_check_does_not_outlive_its_agent_and_a_stop_does_not_wait_for_it(launch: Launcher) -> None:
    word = "ORCHESTRATOR_TEST_CHECK=yes"
    child = (
        "[sys.executable, '-c', 'import time; time.sleep(600)'], env={**os.environ, 'ORCHESTRATOR_TEST_CHILD': 'yes'}"
    )
    slow = f"import os, subprocess, sys, time; subprocess.Popen({child}, start_new_session=True); time.sleep(600)"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        run = launch(checks(script(slow)), *SLEEP, env={"ORCHESTRATOR_TEST_CHECK": "yes"})
        until(lambda: marked("ORCHESTRATOR_TEST_CHILD=yes"), "the check runs, and its child")
        run.signal(number)
        assert run.wait() == code
        until(lambda: not marked(word), "nothing is left of it")


def test_a_guard_that_dies_meanwhile_is_replaced_and_the_node_is_looked_at_again(
    launch: Launcher, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    text = f"import os, time; p = {str(first)!r}; a = os.path.exists(p); open(p, 'w').close(); a or time.sleep(600)"
    run = launch(checks(script(text)), *python("pass"))
    until(first.exists, "the check runs")
    os.kill(run.guard_pid(), signal.SIGKILL)
    assert run.wait() == 0
