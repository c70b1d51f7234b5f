"""The fence: from its moment on no worker runs, whoever sleeps, and whatever else is under way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.edge.guard.client import Exited, Fenced, ServerStarted, Spawned, SpawnFailed, Stopped
from tests.edge.guard.test_guard_deaths import ESCAPER, SLEEPER
from tests.edge.procs import is_alive, read_pid, state_of, wait_until

if TYPE_CHECKING:
    from tests.edge.guard.conftest import Agent


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_fence_that_is_not_extended_kills_every_tree_but_no_server(agent: Agent, tmp_path: Path) -> None:
    server = agent.number()
    agent.client.serve(server, ["sleep", "1000"], agent.env, log=None)
    handles = [agent.spawn(*SLEEPER), agent.spawn(*ESCAPER, cwd=str(tmp_path))]
    wait_until(lambda: bool(list(tmp_path.glob("escaped.*"))), "the escaper is out")
    escaper = read_pid(next(tmp_path.glob("escaped.*")))
    agent.client.fence(boot_time() + 0.05)
    agent.wait(Fenced)
    assert [agent.wait(Exited, handle).sent_by_us for handle in handles] == [True, True]
    wait_until(lambda: state_of(escaper) == "", "the escaper is gone")
    assert is_alive(agent.wait(ServerStarted, server).pid)


def test_an_extended_or_lifted_fence_does_not_fall(agent: Agent) -> None:
    pid = agent.pid_of(agent.spawn(*SLEEPER))
    agent.client.fence(boot_time() + 0.2)
    agent.client.fence(boot_time() + 1000)
    agent.wait(Exited, agent.sh("sleep 0.4"))
    agent.client.fence(boot_time() + 0.2)
    agent.client.fence(None)
    agent.wait(Exited, agent.sh("sleep 0.4"))
    assert is_alive(pid)
    assert not agent.of_kind(Fenced)


def test_the_fence_falls_at_its_moment_and_tells_which_it_was(agent: Agent) -> None:
    pid = agent.pid_of(agent.spawn(*SLEEPER))
    at = boot_time() + 0.3
    agent.client.fence(at)
    fenced = agent.wait(Fenced)
    assert fenced.at_s == at
    assert 0 <= boot_time() - at < 0.3
    wait_until(lambda: not is_alive(pid), "the worker is killed")


def test_the_fence_falls_though_nobody_reads_what_the_guard_says(agent: Agent) -> None:
    pid = agent.pid_of(agent.spawn(*SLEEPER))
    agent.client.fence(boot_time() + 0.1)
    agent.round_trip()
    wait_until(lambda: not is_alive(pid), "the worker is killed")  # while the agent's loop does not turn


def test_the_fence_does_not_wait_for_a_stop_that_is_in_its_grace(agent: Agent, tmp_path: Path) -> None:
    handle = agent.sh("trap '' TERM; echo $$ > pid; while :; do sleep 1000; done", cwd=str(tmp_path))
    read_pid(tmp_path / "pid")
    ticket = agent.stop(handle, grace_s=1000)
    agent.client.fence(boot_time() + 0.1)
    exited = agent.wait(Exited, handle)
    assert (exited.signal, exited.sent_by_us) == (signal.SIGKILL, True)
    assert agent.wait(Stopped, ticket).unkillable == ()


def test_what_is_ordered_after_the_fall_is_refused_until_a_moment_to_come_is_set(agent: Agent) -> None:
    agent.client.fence(boot_time())
    agent.wait(Fenced)
    refused = [agent.spawn(*SLEEPER)]
    agent.client.fence(None)
    refused.append(agent.spawn(*SLEEPER))
    agent.client.fence(boot_time() - 1)
    refused.append(agent.spawn(*SLEEPER))
    assert [agent.wait(SpawnFailed, handle).step for handle in refused] == ["fenced"] * 3
    agent.client.fence(boot_time() + 1000)
    assert is_alive(agent.pid_of(agent.spawn(*SLEEPER)))


def test_what_was_ordered_before_the_fall_and_is_read_after_it_never_runs(agent: Agent, tmp_path: Path) -> None:
    agent.round_trip()
    os.kill(agent.client.pid, signal.SIGSTOP)
    wait_until(lambda: state_of(agent.client.pid) == "T", "the guard is paused")
    at = boot_time() + 0.1
    agent.client.fence(at)
    handle = agent.sh(f"touch {tmp_path}/ran")
    wait_until(lambda: boot_time() > at, "the moment has passed")
    os.kill(agent.client.pid, signal.SIGCONT)
    assert agent.wait(SpawnFailed, handle).step == "fenced"
    assert [type(event) for event in agent.events[-2:]] == [Fenced, SpawnFailed]
    assert not (tmp_path / "ran").exists()


def test_an_extension_that_came_while_the_guard_was_paused_counts(agent: Agent) -> None:
    pid = agent.pid_of(agent.spawn(*SLEEPER))
    at = boot_time() + 0.1
    agent.client.fence(at)
    agent.round_trip()
    os.kill(agent.client.pid, signal.SIGSTOP)
    agent.client.fence(boot_time() + 1000)
    wait_until(lambda: boot_time() > at, "the first moment has passed")
    os.kill(agent.client.pid, signal.SIGCONT)
    agent.round_trip()
    assert is_alive(pid)
    assert not agent.of_kind(Fenced)


def test_a_fence_falls_once_and_nothing_is_left_to_fall(agent: Agent) -> None:
    agent.client.fence(boot_time())
    agent.wait(Fenced)
    agent.client.fence(boot_time() + 1000)
    pid = agent.pid_of(agent.spawn(*SLEEPER))
    agent.wait(Exited, agent.sh("sleep 0.1"))
    assert is_alive(pid)
    assert len(agent.of_kind(Fenced)) == 1
    assert len(agent.of_kind(Spawned)) == 2
