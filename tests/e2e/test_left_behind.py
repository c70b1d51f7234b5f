"""What is left of a run is found by its next agent; what workers are given arrives; a start that fails is charged."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, Launch, alive, python, until

pytestmark = pytest.mark.e2e

PIDS = Path("/sys/fs/cgroup/pids")
DAEMON = (
    "import os, signal",
    "if os.fork() == 0:",
    "    os.setsid()",
    "    print(os.getpid(), file=open('daemon', 'w'), flush=True)",
    "signal.pause()",
)


def kill_at_once(run: Launch) -> None:
    """Agent and guard, neither of which sees the other die."""
    guard = run.guard_pid()
    run.signal(signal.SIGSTOP)
    os.kill(guard, signal.SIGKILL)
    run.signal(signal.SIGKILL)
    run.process.wait()


def test_the_next_agent_of_a_run_kills_what_survived_agent_and_guard(launch: Launcher) -> None:
    first = launch("run_id=ghosts-e2e", *python(*DAEMON))
    first.await_healthy()
    written = first.directory / "daemon"
    until(lambda: written.exists() and written.read_text().endswith("\n"), "the daemon runs")
    pid = int(written.read_text())
    kill_at_once(first)
    assert alive(pid)
    other = launch("run_id=another-e2e", "--", "true")
    assert other.wait() == 0
    assert alive(pid)
    gone = f"case $(cut -d' ' -f3 /proc/{pid}/stat 2>/dev/null) in ''|Z|X) ;; *) exit 1 ;; esac"  # who reaps it is init
    second = launch("run_id=ghosts-e2e", "--", "sh", "-c", gone)
    assert second.wait() == 0
    assert second.events("ghosts_killed")[0]["pids"] == [pid]
    assert f"was killed: pids {pid}" in second.stderr
    assert second.events("guard_started")[0]["containment"] in ("cgroup2", "subreaper")


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


@pytest.mark.skipif(not os.access(PIDS / "cgroup.procs", os.W_OK), reason="needs a writable pids cgroup")
def test_a_machine_without_room_for_another_process_costs_restarts_and_says_why(
    launch: Launcher, tmp_path: Path
) -> None:
    group = PIDS / f"orchestrator-test-{os.getpid()}"
    group.mkdir()
    go = tmp_path / "go"
    os.mkfifo(go)
    try:
        script = (
            "import os, sys, time",
            "attempt = int(os.environ['TORCHELASTIC_RESTART_COUNT'])",
            f"open({str(go)!r}).read() if attempt == 0 else None",
            "sys.exit(1 if attempt == 0 else 0)",
        )
        run = launch("worker.nproc=4", "restart.budget.max=2", *FAST, *python(*script))
        run.await_healthy()
        (group / "cgroup.procs").write_text(str(run.guard_pid()))
        (group / "pids.max").write_text("3")  # the guard and two workers, of four
        go.write_text("")
        assert run.wait() == 1
        spawned = [failure for failure in run.result["failures"] if failure["kind"] == "spawn"]
        assert spawned
        assert all("no more processes are allowed, by ulimit -u or by pids.max" in one["message"] for one in spawned)
        assert len(run.events("restart_decided", charged=True)) == 2
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
        group.rmdir()
