"""Workers that are no processes of this node: whatever runs them, the machine and the rendezvous do the same."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from orchestrator.edge.backend import WorkerBackend
from orchestrator.edge.backends import METHODS
from orchestrator.edge.local_backend import LocalBackend
from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, Launch, in_round, python
from tests.edge.threads import Threads

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
HERE = {"PYTHONPATH": str(ROOT)}


def threads(work: str, cls: str = "Threads") -> tuple[str, ...]:
    return (f"worker.backend=tests.edge.threads:{cls}", *FAST, "--", f"tests.edge.threads:{work}")


def test_what_a_backend_must_do_is_what_ours_do() -> None:
    assert set(METHODS) == {name for name in vars(WorkerBackend) if not name.startswith("_")}
    assert issubclass(LocalBackend, WorkerBackend)
    assert issubclass(Threads, WorkerBackend)


def test_workers_run_where_the_backend_runs_them(launch: Launcher) -> None:
    run = launch("worker.nproc=3", *threads("fine"), env=HERE)
    assert run.wait() == 0
    assert {path.name: path.read_text() for path in run.directory.glob("ran.*")} == {
        f"ran.1.{rank}": "3" for rank in range(3)
    }
    assert run.result["state"] == "SUCCEEDED"


def test_a_failure_there_restarts_the_group(launch: Launcher) -> None:
    run = launch("worker.nproc=2", *threads("flaky"), env=HERE)
    assert run.wait() == 0
    assert (run.result["rounds"], run.result["restarts"]) == (2, 1)
    assert run.result["failures"][0]["exit_code"] == 7


def test_a_worker_that_cannot_be_started_there_is_a_failure(launch: Launcher) -> None:
    run = launch(*threads("nothing"), env=HERE)
    assert run.wait() == 1
    assert "(at import)" in run.result["root_cause"]["message"]


def test_a_signal_stops_them(launch: Launcher) -> None:
    run = launch("worker.nproc=2", *threads("patient"), env=HERE)
    run.await_healthy()
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert [record["sent_by_us"] for record in run.events("worker_exited")] == [True, True]


def test_one_that_cannot_be_ended_taints_the_node(launch: Launcher) -> None:
    run = launch("stop.grace_s=0.1", "stop.kill_wait_s=0.1", *threads("deaf"), env=HERE)
    run.await_healthy()
    run.signal(signal.SIGTERM)
    assert run.wait() == 4
    assert "this node is unfit" in run.stderr


def test_a_backend_that_is_lost_recovers_and_the_group_is_restarted(launch: Launcher) -> None:
    run = launch(*threads("patient", "Losing"), env=HERE)
    run.await_healthy(2)
    assert run.events("transition", on="guard_lost")[0]["reason"] == "the other machine went away"
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_nodes_meet_whatever_runs_their_workers_and_a_fence_ends_them_there(nodes: Nodes) -> None:
    words = ("nodes=1:2", "rendezvous.lease_s=1.5", "rendezvous.scale_up_s=0.1", *threads("patient"))
    a, b = (nodes.start(name, *words, env=HERE) for name in "ab")
    first = in_round(a, 2)
    in_round(b, 2)  # else it is paused before it has workers to be fenced
    b.signal(signal.SIGSTOP)
    in_round(a, 1, after=first)
    b.signal(signal.SIGCONT)
    b.await_event("fenced")
    in_round(a, 2, after=first + 1)
    a.signal(signal.SIGTERM)
    assert (a.wait(), b.wait()) == (143, 143)


def test_a_backend_may_change_only_something_about_processes(launch: Launcher) -> None:
    run = launch("worker.backend=tests.edge.threads:Nice", *python("import os; print(os.environ['WRAPPED'])"), env=HERE)
    assert run.wait() == 0
    assert "yes" in run.stdout


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        ("tests.edge.threads:Missing", "cannot be imported: AttributeError"),
        ("nowhere.at.all:Backend", "cannot be imported: ModuleNotFoundError"),
        ("tests.edge.threads:Half", "has no attach(), new_handle(), stop()"),
        ("tests.edge.threads:Breaks", "cannot be made: RuntimeError: no machine is free; correct it"),
        ("Threads", "is not a class's name; allowed: package.module:Class"),
    ],
)
def test_a_backend_that_is_none_is_told_before_anything_is_started(launch: Launcher, cls: str, said: str) -> None:
    run: Launch = launch(f"worker.backend={cls}", "--", "true", env=HERE)
    assert run.wait() == 2
    assert f"error: worker.backend: {cls!r}" in run.stderr
    assert said in run.stderr
