"""From a request to an exit: what workers are given, and what is told of them."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.edge.guard import tree
from orchestrator.edge.guard.client import Exited, Spawned, SpawnFailed, Stopped
from orchestrator.edge.guard.steps import spawn_failure
from tests.edge.guard.layers import LAYERS
from tests.edge.procs import children, read_pid, tagged, wait_until

if TYPE_CHECKING:
    from tests.edge.guard.conftest import Agent

PIDS = Path("/sys/fs/cgroup/pids")


def test_an_exit_code_is_reported_after_the_start(agent: Agent) -> None:
    handle = agent.sh("exit 42")
    exited = agent.wait(Exited, handle)
    assert agent.events == [Spawned(handle, exited.pid), exited]
    assert (exited.exit_code, exited.signal, exited.sent_by_us) == (42, None, False)


def test_a_foreign_signal_is_reported_as_such(agent: Agent) -> None:
    handle = agent.sh("kill -KILL $$")
    exited = agent.wait(Exited, handle)
    assert (exited.exit_code, exited.signal, exited.sent_by_us, exited.core) == (None, signal.SIGKILL, False, False)


@pytest.mark.parametrize(
    ("argv", "options", "step", "code"),
    [
        (["/no/such/program"], {}, "exec", errno.ENOENT),
        (["no-such-program-on-the-path"], {}, "exec", errno.ENOENT),
        (["/etc/passwd"], {}, "exec", errno.EACCES),
        (["/tmp"], {}, "exec", errno.EACCES),
        (["true", "a\0b"], {}, "exec", errno.EINVAL),
        (["true"], {"cwd": "/no/such/directory"}, "chdir", errno.ENOENT),
        (["true"], {"stdout": "/no/such/directory/out.log"}, "open_stdout", errno.ENOENT),
        (["true"], {"stderr": "/tmp"}, "open_stderr", errno.EISDIR),
    ],
)
def test_a_failed_start_names_its_step_and_errno(
    agent: Agent, argv: list[str], options: dict[str, str], step: str, code: int
) -> None:
    handle = agent.spawn(*argv, **options)
    agent.wait(SpawnFailed, handle)
    agent.wait(Exited, agent.spawn("true"))
    assert agent.events[0] == SpawnFailed(handle, step, code)
    assert not [event for event in agent.events[1:] if getattr(event, "handle", None) == handle]
    wait_until(lambda: not children(agent.client.pid), "the failed child is reaped")


def test_a_handle_in_use_is_refused_and_its_worker_left_alone(agent: Agent) -> None:
    handle = agent.sh("sleep 1000")
    pid = agent.pid_of(handle)
    agent.client.spawn(handle, ["true"], agent.env)
    assert agent.wait(SpawnFailed, handle).step == "id_in_use"
    os.kill(pid, 0)


def test_a_worker_starts_with_a_clean_slate(agent: Agent, tmp_path: Path) -> None:
    out = tmp_path / "out.log"
    out.write_text("kept\n")
    code = (
        "import os; status = open('/proc/self/status').read()\n"
        "print([line for line in status.splitlines() if line[:6] in ('SigBlk', 'SigCgt')])\n"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1], os.readlink('/proc/self/fd/0'))\n"
        "print(os.getsid(0) == os.getpid(), os.getcwd(), oct(os.umask(0)))\n"
        "print(os.environ['ORCHESTRATOR_GUARD'], os.getppid())\n"
    )
    handle = agent.python(code, stdout=str(out), cwd=str(tmp_path), umask=0o027)
    assert agent.wait(Exited, handle).exit_code == 0
    kept, signals, fds, process, marker = out.read_text().splitlines()
    assert kept == "kept"
    assert "'SigBlk:\\t0000000000000000'" in signals
    assert fds == "[0, 1, 2] /dev/null"
    assert process == f"True {tmp_path} 0o27"
    assert marker == f"{agent.client.pid}.{tree.started(agent.client.pid)}.{handle} {agent.client.pid}"


def test_signals_that_python_ignores_are_at_their_default_in_a_worker(agent: Agent, tmp_path: Path) -> None:
    out = tmp_path / "out.log"
    agent.wait(Exited, agent.sh("grep SigIgn /proc/self/status", stdout=str(out)))
    ignored = int(out.read_text().split()[1], 16)
    assert not [signum for signum in signal.valid_signals() if ignored >> (signum - 1) & 1]


def test_the_descriptor_limit_is_the_launchers_own(agent: Agent, tmp_path: Path) -> None:
    out = tmp_path / "out.log"
    agent.wait(Exited, agent.sh("ulimit -Sn; ulimit -Hn", stdout=str(out)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert out.read_text().split() == [str(soft), str(hard)]


def test_a_program_is_looked_up_along_the_workers_own_path(agent: Agent, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "only-here"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    handle = agent.number()
    agent.client.spawn(handle, ["only-here"], {"PATH": f"/no/such:{program.parent}"})
    assert agent.wait(Exited, handle).exit_code == 7


def test_relative_paths_mean_the_agents_directory_of_now(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "later").mkdir()
    monkeypatch.chdir(tmp_path)
    agent.wait(Exited, agent.sh("pwd", cwd="later", stdout="out.log"))
    assert (tmp_path / "out.log").read_text().strip() == str(tmp_path / "later")


def test_a_grandchild_that_holds_stdout_does_not_delay_the_exit(agent: Agent, tmp_path: Path) -> None:
    out = tmp_path / "out.log"
    handle = agent.sh("sleep 1000 & echo $! > pid; exit 5", stdout=str(out), cwd=str(tmp_path))
    assert agent.wait(Exited, handle).exit_code == 5
    wait_until(lambda: not Path(f"/proc/{read_pid(tmp_path / 'pid')}").exists(), "the grandchild is swept and reaped")


def test_many_exits_at_once_are_all_told_and_leave_no_zombie(agent: Agent) -> None:
    handles = [agent.sh(f"exit {number}") for number in range(40)]
    codes = [agent.wait(Exited, handle).exit_code for handle in handles]
    assert codes == list(range(40))
    assert children(agent.client.pid) == []


def test_descriptors_return_to_the_baseline(agent: Agent) -> None:
    agent.wait(Exited, agent.spawn("true"))
    agent.round_trip()
    before = descriptors(agent)
    for handle in [agent.spawn("true") for _ in range(50)]:
        agent.wait(Exited, handle)
    agent.wait(SpawnFailed, agent.spawn("/no/such/program"))
    wait_until(lambda: descriptors(agent) == before, "no descriptor is left over")


def test_a_sole_exit_is_told_promptly(agent: Agent, tmp_path: Path) -> None:
    handles = [agent.sh("echo > ready; exec sleep 1000", cwd=str(tmp_path)) for _ in range(4)]
    pids = [agent.pid_of(handle) for handle in handles]
    agent.round_trip()
    began = time.monotonic()
    os.kill(pids[2], signal.SIGKILL)
    exited = agent.wait(Exited, handles[2])
    assert time.monotonic() - began < 1  # a few milliseconds on a quiet machine; polling would take longer
    assert not exited.sent_by_us
    assert len(agent.of_kind(Exited)) == 1


def test_the_guard_is_small_and_single_threaded(agent: Agent) -> None:
    agent.wait(Exited, agent.spawn("true"))
    status = Path(f"/proc/{agent.client.pid}/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines())
    assert int(values["VmRSS"].split()[0]) < 12 * 1024
    assert int(values["Threads"]) == 1
    assert os.getsid(agent.client.pid) == agent.client.pid


def test_the_guard_imports_nothing_dear(agent: Agent, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    code = (
        f"import sys; sys.path.append({str(root)!r}); from orchestrator.edge.guard import guard\n"
        "print(*sorted({'re', 'json', 'typing', 'dataclasses', 'pathlib', 'subprocess', 'asyncio', 'socket', 'ssl'}"
        " & set(sys.modules)))"
    )
    out = tmp_path / "out.log"
    assert agent.wait(Exited, agent.spawn(sys.executable, "-I", "-S", "-c", code, stdout=str(out))).exit_code == 0
    assert out.read_text().split() == []


def test_output_of_an_agent_without_standard_descriptors_does_not_reach_the_guard(tmp_path: Path) -> None:
    code = (
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "from orchestrator.edge.guard.launch import launch\n"
        "process = launch()\n"
        "os.write(1, b'hello'); os.write(2, b'hello')\n"
        "print(process.sock.fileno(), file=open('fd', 'w'))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert int((tmp_path / "fd").read_text()) > 2


def test_limits_and_processors_are_the_workers_alone(agent: Agent, tmp_path: Path) -> None:
    out = tmp_path / "out.log"
    code = (
        "import os, resource\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE), *resource.getrlimit(resource.RLIMIT_CORE))\n"
        "print(*os.sched_getaffinity(0))\n"
    )
    cpu = max(os.sched_getaffinity(0))
    argv = [sys.executable, "-I", "-S", "-c", code]
    handle = agent.number()
    bounds = {"nofile": (64, 128), "core": (0, 0)}
    agent.client.spawn(handle, argv, agent.env, stdout=str(out), limits=bounds, cpus=[cpu])
    assert agent.wait(Exited, handle).exit_code == 0
    assert out.read_text().splitlines() == ["64 128 0 0", str(cpu)]
    assert os.sched_getaffinity(agent.client.pid) == os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("options", "step", "code"),
    [
        ({"limits": {"rtprio": (2, 1)}}, "limits.rtprio", errno.EINVAL),
        ({"cpus": [4711]}, "affinity", errno.EINVAL),
    ],
)
def test_a_limit_or_a_processor_that_cannot_be_had_is_a_start_that_failed(
    agent: Agent, options: dict[str, Any], step: str, code: int
) -> None:
    handle = agent.number()
    agent.client.spawn(handle, ["true"], agent.env, **options)
    assert agent.wait(SpawnFailed, handle) == SpawnFailed(handle, step, code)


def descriptors(agent: Agent) -> set[str]:
    return {path.name for path in Path(f"/proc/{agent.client.pid}/fd").iterdir()}


@pytest.mark.parametrize("layer", LAYERS, indirect=True)
def test_a_guard_without_descriptors_refuses_workers_and_can_still_kill_those_it_has(
    agent: Agent, tmp_path: Path
) -> None:
    agent.round_trip()
    before = descriptors(agent)
    most = max(int(fd) for fd in before) + 20
    hard = resource.prlimit(agent.client.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(agent.client.pid, resource.RLIMIT_NOFILE, (most, hard))
    forks = "import os, signal; os.fork() or os.setsid(); signal.pause()"
    handles = [agent.python(forks, cwd=str(tmp_path)) for _ in range(40)]
    agent.until(lambda: len(agent.of_kind(Spawned)) + len(agent.of_kind(SpawnFailed)) == len(handles))
    assert agent.of_kind(Spawned)
    assert {(failed.step, failed.errno) for failed in agent.of_kind(SpawnFailed)} == {("pipe", errno.EMFILE)}
    assert agent.wait(Stopped, agent.stop(*handles, grace_s=0)).unkillable == ()
    wait_until(lambda: descriptors(agent) == before, "no descriptor is left over")
    assert tagged(agent.tag) == []
    agent.pid_of(agent.sh("exec sleep 1000"))


@pytest.mark.skipif(not os.access(PIDS / "cgroup.procs", os.W_OK), reason="needs a writable pids cgroup")
def test_a_guard_that_may_not_fork_says_so_and_goes_on(agent: Agent) -> None:
    agent.round_trip()
    before = descriptors(agent)
    group = PIDS / f"orchestrator-test-{os.getpid()}"
    group.mkdir()
    (group / "cgroup.procs").write_text(str(agent.client.pid))
    (group / "pids.max").write_text("3")
    try:
        handles = [agent.sh("exec sleep 1000") for _ in range(4)]
        agent.client.lay_ghosts("of-nobody")  # forks, too
        agent.until(lambda: len(agent.of_kind(Spawned)) + len(agent.of_kind(SpawnFailed)) == 4)
        assert [(failed.step, failed.errno) for failed in agent.of_kind(SpawnFailed)] == [("fork", errno.EAGAIN)] * 2
        agent.wait(Stopped, agent.stop(*handles))
        assert descriptors(agent) == before
        agent.pid_of(agent.sh("exec sleep 1000"))
    finally:
        agent.quit()
        group.rmdir()


@pytest.mark.parametrize(
    ("step", "code", "told"),
    [
        ("chdir", errno.ENOENT, "p: No such file or directory (at chdir; see worker.cwd)"),
        ("limits.nofile", errno.EPERM, "p: Operation not permitted (at limits; see worker.limits.nofile)"),
        ("affinity", errno.EINVAL, "p: Invalid argument (at affinity; see worker.affinity)"),
        ("exec", errno.EACCES, "p: Permission denied (at exec; see worker.cmd)"),
        ("pipe", errno.EMFILE, "p: Too many open files (at pipe; no more open files are allowed, by ulimit -n)"),
        ("pdeathsig", errno.EPERM, "p: Operation not permitted (at pdeathsig)"),
        ("creating /x.y/z", errno.EACCES, "p: Permission denied (at creating /x.y/z)"),
    ],
)
def test_a_failed_start_names_the_key_or_the_limit_that_it_hangs_on(step: str, code: int, told: str) -> None:
    assert spawn_failure("p", step, code) == told
