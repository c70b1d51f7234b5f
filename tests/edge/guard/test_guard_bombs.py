"""Trees that do not want to end: they fork without end, start each other again, or wait where no signal reaches."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.edge.guard.client import Exited, Stopped
from tests.edge.disks import freezable, needs_loop, sh
from tests.edge.guard.layers import LAYERS
from tests.edge.procs import is_alive, read_pid, state_of, tagged, wait_until

if TYPE_CHECKING:
    from tests.edge.guard.conftest import Agent

pytestmark = pytest.mark.parametrize("layer", LAYERS, indirect=True)

PIDS = Path("/sys/fs/cgroup/pids")

# Eight chains, each of one process at a time: its child lives on, it ends. A number found is dead when one looks again.
CHAINS = (
    "import os\n"
    "print(os.getpid(), file=open('pid', 'w'), flush=True)\n"
    "for _ in range(8):\n"
    "    if os.fork() == 0:\n"
    "        while True:\n"
    "            {session}\n"
    "            if os.fork(): os._exit(0)\n"
    "import signal; signal.pause()\n"
)
# Two of one pair start the other again as soon as it is gone; each leads a session.
PHOENIX = (
    "import os, select, sys\n"
    "print(os.getpid(), file=open('pid', 'w'), flush=True)\n"
    "os.setsid() if os.fork() == 0 else os._exit(0)\n"
    "while True:\n"
    "    twin = os.getpid()\n"
    "    if os.fork() == 0:\n"
    "        os.setsid()\n"
    "        select.select([os.pidfd_open(twin)], [], [])\n"  # the older has died: be the older
    "        continue\n"
    "    os.wait()\n"
)
# As many as are allowed, each of which tries to become two.
BOMB = (
    "import os\n"
    "open(f'{group}/cgroup.procs', 'w').write('0')\n"
    "print(os.getpid(), file=open('pid', 'w'), flush=True)\n"
    "while True:\n"
    "    try:\n"
    "        os.fork() or os.setsid()\n"
    "    except OSError:\n"
    "        pass\n"
)


def nothing_is_left(agent: Agent, *but: int) -> bool:
    return set(tagged(agent.tag)) <= set(but)


def stopped_within(agent: Agent, handle: int, limit_s: float, *spared: int) -> None:
    began = time.monotonic()
    assert agent.wait(Stopped, agent.stop(handle, grace_s=0, kill_wait_s=2 * limit_s)).unkillable == ()
    assert time.monotonic() - began < limit_s
    assert nothing_is_left(agent, *spared)


@pytest.mark.parametrize("session", ["pass", "os.setsid()"])
def test_processes_that_hand_over_to_their_children_without_end_are_ended(
    agent: Agent, tmp_path: Path, session: str
) -> None:
    other = agent.pid_of(agent.sh("exec sleep 1000"))
    handle = agent.python(CHAINS.format(session=session), cwd=str(tmp_path))
    read_pid(tmp_path / "pid")
    stopped_within(agent, handle, 5, other)
    assert is_alive(other)


@pytest.mark.parametrize("ending", ["exit", "agent"])
def test_the_end_of_a_worker_and_of_an_agent_ends_them_too(agent: Agent, tmp_path: Path, ending: str) -> None:
    code = CHAINS.format(session="os.setsid()").replace(
        "signal.pause()", "os._exit(3)" if ending == "exit" else "signal.pause()"
    )
    handle = agent.python(code, cwd=str(tmp_path))
    read_pid(tmp_path / "pid")
    if ending == "exit":
        assert agent.wait(Exited, handle).exit_code == 3
    else:
        agent.quit()
    wait_until(lambda: nothing_is_left(agent), "all chains have ended", 5)


def test_two_that_start_each_other_again_are_ended(agent: Agent, tmp_path: Path) -> None:
    handle = agent.python(PHOENIX, cwd=str(tmp_path))
    read_pid(tmp_path / "pid")
    stopped_within(agent, handle, 5)


@contextmanager
def few_processes(most: int) -> Iterator[Path]:
    """A cgroup that holds so many and no more."""
    group = PIDS / f"orchestrator-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "pids.max").write_text(str(most))
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
        group.rmdir()


@pytest.mark.skipif(not os.access(PIDS / "cgroup.procs", os.W_OK), reason="needs a writable pids cgroup")
def test_a_fork_bomb_is_ended(agent: Agent, tmp_path: Path) -> None:
    with few_processes(100) as group:
        handle = agent.python(BOMB.format(group=group), cwd=str(tmp_path))
        read_pid(tmp_path / "pid")
        wait_until(lambda: int((group / "pids.current").read_text()) == 100, "it is as large as it can be")
        stopped_within(agent, handle, 5)


@needs_loop
def test_one_that_the_kernel_lets_wait_is_named_after_a_bounded_wait_and_reaped_when_it_dies(
    agent: Agent, tmp_path: Path
) -> None:
    with freezable(tmp_path) as mount:
        handle = agent.sh(f"while :; do echo x >> {mount}/log; sleep 0.01; done")
        pid = agent.pid_of(handle)
        wait_until((mount / "log").exists, "it writes")
        sh("fsfreeze", "-f", str(mount))
        wait_until(lambda: state_of(pid) == "D", "it waits, deaf")
        began = time.monotonic()
        assert agent.wait(Stopped, agent.stop(handle, grace_s=0.1, kill_wait_s=0.2)).unkillable == (pid,)
        assert time.monotonic() - began < 5
        sh("fsfreeze", "-u", str(mount))
        assert agent.wait(Exited, handle).sent_by_us
        agent.round_trip()
        assert state_of(pid) == ""


def test_a_stopped_tree_with_a_daemon_that_holds_the_output_ends_at_once(agent: Agent, tmp_path: Path) -> None:
    script = "import os, signal, time\nif os.fork() == 0:\n    os.setsid(); print(os.getpid(), file=open('pid', 'w'))\n"
    script += "    os.kill(os.getpid(), signal.SIGSTOP)\nos.kill(os.getpid(), signal.SIGSTOP)\n"
    handle = agent.python(script.replace("'w'))", "'w'), flush=True)"), cwd=str(tmp_path), stdout=str(tmp_path / "out"))
    pid = read_pid(tmp_path / "pid")
    wait_until(lambda: state_of(pid) == "T" and state_of(agent.pid_of(handle)) == "T", "both are stopped")
    began = time.monotonic()
    agent.wait(Stopped, agent.stop(handle, grace_s=60))
    assert time.monotonic() - began < 5
    assert not is_alive(pid)
