"""Faults that come together, or in the moment that suits least: each once led to a hang, a bug, or something left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, SLEEP, Launch, alive, in_round, patched, python, until
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

SLOW = ("restart.backoff.initial_s=500", "restart.backoff.max_s=500", "restart.backoff.reset_after_s=500")
DEAF = ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "signal.signal(signal.SIGINT, signal.SIG_IGN)")
READY = "open('ready', 'w').close()"
DAEMON = ("import os, signal, time", "if os.fork() == 0:", "    os.setsid()", "    if os.fork() == 0: time.sleep(600)")


def await_ready(run: Launch) -> None:
    """Wait until the node's worker has come to READY."""
    until((run.directory / "ready").exists, "the worker is ready")


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


# -- the guard


def test_a_worker_and_the_guard_that_die_while_the_agent_sleeps_cost_one_restart(nodes: Nodes) -> None:
    run = nodes.start("a", *SLEEP)
    (pid,) = run.workers(run.await_healthy()).values()
    guard = run.guard_pid()
    run.signal(signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid), "the guard has reaped the worker")
    os.kill(guard, signal.SIGKILL)
    until(lambda: not alive(guard), "the guard is dead")
    run.signal(signal.SIGCONT)
    run.await_healthy(2)
    (decided,) = run.events("restart_decided")
    assert (decided["cause"]["kind"], decided["cause"]["signal"]) == ("signaled", 9), "the first is the cause"
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_a_guard_killed_while_workers_are_stopped_leaves_none_of_their_daemons(launch: Launcher) -> None:
    run = launch(*python(*DAEMON, "    os._exit(0)", *DEAF, READY, "time.sleep(600)"))
    run.await_healthy()
    await_ready(run)
    run.signal(signal.SIGTERM)
    run.await_event("transition", to="CLOSING")
    os.kill(run.guard_pid(), signal.SIGKILL)
    assert run.wait() == 143
    assert run.events("leave_failed") == []
    # that nothing is left is what the fixture looks for


def test_a_guard_killed_at_the_exit_barrier_is_no_failure_and_costs_no_result(nodes: Nodes, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    script = (
        "import os, sys, time",
        "from orchestrator.worker import report",
        "report(rank=int(os.environ['RANK']))",
        "while os.environ['RANK'] == '1' and not os.path.exists(sys.argv[1]): time.sleep(0.01)",
    )
    started = [nodes.start(name, "nodes=2", *python(*script), str(flag)) for name in "ab"]
    runs = {run.await_event("round_settled")["group_rank"]: run for run in started}
    runs[0].await_event("transition", to="FINISHING")
    os.kill(runs[0].guard_pid(), signal.SIGKILL)
    runs[0].await_event("transition", on="guard_lost")
    flag.touch()
    assert [run.wait() for run in started] == [0, 0]
    assert (runs[0].result["results"], runs[0].result["failures"]) == ({"0": {"rank": 0}}, [])


def test_a_guard_killed_in_backoff_is_replaced_for_the_next_round(nodes: Nodes) -> None:
    run = nodes.start("a", *SLOW, "restart.backoff.initial_s=0.5", *SLEEP)
    (pid,) = run.workers(run.await_healthy()).values()
    os.kill(pid, signal.SIGKILL)
    run.await_event("transition", to="BACKOFF")
    os.kill(run.guard_pid(), signal.SIGKILL)
    run.await_healthy(2)
    assert len(run.events("restart_decided")) == 1, "nothing of ours was running"
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_a_third_signal_ends_the_agent_at_once_and_its_guard_cleans_up(launch: Launcher) -> None:
    run = launch("stop.grace_s=600", *SLEEP)
    run.await_healthy()
    guard = run.guard_pid()
    os.kill(guard, signal.SIGSTOP)  # what the first two ask for will not be done
    for number in range(1, 4):
        run.signal(signal.SIGINT)
        if number < 3:
            run.await_event("stop_requested", number)
    assert run.wait() == 130
    os.kill(guard, signal.SIGCONT)


def test_a_guard_that_hangs_does_not_hold_up_a_stop(nodes: Nodes) -> None:
    run = nodes.start("a", "worker.nproc=2", "stop.grace_s=0.1", "stop.kill_wait_s=0.1", *SLEEP)
    run.await_healthy()
    os.kill(run.guard_pid(), signal.SIGSTOP)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.events("transition", on="guard_lost")


# -- the server


def test_an_embedded_server_that_does_not_start_ends_the_run_and_says_why(launch: Launcher, tmp_path: Path) -> None:
    fault = patched(tmp_path, "embedded", "find_server", "lambda: '/bin/false'")
    run = launch(*SLEEP, env=fault)
    assert run.wait() == 3
    assert "the embedded server: it ended with exit code 1" in run.result["reason"]


def test_a_server_that_is_not_there_is_named_and_a_stop_does_not_wait_for_it(launch: Launcher) -> None:
    nowhere = ("run_id=j1", "rendezvous.url=redis://127.0.0.1:1")
    run = launch(*nowhere, "rendezvous.join_timeout_s=0.2", *SLEEP)
    assert run.wait() == 3
    assert "no server at redis://127.0.0.1:1" in run.result["reason"]
    run = launch(*nowhere, *SLEEP)
    run.await_event("transition", to="RENDEZVOUS")
    run.signal(signal.SIGINT)
    assert run.wait() == 130
    assert run.events("leave_failed") == [], "nobody there knows of us"


def test_a_stop_while_the_server_is_frozen_ends_within_bounds(nodes: Nodes, server: Server) -> None:
    run = nodes.start("a", *SLEEP)
    run.await_healthy()
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert len(run.events("leave_failed")) == 1


# -- peers


def test_an_only_node_that_died_without_a_word_comes_back_under_its_name(nodes: Nodes) -> None:
    dead = nodes.start("a", "rendezvous.lease_s=1", *SLEEP, directory="dead")
    first = in_round(dead, 1)
    dead.kill_with_guard()  # nobody is left to tell
    again = nodes.start("a", "rendezvous.lease_s=1", *SLEEP)
    in_round(again, 1, after=first)
    again.signal(signal.SIGTERM)
    assert again.wait() == 143


def test_a_peers_fatal_failure_ends_a_restart_that_was_decided_already(nodes: Nodes) -> None:
    rules = "restart.rules=[{exit_codes:[64],action:fatal}]"
    react = "signal.signal(signal.SIGUSR1, lambda *_: os._exit(64))"
    script = python("import os, signal", react, READY, "while True: signal.pause()")
    a, b = (nodes.start(name, "nodes=2", rules, *SLOW, *script) for name in "ab")
    first = in_round(a, 2)
    in_round(b, 2)
    (ours,), (theirs,) = (run.workers(first).values() for run in (a, b))
    await_ready(b)
    b.signal(signal.SIGSTOP)
    os.kill(ours, signal.SIGKILL)
    a.await_event("transition", to="BACKOFF")
    os.kill(theirs, signal.SIGUSR1)
    until(lambda: gone(theirs), "the guard has reaped b's worker")
    b.signal(signal.SIGCONT)
    assert (a.wait(), b.wait()) == (1, 1)
    assert {run.result["root_cause"]["node"] for run in (a, b)} == {"b"}
    assert {run.result["root_cause"]["exit_code"] for run in (a, b)} == {64}


def test_restart_always_repeats_on_all_nodes_together(nodes: Nodes) -> None:
    runs = [nodes.start(name, "nodes=2", "restart=always", "restart.budget.max=2", *python("pass")) for name in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    assert [run.result["rounds"] for run in runs] == [3, 3]


# -- the disk, and ourselves


def test_files_that_cannot_be_written_cost_the_files_and_not_the_job(launch: Launcher, tmp_path: Path) -> None:
    for name in ("job.yaml", "events.jsonl", "result.json", "server.log"):
        (tmp_path / "node" / "run" / name).mkdir(parents=True)
    (tmp_path / "node" / "run" / "server.log").rmdir()
    run = launch(*python("print('moin')"), name="node")
    assert run.wait() == 0
    assert "moin" in run.stdout
    for name in ("job.yaml", "events.jsonl", "result.json"):
        assert f"{name}: " in run.stderr
    assert "bug" not in run.stderr


def test_a_server_without_a_log_ends_the_run_and_says_why(launch: Launcher, tmp_path: Path) -> None:
    (tmp_path / "node" / "run" / "server.log").mkdir(parents=True)
    run = launch(*SLEEP, name="node")
    assert run.wait() == 3
    assert "Is a directory" in run.result["reason"]


def test_logs_that_cannot_be_made_fail_the_run_with_the_reason(launch: Launcher, tmp_path: Path) -> None:
    (tmp_path / "node" / "run").mkdir(parents=True)
    (tmp_path / "node" / "run" / "logs").touch()
    run = launch("worker.nproc=2", *SLEEP, name="node")
    assert run.wait() == 1
    assert "Not a directory" in run.result["root_cause"]["message"]
    assert run.result["rounds"] == 1, "it would fail again"


@pytest.mark.parametrize(
    ("module", "name"),
    [("deaths", "Failure"), ("worker_files", "last_lines"), ("workers", "places")],
    ids=["in a callback", "in a thread", "in an effect"],
)
def test_a_bug_ends_with_70_a_result_and_nothing_left(nodes: Nodes, tmp_path: Path, module: str, name: str) -> None:
    fault = patched(tmp_path, module, name, "None")
    elastic = ("nodes=1:2", "rendezvous.lease_s=60", "rendezvous.scale_up_s=0.1")
    work = python("import os, time", "'UNLUCKY' in os.environ and os._exit(1)", "time.sleep(600)")
    good = nodes.start("a", *elastic, *work)
    alone = in_round(good, 1)
    bad = nodes.start("b", *elastic, *work, env={**fault, "UNLUCKY": "1"})
    assert bad.wait() == 70
    assert (bad.result["state"], bad.result["exit_code"]) == ("FAILED", 70)
    assert "'NoneType' object is not callable" in bad.result["reason"]
    assert "Traceback" in bad.stderr
    assert list(bad.run_dir.glob("watchdog.*")) == []
    in_round(good, 1, after=alone + 1)  # told by b itself: its lease is long
    good.signal(signal.SIGTERM)
    assert good.wait() == 143


def test_restarts_leave_no_descriptors_behind(launch: Launcher) -> None:
    free = ("restart.budget.max=null", "restart.backoff.initial_s=0", "restart.backoff.max_s=0")
    run = launch(*free, "--", sys.executable, "-I", "-S", "-c", "raise SystemExit(1)")

    def descriptors(restarts: int) -> int:
        run.await_event("restart_decided", restarts)
        return len(list(Path(f"/proc/{run.process.pid}/fd").iterdir()))

    early = descriptors(10)
    assert descriptors(100) <= early + 5
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_the_most_severe_failure_of_a_round_decides_though_it_was_not_the_first(launch: Launcher) -> None:
    rules = "restart.rules=[{exit_codes:[64],action:fatal}]"
    script = (
        "import os, time",
        "rank = os.environ['RANK']",
        "while not os.path.exists('go' + rank): time.sleep(0.01)",
        "os._exit(1 if rank == '0' else 64)",
    )
    run = launch("worker.nproc=2", rules, *FAST, *python(*script))
    workers = run.workers(run.await_healthy())
    guard = run.guard_pid()
    os.kill(guard, signal.SIGSTOP)  # so that it sees both deaths before anyone can ask it to stop the other
    for rank, pid in sorted(workers.items()):
        (run.directory / f"go{rank}").touch()
        until(lambda pid=pid: not alive(pid), "the worker is dead")  # type: ignore[misc]
    os.kill(guard, signal.SIGCONT)
    assert run.wait() == 1
    assert run.result["rounds"] == 1
    assert run.result["root_cause"]["exit_code"] == 64


def test_ctrl_c_while_everything_still_loads_is_one_line_and_130() -> None:
    load = "main._orchestrate = lambda words: print('loading', flush=True) or signal.pause()"
    script = f"import signal, sys; from orchestrator.cli import main; {load}; sys.exit(main.main())"
    with subprocess.Popen([sys.executable, "-c", script], stdout=-1, stderr=-1, text=True) as loading:
        assert loading.stdout is not None
        assert loading.stdout.readline() == "loading\n"
        loading.send_signal(signal.SIGINT)
        _, said = loading.communicate(timeout=30)
    assert (loading.returncode, said) == (130, "interrupted before anything was started\n")
