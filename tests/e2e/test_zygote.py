"""``worker.start=zygote``: whole jobs whose workers are forked from a process that has imported for them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, alive, marked, until

pytestmark = pytest.mark.e2e

SCRIPT = """
import os, signal, sys
import costly
from orchestrator.worker import report
report(importer=costly.importer, argv=sys.argv[1:], rank=int(os.environ["RANK"]))
if sys.argv[1] == "wait":
    if os.fork() == 0:
        os.setsid()
        signal.pause()
    print("ready", flush=True)
    signal.pause()
if sys.argv[1] == "fail" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    sys.exit(3)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    """Where it stands is what is imported from."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "costly.py").write_text("import os\nimporter = os.getpid()\nprint('imported', os.environ.get('RANK'))\n")
    (home / "train.py").write_text(SCRIPT)
    return str(home / "train.py")


def words(script: str, what: str, preload: str = "costly") -> list[str]:
    return [
        "worker.start=zygote",
        f"worker.preload=[{preload}]",
        "worker.nproc=3",
        *FAST,
        "--",
        sys.executable,
        script,
        what,
        "__rank__",
    ]


def test_workers_of_all_rounds_come_from_one_process_that_imports_once(launch: Launcher, script: str) -> None:
    run = launch(*words(script, "fail"))
    assert run.wait() == 0
    assert len(run.events("round_settled")) == 2
    results = run.result["results"]
    assert {value["importer"] for value in results.values()} == {results["0"]["importer"]}
    assert results["0"]["importer"] not in {record["pid"] for record in run.events("worker_started")}
    assert {rank: (value["argv"], value["rank"]) for rank, value in results.items()} == {
        str(rank): (["fail", str(rank)], rank) for rank in range(3)
    }
    assert (run.run_dir / "logs/default/zygote.log").read_text() == "imported None\n"
    assert not run.events("zygote_failed")


@pytest.mark.parametrize("victim", ["agent", "guard"])
def test_a_forked_worker_outlives_neither_agent_nor_guard(nodes: Nodes, script: str, victim: str) -> None:
    run = nodes.start("a", *words(script, "wait"))
    run.await_healthy()
    pids = list(run.workers(1).values())
    mark = f"ORCHESTRATOR_GUARD={run.guard_pid()}."
    logs = run.run_dir / "logs/default/1"
    until(lambda: all((logs / str(rank) / "stdout.log").read_text() for rank in range(3)), "all have forked")
    assert len(marked(mark)) == 7  # three pairs and the zygote
    os.kill(run.process.pid if victim == "agent" else run.guard_pid(), signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in pids) and not marked(mark), "all are gone")
    if victim == "guard":
        run.await_healthy(2)
        assert (run.run_dir / "logs/default/zygote.log").read_text() == "imported None\n" * 2
        run.signal(signal.SIGTERM)
        assert run.wait() == 143


@pytest.mark.parametrize(
    ("preload", "reason"),
    [
        ("absent", "importing absent: ModuleNotFoundError: No module named 'absent'"),
        ("costly,concurrency", "importing concurrency started 1 thread; OMP_NUM_THREADS=1 in worker.env keeps most"),
    ],
)
def test_what_cannot_be_preloaded_is_told_once_and_costs_no_worker(
    launch: Launcher, script: str, preload: str, reason: str
) -> None:
    Path(script).with_name("concurrency.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    run = launch(*words(script, "fail", preload))
    assert run.wait() == 0
    assert len(run.events("round_settled")) == 2
    (failed,) = run.events("zygote_failed")
    assert str(failed["reason"]).startswith(reason)
    assert run.stdout.count(f"no zygote, so workers are started by exec: {reason}") + run.stderr.count(reason) == 1


def test_a_command_that_is_no_python_script_is_started_by_exec(launch: Launcher) -> None:
    run = launch("worker.start=zygote", "worker.nproc=2", "--", "/bin/sh", "-c", "exit 0")
    assert run.wait() == 0
    (failed,) = run.events("zygote_failed")
    assert failed["reason"] == "/bin/sh runs no Python script and no module by -m, as far as worker.cmd shows"


def test_a_stop_while_imports_go_on_is_an_orderly_one(nodes: Nodes, script: str) -> None:
    Path(script).with_name("slow.py").write_text("import signal\nopen('importing', 'w').close()\nsignal.pause()\n")
    run = nodes.start("a", *words(script, "wait", "slow"))
    until((run.directory / "importing").exists, "the zygote imports")
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert not run.events("worker_started")
    assert not run.events("failure_reported")
