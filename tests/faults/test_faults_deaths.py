"""Faults 1 to 6: workers that end, or do not even begin. What must follow: one settle, one decision, one charge."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.report import show
from orchestrator.edge.guard.client import SpawnFailed
from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, SLEEP, Launch, alive, in_round, python, until
from tests.edge.guard.conftest import Agent
from tests.edge.procs import children

pytestmark = pytest.mark.e2e

# Counts the SIGTERMs it gets, and waits a moment for another one.
COUNTS = python(
    "import os, signal",
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
    "name = '.'.join(('terms', os.environ['RANK'], os.environ['ORCHESTRATOR_ROUND']))",
    "open(name, 'w').close()",
    "signal.sigwait([signal.SIGTERM])",
    "open(name, 'a').write('x')",
    "if signal.sigtimedwait([signal.SIGTERM], 0.2): open(name, 'a').write('x')",
)
CRASH = ("--", sys.executable, "-I", "-S", "-c", "raise SystemExit(7)")


def charges(run: Launch) -> list[dict[str, Any]]:
    return run.events("restart_decided", charged=True)


def test_fault_01_one_of_four_ranks_is_killed(launch: Launcher) -> None:
    run = launch("worker.nproc=4", "restart.budget.max=6", *FAST, *COUNTS)
    latencies = []
    for count in itertools.count(1):  # of which the quickest is judged: the machine has other things to do
        this = run.await_healthy(count)
        workers = run.workers(this)
        told = [run.directory / f"terms.{rank}.{this}" for rank in sorted(workers)]
        until(lambda told=told: all(path.exists() for path in told), "all count")  # type: ignore[misc]
        killed = time.monotonic()
        os.kill(workers[2], signal.SIGKILL)
        died = run.await_event("worker_exited", rank=2, round=this)
        run.await_healthy(count + 1)
        latencies.append(died["mono"] - killed)
        if count == 1:
            assert [path.read_text() for path in told] == ["x", "x", "", "x"], "each peer was asked once"
            assert run.await_healthy(2) == this + 1
            assert not any(alive(pid) for pid in workers.values())
            assert run.workers(this + 1).keys() == workers.keys()
        if latencies[-1] < 0.05 or count == 5:
            break
    assert min(latencies) < 0.05
    decided = charges(run)
    assert len(decided) == len(run.events("restart_decided")) == len(latencies), "one charge for each"
    assert decided[0]["remaining"] == 5
    assert (decided[0]["cause"]["rank"], decided[0]["cause"]["signal"]) == (2, 9)
    ours = {record["rank"] for record in run.events("worker_exited", round=1, sent_by_us=True)}
    assert ours == {0, 1, 3}, "what we stopped is no failure"
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_fault_02_all_ranks_fail_at_once(nodes: Nodes, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = python(
        "import os, sys, time",
        "first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'",
        "while first and not os.path.exists(sys.argv[1]): time.sleep(0.001)",
        "sys.exit(1 if first else 0)",
    )
    both = [nodes.start(name, "nodes=2", "worker.nproc=2", *script, str(go)) for name in "ab"]
    for run in both:
        in_round(run, 2)
    go.touch()
    assert [run.wait() for run in both] == [0, 0]
    decisions = [run.events("restart_decided") for run in both]
    assert [len(decided) for decided in decisions] == [1, 1]
    assert decisions[0][0]["cause"] == decisions[1][0]["cause"], "of all nodes together"
    for run in both:
        assert [record["round"] for record in run.events("round_settled")] == [1, 2]
        assert (run.result["rounds"], run.result["restarts"]) == (2, 1)


def test_fault_03_a_rank_that_succeeds_early_is_neither_a_failure_nor_a_lost_node(nodes: Nodes) -> None:
    waits = python(
        "import os, time", "while os.environ['RANK'] != '0' and not os.path.exists('../go'): time.sleep(0.01)"
    )
    both = [nodes.start(name, "nodes=1:2", "rendezvous.lease_s=1", *waits) for name in "ab"]
    early = next(run for run in both if in_round(run, 2) and run.events("round_settled")[-1]["group_rank"] == 0)
    (last,) = {*both} - {early}
    early.await_event("transition", to="FINISHING")
    assert last.state_is("HEALTHY"), "the other goes on"
    (last.directory.parent / "go").touch()
    assert [run.wait() for run in both] == [0, 0]
    for run in both:
        assert run.events("restart_decided") == run.events("member_lost") == []
        assert run.events("round_settled")[-1]["nodes"] == 2


# Scaled: a tenth of a second for a second. An exit before the group is ready counts as any other.
def test_fault_04_a_crash_loop_waits_ever_longer_and_ends_with_its_budget(launch: Launcher) -> None:
    backoff = "restart.backoff={initial_s: 0.1, factor: 2, max_s: 10, jitter: 0.1, reset_after_s: 60}"
    run = launch(backoff, "restart.budget={max: 3, per_s: 600}", *CRASH)
    assert run.wait() == 1, "not the worker's code, which stands in the result"
    decided = charges(run)
    for due_s, record in zip((0.1, 0.2, 0.4), decided, strict=True):
        assert 0 < record["delay_s"] <= 1.1 * due_s
        died = run.events("worker_exited", round=record["round"])[0]
        again = run.events("worker_started", round=record["round"] + 1)[0]
        assert again["mono"] - died["mono"] >= 0.9 * due_s
    assert (run.result["state"], run.result["root_cause"]["exit_code"], run.result["rounds"]) == ("FAILED", 7, 4)
    assert run.journal[-1]["mono"] - decided[0]["mono"] < sum(record["delay_s"] for record in decided) + 10


def test_fault_05_who_ran_well_for_a_while_counts_from_one_again_but_not_in_the_budget(launch: Launcher) -> None:
    backoff = "restart.backoff={initial_s: 0.05, factor: 4, max_s: 0.4, jitter: 0, reset_after_s: 0.4}"
    run = launch(backoff, "restart.budget.max=3", *python("import time; time.sleep(0.5)", "raise SystemExit(1)"))
    assert run.wait() == 1
    assert len(charges(run)) == 3
    assert all(0 < record["delay_s"] <= 0.05 for record in charges(run)), "what is left of the first delay"
    assert run.result["restarts"] == 3


# What can be seen beforehand is refused before anything starts. There is no other user to ask for.
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--", "{home}/script"), 1, "No such file or directory (at exec; see worker.cmd)"),
        (("--", "{home}/data"), 2, "worker.cmd: {shown} is not executable"),
        (("--", "{home}"), 2, "worker.cmd: {shown} is not found"),
        (("--", "{home}/nothing"), 2, "worker.cmd: {shown} is not found"),
        (("worker.cwd={home}/nothing", *SLEEP), 2, "worker.cwd: '{home}/nothing' is not a directory"),
    ],
    ids=["bad interpreter", "not executable", "a directory", "missing", "no working directory"],
)
def test_fault_06_what_cannot_be_executed_is_fatal_and_its_key_is_named(
    launch: Launcher, tmp_path: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    (tmp_path / "data").touch()
    run = launch(*(word.replace("{home}", str(tmp_path)) for word in words))
    assert run.wait() == code
    assert says.format(home=tmp_path, shown=show(words[-1].replace("{home}", str(tmp_path)))) in run.stderr
    if code == 1:
        assert (run.result["root_cause"]["kind"], run.result["rounds"]) == ("spawn", 1), "it would fail again"


def test_fault_06_a_start_that_fails_is_told_at_once_with_step_and_errno_and_leaves_no_zombie(agent: Agent) -> None:
    took = []
    for number in range(5):
        began = time.monotonic()
        failed = agent.wait(SpawnFailed, agent.spawn(f"/no/such/program{number}"))
        took.append(time.monotonic() - began)
        assert (failed.step, failed.errno) == ("exec", errno.ENOENT)
    assert min(took) < 0.1
    agent.round_trip()
    assert children(agent.client.pid) == []
