"""Agent and guard killed at once: what a worker had detached survives, until the run's next guard comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.edge.guard import cgroup, tree
from orchestrator.edge.guard.client import Exited, GhostsKilled
from tests.edge.guard.layers import LAYERS, confined, homes
from tests.edge.procs import is_alive, read_pid, wait_until

if TYPE_CHECKING:
    from tests.edge.guard.conftest import Agent

# Two in sessions of their own: one keeps the environment, its child has none.
DETACHED = (
    "import os, signal\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "    print(os.getpid(), file=open('marked', 'w'), flush=True)\n"
    "    if os.fork() == 0:\n"
    "        os.setsid()\n"
    "        os.execve('/bin/sh', ['sh', '-c', 'echo $$ > bare; exec sleep 1000'], {})\n"
    "    signal.pause()\n"
    "signal.pause()\n"
)


@pytest.fixture
def ghosts(tmp_path: Path, layer: str) -> Iterator[tuple[str, list[int]]]:
    """A run and its ghosts, whose guard had held them together in this way."""
    run_id = f"run-{uuid.uuid4().hex}"
    with confined(layer) as group:
        plan = {
            "workers": [[sys.executable, "-I", "-S", "-c", DETACHED]],
            "servers": [],
            "will": "",
            "cleanup": [],
            "home": str(tmp_path),
            "group": str(group) if group else None,
        }
        agent = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("agent_process.py")), json.dumps(plan)],
            env={**os.environ, "ORCHESTRATOR_RUN_ID": run_id},
            stdout=subprocess.PIPE,
        )
        assert agent.stdout is not None
        told = json.loads(agent.stdout.readline())
        pids = [read_pid(tmp_path / name) for name in ("marked", "bare")]
        agent.send_signal(signal.SIGSTOP)  # so that neither sees the other die
        os.kill(told["guard"], signal.SIGSTOP)
        os.kill(told["guard"], signal.SIGKILL)
        agent.kill()
        agent.wait()
        agent.stdout.close()
        wait_until(lambda: not is_alive(told["pids"][0]), "the direct worker has died with its guard")
        assert all(is_alive(pid) for pid in pids)
        yield run_id, pids
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        for left in (path for path in homes() if path.name.split(".")[2] == str(told["guard"])):
            wait_until(lambda left=left: "populated 0" in (left / "cgroup.events").read_text(), "it is empty")  # type: ignore[misc]
            cgroup.remove(str(left))


@pytest.mark.parametrize("layer", LAYERS, indirect=True)
def test_the_next_guard_of_the_run_kills_them_before_its_first_worker_and_says_so(
    agent: Agent, ghosts: tuple[str, list[int]]
) -> None:
    run_id, pids = ghosts
    agent.client.lay_ghosts(run_id)
    looks = " ".join(f"/proc/{pid}" for pid in pids)
    handle = agent.sh(f"for p in {looks}; do grep -q '^State:.[^Z]' $p/status && exit 9; done; exit 0")
    assert agent.wait(Exited, handle).exit_code == 0
    assert set(agent.wait(GhostsKilled).pids) == set(pids)
    assert [str(path) for path in homes() if tree.started(int(path.name.split(".")[2])) == 0] == []


@pytest.mark.parametrize("layer", LAYERS, indirect=True)
def test_other_runs_and_living_guards_have_no_ghosts(
    agent: Agent, ghosts: tuple[str, list[int]], tmp_path: Path
) -> None:
    _, pids = ghosts
    env = {**agent.env, "ORCHESTRATOR_RUN_ID": "alive"}
    handle = agent.number()
    agent.client.spawn(handle, [sys.executable, "-I", "-S", "-c", DETACHED], env, cwd=str(tmp_path))
    mine = agent.pid_of(handle)
    for run_id in ("alive", "another"):
        agent.client.lay_ghosts(run_id)
    agent.round_trip()
    assert not agent.of_kind(GhostsKilled)
    assert is_alive(mine)
    assert all(is_alive(pid) for pid in pids)


def test_a_number_that_another_process_has_now_is_no_guard(agent: Agent) -> None:
    for guard in (f"{os.getpid()}.1.1", f"{os.getpid()}.{tree.started(os.getpid())}.1"):
        env = {**os.environ, "ORCHESTRATOR_RUN_ID": f"of-{guard}", "ORCHESTRATOR_GUARD": guard}
        with subprocess.Popen(["sleep", "1000"], env=env) as process:
            agent.client.lay_ghosts(f"of-{guard}")
            agent.round_trip()
            recycled = guard.endswith(".1.1")
            told = [event for event in agent.of_kind(GhostsKilled) if process.pid in event.pids]
            assert bool(told) is recycled
            process.kill()


def test_to_look_for_them_takes_a_moment(agent: Agent) -> None:
    agent.round_trip()
    began = time.monotonic()
    agent.client.lay_ghosts("nothing-of-which-is-left")
    agent.round_trip()
    assert time.monotonic() - began < 0.2  # some ms; a busy machine has many processes
