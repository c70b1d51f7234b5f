"""Containment by cgroup v2: what goes into a leaf comes out dead, and no leaf outlives its tree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.edge.guard import cgroup
from orchestrator.edge.guard.cgroup import Leaf
from orchestrator.edge.guard.client import Exited, GuardLost, SpawnFailed, Stopped, sweep_orphans
from tests.edge.guard.layers import confined, own_cgroup
from tests.edge.guard.test_guard_stop import ANONYMOUS
from tests.edge.procs import is_alive, read_pid, state_of, wait_until

if TYPE_CHECKING:
    from tests.edge.guard.conftest import Agent

pytestmark = pytest.mark.skipif(own_cgroup() is None, reason="needs a writable cgroup2")

ROOT = Path(__file__).parents[3]


def home_of(agent: Agent) -> Path:
    assert agent.started is not None
    assert agent.started.cgroup is not None
    return Path(agent.started.cgroup)


def leaves(agent: Agent) -> list[Path]:
    return [path for path in home_of(agent).iterdir() if path.is_dir()]


@pytest.fixture
def leaf() -> Iterator[Leaf]:
    home = own_cgroup()
    assert home is not None
    path = home / f"orchestrator-test-{os.getpid()}"
    path.mkdir()
    leaf = Leaf(str(path))
    yield leaf
    leaf.kill()
    wait_until(lambda: not leaf.populated(), "the leaf is empty")
    leaf.remove()
    assert not path.exists()


def test_each_worker_has_a_leaf_of_its_own_which_goes_with_it(agent: Agent) -> None:
    handles = [agent.sh("exec sleep 1000") for _ in range(3)]
    pids = {agent.pid_of(handle) for handle in handles}
    found = leaves(agent)
    assert {int((path / "cgroup.procs").read_text()) for path in found} == pids
    agent.wait(Stopped, agent.stop(handles[0]))
    assert len(leaves(agent)) == 2
    agent.wait(Stopped, agent.stop(*handles))
    assert leaves(agent) == []
    agent.pid_of(agent.sh("exec sleep 1000"))
    assert leaves(agent)[0] not in found


def test_a_start_that_fails_leaves_no_leaf(agent: Agent) -> None:
    agent.wait(SpawnFailed, agent.spawn("/no/such/program"))
    agent.round_trip()
    wait_until(lambda: leaves(agent) == [], "the leaf is removed")


def test_a_leaf_that_cannot_be_made_is_a_start_that_failed_and_can_be_tried_again(agent: Agent) -> None:
    limit = home_of(agent) / "cgroup.max.descendants"
    limit.write_text("0")
    failed = agent.wait(SpawnFailed, agent.sh("exec sleep 1000"))
    assert failed.step == "cgroup"
    limit.write_text("max")
    agent.pid_of(agent.sh("exec sleep 1000"))


def test_a_worker_that_makes_cgroups_of_its_own_dies_in_them_and_they_go(agent: Agent, tmp_path: Path) -> None:
    script = (
        f'd={home_of(agent)}/$(basename $(sed -n "s/^0:://p" /proc/self/cgroup)); mkdir $d/a $d/a/b; '
        'sh -c "echo 0 > $d/a/b/cgroup.procs; echo \\$\\$ > pid; exec sleep 1000" & wait'
    )
    handle = agent.sh(script, cwd=str(tmp_path))
    pid = read_pid(tmp_path / "pid")
    agent.wait(Stopped, agent.stop(handle))
    assert not is_alive(pid)
    assert leaves(agent) == []


def test_the_guards_end_takes_its_directory_along(agent: Agent) -> None:
    home = home_of(agent)
    agent.pid_of(agent.sh("exec sleep 1000"))
    agent.quit()
    assert not home.exists()


def test_what_a_killed_guard_leaves_is_killed_by_its_leaf_and_reaped(agent: Agent, tmp_path: Path) -> None:
    handle = agent.python(ANONYMOUS.format(session="os.setsid()", after="signal.pause()"), cwd=str(tmp_path))
    pid, main, home = read_pid(tmp_path / "anonymous"), agent.pid_of(handle), home_of(agent)
    os.kill(agent.client.pid, signal.SIGKILL)
    agent.wait(GuardLost)
    sweep_orphans(agent.client.pid, [main], home=str(home))
    assert [state_of(main), state_of(pid)] == ["", ""]  # nothing but its leaf says whose it was
    assert not home.exists()


def test_without_cgroup_kill_each_process_is_killed_by_itself(leaf: Leaf) -> None:
    script = f"echo 0 > {leaf.path}/cgroup.procs; for i in 1 2 3; do setsid sleep 1000 & done; wait"
    with subprocess.Popen(["/bin/sh", "-c", script]) as child:
        wait_until(lambda: len(leaf.pids()) == 4, "all are started")
        leaf.kill_each()
        wait_until(lambda: not leaf.populated(), "all are dead")
        assert child.wait() == -signal.SIGKILL


def test_a_kernel_that_cannot_bear_a_child_in_a_cgroup_has_it_go_there(leaf: Leaf) -> None:
    code = (
        "import errno, os, sys\n"
        "from orchestrator.edge.guard import spawn\n"
        "def cannot(fd): raise OSError(errno.ENOSYS, 'clone3')\n"
        "spawn.fork_into = cannot\n"
        "pid, _, _ = spawn.start(spawn.Program(['cat', '/proc/self/cgroup'], dict(os.environ)), sys.argv[1])\n"
        "os.waitpid(pid, 0)\n"
    )
    argv = [sys.executable, "-c", code, leaf.path]
    told = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT, timeout=20)
    assert told.stdout.rpartition("0::")[2].strip().endswith(f"/{Path(leaf.path).name}")


@pytest.mark.parametrize(
    ("own", "mounts", "found"),
    [
        ("0::/\n", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup"),
        ("0::/a/b\n", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/a/b"),
        (
            "8:pids:/x\n0::/\n",
            "32 1 0:2 / /c/pids rw - cgroup cgroup rw\n41 1 0:3 / /c/u\\040v rw - cgroup2 x rw\n",
            "/c/u v",
        ),
        ("0::/box/a\n", "31 23 0:28 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/a"),
        ("0::/boxes/a\n", "31 23 0:28 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", None),
        ("0::/../other\n", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", None),
        ("8:pids:/x\n", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", None),
        ("0::/\n", "32 1 0:2 / /c/pids rw - cgroup cgroup rw\n", None),
    ],
)
def test_the_own_cgroup_is_found_in_what_the_kernel_tells(own: str, mounts: str, found: str | None) -> None:
    assert cgroup.directory(own, mounts) == found


def test_a_guard_that_may_not_make_cgroups_goes_without(agent: Agent) -> None:
    with confined("subreaper") as group:
        other = type(agent)(agent.home, group)
        assert other.started is not None
        assert (other.started.containment, other.started.cgroup) == ("subreaper", None)
        assert other.wait(Exited, other.sh("exit 3")).exit_code == 3
        other.close()
