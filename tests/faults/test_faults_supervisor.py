"""Faults 21 to 26: agents and guards that are killed, and stops at any moment. Nothing is left, and a stop wins."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from orchestrator.edge.guard.client import Exited, Stopped
from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, SLEEP, alive, in_round, python, until
from tests.e2e.states import STATES, in_backoff, in_starting
from tests.edge.guard.conftest import Agent
from tests.edge.procs import descendants, is_alive, wait_until
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

DAEMON = (
    "import os, signal",
    "if os.fork() == 0:",
    "    os.setsid()",
    "    print(os.getpid(), file=open('daemon', 'w'), flush=True)",
    "signal.pause()",
)


# Agents are never followed by another brain for the same workers; tests/chaos kills them at every step of a command.
@pytest.mark.parametrize("state", STATES)
def test_fault_21_the_agent_is_killed(nodes: Nodes, server: Server, state: str) -> None:
    run = STATES[state](nodes, server)
    run.await_event("transition", to=state)
    guard, below = run.guard_pid(), descendants(run.process.pid)
    run.signal(signal.SIGKILL)
    run.process.wait()
    if state == "STARTING":
        os.kill(guard, signal.SIGCONT)  # it was paused so that the state lasts
    wait_until(lambda: not any(is_alive(pid) for pid in below if pid != guard), "no worker is left", 1)
    wait_until(lambda: not is_alive(guard), "the guard has told a server that may not answer, and is gone", 3)


def test_fault_22_the_guard_is_killed(launch: Launcher) -> None:
    run = launch("worker.nproc=2", *FAST, *SLEEP)
    first = run.await_healthy()
    before = run.workers(first)
    os.kill(run.guard_pid(), signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in before.values()), "direct workers die with it", 1)
    after = run.workers(run.await_healthy(2))
    assert not set(after.values()) & set(before.values())
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.result["restarts"] == 1, "charged, although the embedded server's memory died with its guard"


def test_fault_23_agent_and_guard_are_killed_and_a_daemon_lives(launch: Launcher) -> None:
    first = launch("run_id=ghosts-e2e", *python(*DAEMON))
    first.await_healthy()
    written = first.directory / "daemon"
    until(lambda: written.exists() and written.read_text().endswith("\n"), "the daemon runs")
    pid = int(written.read_text())
    first.kill_with_guard()
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


def test_fault_23_a_second_agent_of_the_same_name(nodes: Nodes) -> None:
    a = nodes.start("a", "nodes=1:2", "rendezvous.lease_s=1", *SLEEP)
    in_round(a, 1)
    twin = nodes.start("a", "nodes=1:2", "rendezvous.lease_s=1", *SLEEP, directory="twin")
    assert twin.wait() == 3
    assert "node name 'a' belongs to a live agent" in twin.stderr
    assert a.process.poll() is None
    a.signal(signal.SIGTERM)
    assert a.wait() == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("state", STATES)
def test_fault_24_the_first_signal_stops_in_every_state_and_nothing_is_started_after_it(
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
def test_fault_24_a_second_signal_kills_whatever_is_being_stopped_already(
    nodes: Nodes, server: Server, state: str
) -> None:
    run = STATES[state](nodes, server)
    run.await_event("transition", to=state)
    for number in (1, 2):
        run.signal(signal.SIGINT)
        run.await_event("stop_requested", number)
    if state == "STARTING":
        os.kill(run.guard_pid(), signal.SIGCONT)
    assert run.wait() == 130


def test_fault_24_a_third_signal_does_not_wait_for_a_guard_that_hangs_at_the_start(
    nodes: Nodes, server: Server
) -> None:
    run = in_starting(nodes, server)
    run.await_event("transition", to="STARTING")
    guard = run.guard_pid()
    for number in (1, 2, 3):
        run.signal(signal.SIGINT)
        if number < 3:
            run.await_event("stop_requested", number)
    assert run.wait() == 130
    os.kill(guard, signal.SIGCONT)


# Nothing of it waits: the tenth of a second is the machine's.
def test_fault_25_a_stop_while_a_restart_is_waited_for(nodes: Nodes, server: Server) -> None:
    run = in_backoff(nodes, server)
    run.await_event("transition", to="BACKOFF")
    began = len(run.events("worker_started"))
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.journal[-1]["mono"] - run.events("stop_requested")[0]["mono"] < 0.1
    assert len(run.events("worker_started")) == began == 1


def test_fault_26_a_stop_races_restarts_at_the_guard(agent: Agent) -> None:
    moments = random.Random(26)
    for _ in range(1000):
        agent.events.clear()
        handles = [agent.spawn("sleep", "1000") if moments.random() < 0.5 else agent.spawn("true") for _ in range(2)]
        if moments.random() < 0.5:
            agent.client.kill([moments.choice(handles)])
        if moments.random() < 0.3:
            agent.pid_of(handles[0])
        agent.wait(Stopped, agent.stop(*handles))
        assert {event.handle for event in agent.of_kind(Exited)} == set(handles)
        assert descendants(agent.client.pid) == []


# The machine under any order of events: tests/core/test_machine.py.
def test_fault_26_a_stop_races_restarts(nodes: Nodes) -> None:
    moments = random.Random(26)
    loop = ("restart.budget.max=null", "restart.backoff.initial_s=0", "restart.backoff.max_s=0", "node.rank=0")
    for number in range(8):
        run = nodes.start("a", f"run_id=race{number}", *loop, "--", "false", directory=f"race{number}")
        run.await_event("transition", moments.randint(5, 25))
        end = time.monotonic() + moments.random() / 50
        while time.monotonic() < end:
            pass
        run.signal(signal.SIGTERM)
        assert run.wait() == 143
        assert run.result["state"] == "STOPPED"
        closing = run.events("transition", to="CLOSING")[0]["mono"]
        assert [record for record in run.events("restart_decided") if record["mono"] > closing] == []
        started, ended = (
            {record["pid"] for record in run.events(name)} for name in ("worker_started", "worker_exited")
        )
        assert started <= ended, "who began has ended"
