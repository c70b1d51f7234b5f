"""Stops: by signals in every state, by a platform that is about to kill, and of workers that do not obey."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import SLEEP, Launch, in_round, python, until
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

SLOW = ("restart.backoff.initial_s=500", "restart.backoff.max_s=500", "restart.backoff.reset_after_s=500")
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
ONE_FAILS_ONE_IS_DEAF = python(
    "import os, signal, time",
    DEAF,
    "rank = os.environ['RANK']",
    "open('ready' + rank, 'w').close()",
    "while not (rank == '1' and os.path.exists('ready0')) and not os.path.exists('enough'): time.sleep(0.01)",
    "os._exit(int(rank))",
)
SAVES = python(
    "import os, signal, sys, time",
    "def save(*_):",
    "    open('saved' + os.environ['RANK'], 'w').close()",
    "    os._exit(3)",
    "if os.path.exists('../a/done'): sys.exit(print('charged', os.environ['TORCHELASTIC_RESTART_COUNT']))",
    "signal.signal(signal.SIGTERM, save)",
    "open('ready' + os.environ['LOCAL_RANK'], 'w').close()",
    "time.sleep(600)",
)
PREEMPTED = "stop.preempt_signals=[USR1]"


def stopped_guard(run: Launch) -> int:
    """Stop its guard, as early as may be."""
    guard = until(lambda: run.process.poll() is None and guard_of(run), "the guard is there")
    os.kill(guard, signal.SIGSTOP)
    return guard


def guard_of(run: Launch) -> int | None:
    try:
        return run.guard_pid()
    except (OSError, StopIteration):
        return None


def in_preflight(nodes: Nodes, server: Server) -> Launch:
    check = f"{{exec: [{sys.executable}, -c, 'import time; time.sleep(600)'], timeout_s: 600}}"
    return nodes.start("a", f"health.preflight=[{check}]", *SLEEP)


def in_rendezvous(nodes: Nodes, server: Server) -> Launch:
    return nodes.start("a", "nodes=2", *SLEEP)


def in_standby(nodes: Nodes, server: Server) -> Launch:
    spare = ("nodes=1", "rendezvous.spares=1", *SLEEP)
    nodes.start("a", *spare).await_healthy()
    return nodes.start("b", *spare)


def in_starting(nodes: Nodes, server: Server) -> Launch:
    run = nodes.start("a", *SLEEP)
    stopped_guard(run)
    return run


def in_healthy(nodes: Nodes, server: Server) -> Launch:
    return nodes.start("a", *SLEEP)


def in_stopping(nodes: Nodes, server: Server) -> Launch:
    return nodes.start("a", "worker.nproc=2", "stop.grace_s=600", *ONE_FAILS_ONE_IS_DEAF)


def in_draining(nodes: Nodes, server: Server) -> Launch:
    deaf = python("import os, signal, time", DEAF, "while not os.path.exists('enough'): time.sleep(0.01)")
    elastic = ("nodes=1:2", "rendezvous.scale_up_s=0.1", "stop.grace_s=600")
    run = nodes.start("a", *elastic, *deaf)
    run.await_healthy()
    nodes.start("b", *elastic, *deaf)
    return run


def in_deciding(nodes: Nodes, server: Server) -> Launch:
    run = nodes.start("a", *SLEEP)
    (pid,) = run.workers(run.await_healthy()).values()
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    return run


def in_backoff(nodes: Nodes, server: Server) -> Launch:
    return nodes.start("a", *SLOW, *python("raise SystemExit(1)"))


def in_finishing(nodes: Nodes, server: Server) -> Launch:
    ours_is_done = python("import os, time", "if not os.getcwd().endswith('b'): time.sleep(600)")
    nodes.start("a", "nodes=2", *ours_is_done)
    return nodes.start("b", "nodes=2", *ours_is_done)


STATES: dict[str, Callable[[Nodes, Server], Launch]] = {
    "PREFLIGHT": in_preflight,
    "RENDEZVOUS": in_rendezvous,
    "STANDBY": in_standby,
    "STARTING": in_starting,
    "HEALTHY": in_healthy,
    "STOPPING": in_stopping,
    "DRAINING": in_draining,
    "DECIDING": in_deciding,
    "BACKOFF": in_backoff,
    "FINISHING": in_finishing,
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("state", STATES)
def test_the_first_signal_stops_in_every_state_and_nothing_is_started_after_it(
    nodes: Nodes, server: Server, state: str, number: int
) -> None:
    run = STATES[state](nodes, server)
    run.await_event("transition", to=state)
    run.signal(number)
    asked = run.await_event("stop_requested")
    run.await_event("transition", to="CLOSING")
    (run.directory / "enough").touch()  # whoever is deaf obeys now: nobody was killed
    if state == "STARTING":
        os.kill(run.guard_pid(), signal.SIGCONT)
    assert run.wait() == 128 + number
    assert run.result["state"] == "STOPPED"
    later = [record for record in run.events("worker_started") if record["ts"] > asked["ts"]]
    assert later == [] or state == "STARTING", "there it was ordered already"
    assert run.events("worker_exited", signal=9, sent_by_us=True) == []


@pytest.mark.parametrize("state", ["STOPPING", "DRAINING", "STARTING"])
def test_a_second_signal_kills_whatever_is_being_stopped_already(nodes: Nodes, server: Server, state: str) -> None:
    run = STATES[state](nodes, server)
    run.await_event("transition", to=state)
    for number in (1, 2):
        run.signal(signal.SIGINT)
        run.await_event("stop_requested", number)
    if state == "STARTING":
        os.kill(run.guard_pid(), signal.SIGCONT)
    assert run.wait() == 130


def test_a_third_signal_does_not_wait_for_a_guard_that_hangs_at_the_start(nodes: Nodes, server: Server) -> None:
    run = in_starting(nodes, server)
    run.await_event("transition", to="STARTING")
    guard = run.guard_pid()
    for number in (1, 2, 3):
        run.signal(signal.SIGINT)
        if number < 3:
            run.await_event("stop_requested", number)
    assert run.wait() == 130
    os.kill(guard, signal.SIGCONT)


# -- who is about to be killed


def test_a_preempted_run_saves_its_work_is_not_charged_and_goes_on_when_it_comes_back(nodes: Nodes) -> None:
    run = nodes.start("a", PREEMPTED, "worker.nproc=2", *SAVES)
    first = run.await_healthy()
    until(lambda: len(list(run.directory.glob("ready*"))) == 2, "the workers are ready")
    run.signal(signal.SIGUSR1)
    run.await_event("stop_requested")
    for _ in range(3):
        run.signal(signal.SIGUSR1)  # a platform may say it more than once
    assert run.wait() == 75
    assert (run.result["state"], run.result["restarts"], run.result["failures"]) == ("STOPPED", 0, [])
    assert {path.name for path in run.directory.glob("saved*")} == {"saved0", "saved1"}
    (run.directory / "done").touch()
    again = nodes.start("a", PREEMPTED, *SAVES, directory="again")
    assert again.wait() == 0
    assert again.events("round_settled")[0]["round"] > first
    assert again.stdout == "[default0] charged 0\n"


def test_a_preempted_node_of_several_is_waited_for_and_costs_nothing(nodes: Nodes) -> None:
    two = ("nodes=2", PREEMPTED, "restart.budget.max=0", *SAVES)
    a, b = (nodes.start(name, *two) for name in "ab")
    first = in_round(a, 2)
    in_round(b, 2)
    until((b.directory / "ready0").exists, "the worker is ready")
    b.signal(signal.SIGUSR1)
    assert b.wait() == 75
    assert list(b.directory.glob("saved*"))
    a.await_event("transition", to="RENDEZVOUS", count=2)
    back = nodes.start("b", *two, directory="b2")
    assert in_round(back, 2, after=first) == in_round(a, 2, after=first)
    assert a.events("restart_decided") == []
    a.signal(signal.SIGTERM)
    assert (a.wait(), back.wait()) == (143, 143)


def test_a_stop_from_outside_is_over_before_the_platform_kills(launch: Launcher) -> None:
    deaf = python("import signal", DEAF, "open('ready', 'w').close()", "while True: signal.pause()")
    run = launch("stop.grace_s=600", "stop.platform_grace_s=2.2", *deaf)
    run.await_healthy()
    until((run.directory / "ready").exists, "the worker is deaf")
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.events("worker_exited", signal=9, sent_by_us=True)
    assert "SIGTERM: stopping, grace 0.2 s (stop.platform_grace_s)" in run.stderr


def test_a_stop_under_way_has_no_more_time_than_the_platform_leaves(nodes: Nodes, server: Server) -> None:
    run = nodes.start("a", "worker.nproc=2", "stop.grace_s=600", "stop.platform_grace_s=2.2", *ONE_FAILS_ONE_IS_DEAF)
    run.await_event("transition", to="STOPPING")
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.events("worker_exited", signal=9, sent_by_us=True)


# -- who does not obey


def test_where_a_worker_stands_that_does_not_stop_is_told_before_it_is_killed(launch: Launcher, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "import os, signal, time\n"
        "from orchestrator.worker import heartbeat\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def write_checkpoint():\n"
        "    open('ready', 'w').close()\n"
        "    time.sleep(600)\n"
        "heartbeat()\n"
        "write_checkpoint()\n"
    )
    run = launch("stop.dump=true", "stop.grace_s=2", "--", sys.executable, str(tmp_path / "stuck.py"))
    (pid,) = run.workers(run.await_healthy()).values()
    until((run.directory / "ready").exists, "the worker is stuck")
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    (stuck,) = run.events("worker_stuck")
    (killed,) = run.events("worker_exited", signal=9, sent_by_us=True)
    asked = run.events("stop_requested")[0]
    assert (stuck["rank"], stuck["pid"]) == (0, pid)
    assert "in write_checkpoint" in stuck["stacks"]
    assert asked["mono"] + 1.6 <= stuck["mono"] <= killed["mono"]
    assert "rank 0 does not stop; its stacks are in the journal" in run.stderr


def test_workers_that_stop_are_not_asked_where_they_stand(launch: Launcher) -> None:
    run = launch("stop.dump=true", *SLEEP)
    run.await_healthy()
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.events("worker_stuck") == []
