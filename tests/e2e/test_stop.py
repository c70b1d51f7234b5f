"""Stops by a platform that is about to kill. Those by a person, in every state, are among the faults."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import SLEEP, in_round, python, until
from tests.e2e.states import DEAF, ONE_FAILS_ONE_IS_DEAF
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

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


def test_workers_that_stop_are_not_asked_where_they_stand(launch: Launcher) -> None:
    run = launch("stop.dump=true", *SLEEP)
    run.await_healthy()
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.events("worker_stuck") == []
