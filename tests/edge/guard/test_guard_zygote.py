"""Workers that are forked from a zygote: what they see is what a new process sees, and nothing of them is ever lost."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.edge.guard.client import Exited, Spawned, SpawnFailed, Stopped, ZygoteFailed, sweep_orphans
from tests.edge.guard.layers import LAYERS
from tests.edge.procs import children, is_alive, read_pid, state_of, tagged, wait_until

if TYPE_CHECKING:
    from tests.edge.guard.conftest import Agent

ZYGOTE, EXEC = "zygote", "exec"
PROBE = """
import os, resource, sys, threading, signal
open_now = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1]
for name in sorted(globals()):
    if name not in ("__annotations__", "open_now"):
        print(name, type(globals()[name]).__name__)
print(__name__, __file__, __package__, getattr(__spec__, "name", None), __doc__, type(__loader__).__name__)
print(sys.argv, sys.orig_argv, sys.executable, sys.flags, sys.warnoptions, sys._xoptions, sys.prefix)
print(sys.path, sys.modules["__main__"].__dict__ is globals())
print(os.getcwd(), oct(os.umask(0)), os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_NOFILE))
print(resource.getrlimit(resource.RLIMIT_CORE), os.getsid(0) == os.getpid() == os.getpgid(0), open_now)
print(sorted((k, v) for k, v in os.environ.items() if k not in ("ORCHESTRATOR_GUARD", "OUT")), os.getppid())
print([line for line in open("/proc/self/status") if line[:6] in ("SigBlk", "SigIgn", "SigCgt", "ShdPnd", "Thread")])
print(threading.main_thread() is threading.current_thread(), threading.main_thread().native_id == os.getpid())
print([signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE)])
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream.name, stream.mode, stream.encoding, stream.errors, stream.line_buffering, stream.write_through)
print(os.readlink("/proc/self/fd/0"), open("/proc/self/comm").read(), open("/proc/self/cmdline").read().strip(chr(0)))
print(os.popen("echo $RANK $ORCHESTRATOR_GUARD").read().partition(".")[0])
"""
SPAWNS = """
import multiprocessing
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=print, args=("child",))
    child.start()
    child.join()
"""


class Nest:
    """A zygote, and workers that come from it or by exec: all of one command."""

    def __init__(
        self, agent: Agent, home: Path, *runs: str, flags: Sequence[str] = (), preload: Sequence[str] = ()
    ) -> None:
        self._agent = agent
        self._home = home
        self._runs = runs or ("probe.py",)
        self._python = [sys.executable, *flags]
        self.handle = agent.number()
        agent.client.zygote(
            self.handle, self._python, self.env, runs=self._runs, preload=preload, cwd=str(home), log=str(home / "log")
        )

    @property
    def env(self) -> dict[str, str]:
        return {**self._agent.env, "PYTHONPATH": str(self._home / "lib")}

    def spawn(self, *args: str, how: str = ZYGOTE, out: str | None = None, **options: Any) -> int:  # noqa: ANN401 - as of `spawn`
        """Request a worker; its handle."""
        handle = self._agent.number()
        output = None if out is None else str(self._home / out)
        fields = {"cwd": str(self._home), "stdout": output, "stderr": output and f"{output}.err", **options}
        env = {**self.env, "RANK": str(handle)} if "env" not in fields else fields.pop("env")
        argv = [*self._python, *self._runs, *args]
        self._agent.client.spawn(handle, argv, env, zygote=self.handle if how == ZYGOTE else None, **fields)
        return handle

    @property
    def pid(self) -> int:
        """Its process."""
        self._agent.wait(Exited, self.spawn("quit"))
        (pid,) = [pid for pid in children(self._agent.client.pid) if b"zygote" in command_of(pid)]
        return pid


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the script stands: it does what its first argument says."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "probe.py").write_text(
        "import os, signal, sys\n"
        "what = sys.argv[1] if sys.argv[1:] else 'quit'\n"
        "if what == 'wait':\n"
        "    signal.pause()\n"
        "if what == 'daemon':\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            os.setsid()\n"
        "            print(os.getpid(), file=open('daemon.new', 'w'))\n"
        "            os.rename('daemon.new', 'daemon')\n"
        "        signal.pause()\n"
        "    signal.pause()\n"
        "if what == 'exit':\n"
        "    sys.exit(int(sys.argv[2]))\n"
    )
    return tmp_path


def module(home: Path, name: str, text: str) -> str:
    """A module that can be preloaded."""
    (home / "lib" / f"{name}.py").write_text(text)
    return name


@pytest.mark.parametrize(
    "flags", [(), ("-u", "-X", "faulthandler", "-W", "ignore", "-Ob"), ("-P",)], ids=["plain", "flags", "safe"]
)
@pytest.mark.parametrize("runs", [("sub/probe.py",), ("./probe.py",), ("-m", "pkg.probe")], ids=" ".join)
def test_a_forked_worker_sees_what_a_new_process_sees(
    agent: Agent, home: Path, runs: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    (home / "sub").mkdir()
    (home / "lib" / "pkg").mkdir()
    (home / "lib" / "pkg" / "__init__.py").touch()
    for path in (home / "probe.py", home / "sub" / "probe.py", home / "lib" / "pkg" / "probe.py"):
        path.write_text(PROBE)
    nest = Nest(agent, home, *runs, flags=flags, preload=["json"])
    env = {**nest.env, "RANK": "7", "ÜML": "\udcff"}
    said = {}
    for how in (EXEC, ZYGOTE):
        cpus = [max(os.sched_getaffinity(0))]
        limits = {"nofile": (64, 128), "core": (0, 0)}
        handle = nest.spawn("--lr", "0.1", how=how, out=how, env=env, umask=0o027, limits=limits, cpus=cpus)
        assert agent.wait(Exited, handle).exit_code == 0, (home / f"{how}.err").read_text()
        said[how] = [(home / how).read_text(), (home / f"{how}.err").read_text()]
    assert said[ZYGOTE] == said[EXEC]
    assert "[0, 1, 2]" in said[ZYGOTE][0]
    assert not agent.of_kind(ZygoteFailed)


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    raise ValueError('no')\nf()\n",
        "import atexit\natexit.register(print, 'bye')\nraise SystemExit(3)\n",
        "import sys\nsys.exit('said and gone')\n",
        "this is no Python\n",
        "# coding: latin-1\nprint('\xe9')\n",
        "raise KeyboardInterrupt\n",
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n",
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n",
        "import sys\nsys.excepthook = lambda *_: print('my own')\n1/0\n",
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()\n1/0\n",
        "import os\nos._exit(9)\n",
        "import os, pickle\nclass C: pass\nprint(pickle.loads(pickle.dumps(C())).__class__ is C)\n",
        SPAWNS,
        None,
    ],
)
def test_a_forked_worker_ends_as_a_new_process_ends(agent: Agent, home: Path, text: str | None) -> None:
    nest = Nest(agent, home)
    if text is None:
        (home / "probe.py").unlink()
    else:
        (home / "probe.py").write_text(text, encoding="latin-1")
    ends = {}
    for how in (EXEC, ZYGOTE):
        exited = agent.wait(Exited, nest.spawn(how=how, out=how))
        ends[how] = [exited.exit_code, exited.signal, (home / how).read_text(), (home / f"{how}.err").read_text()]
    assert ends[ZYGOTE] == ends[EXEC]


def test_what_is_preloaded_is_imported_once_for_all(agent: Agent, home: Path) -> None:
    name = module(home, "costly", "import os\nprint(os.getpid(), flush=True)\nmine = os.getpid()\n")
    (home / "probe.py").write_text("import costly, os, sys\nprint(costly.mine, os.getpid())\n")
    nest = Nest(agent, home, preload=[name])
    for number in range(3):
        assert agent.wait(Exited, nest.spawn(out=f"out{number}")).exit_code == 0
    (importer,) = (home / "log").read_text().split()
    said = [(home / f"out{number}").read_text().split() for number in range(3)]
    assert {where for where, _ in said} == {importer}
    assert len({pid for _, pid in said}) == 3


def test_siblings_have_random_numbers_of_their_own(agent: Agent, home: Path) -> None:
    pytest.importorskip("numpy")
    (home / "probe.py").write_text("import random, numpy\nprint(random.random())\nprint(numpy.random.rand())\n")
    nest = Nest(agent, home, preload=["random", "numpy"])
    for number in range(3):
        agent.wait(Exited, nest.spawn(out=f"out{number}"))
    said = [(home / f"out{number}").read_text().split() for number in range(3)]
    assert len({word for words in said for word in words}) == 6


@pytest.mark.parametrize(
    ("options", "step", "code"),
    [
        ({"cwd": "/no/such/directory"}, "chdir", errno.ENOENT),
        ({"stdout": "/no/such/directory/out"}, "open_stdout", errno.ENOENT),
        ({"limits": {"rtprio": (2, 1)}}, "limits.rtprio", errno.EINVAL),
        ({"cpus": [4711]}, "affinity", errno.EINVAL),
    ],
)
def test_a_failed_start_names_its_step_also_in_a_fork(
    agent: Agent, home: Path, options: dict[str, Any], step: str, code: int
) -> None:
    nest = Nest(agent, home)
    handle = nest.spawn(**options)
    assert agent.wait(SpawnFailed, handle) == SpawnFailed(handle, step, code)
    assert agent.wait(Exited, nest.spawn("exit", "5")).exit_code == 5
    assert not agent.of_kind(ZygoteFailed)


@pytest.mark.parametrize("layer", LAYERS, indirect=True)
def test_a_stop_ends_the_whole_tree_of_a_forked_worker_and_nobody_elses(agent: Agent, home: Path) -> None:
    nest = Nest(agent, home)
    other = nest.spawn("wait")
    handle = nest.spawn("daemon")
    daemon = read_pid(home / "daemon")
    assert agent.wait(Stopped, agent.stop(handle)).unkillable == ()
    wait_until(lambda: not is_alive(daemon), "what was killed has died")
    assert not is_alive(agent.wait(Exited, handle).pid)
    assert agent.wait(Exited, handle).sent_by_us
    assert is_alive(agent.pid_of(other))
    assert is_alive(nest.pid)


@pytest.mark.parametrize("layer", LAYERS, indirect=True)
def test_what_a_dead_forked_worker_leaves_is_known_as_its_own(agent: Agent, home: Path) -> None:
    nest = Nest(agent, home)
    others = [nest.spawn("wait") for _ in range(2)]
    handle = nest.spawn("daemon")
    daemon = read_pid(home / "daemon")
    os.kill(agent.pid_of(handle), signal.SIGKILL)
    assert agent.wait(Exited, handle).signal == signal.SIGKILL
    assert not agent.wait(Exited, handle).sent_by_us
    wait_until(lambda: not is_alive(daemon), "the daemon goes with its worker, though others live")
    assert all(is_alive(agent.pid_of(other)) for other in others)


@pytest.mark.parametrize("layer", LAYERS, indirect=True)
def test_forked_workers_die_with_the_guard(agent: Agent, home: Path) -> None:
    nest = Nest(agent, home)
    pids = [agent.pid_of(nest.spawn("wait")) for _ in range(3)]
    pids += [agent.pid_of(nest.spawn("daemon")), nest.pid]
    daemon = read_pid(home / "daemon")
    os.kill(agent.client.pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "workers and zygote are gone")
    assert agent.started is not None
    sweep_orphans(agent.client.pid, pids, home=agent.started.cgroup)
    wait_until(lambda: not is_alive(daemon), "what they left is found")
    assert tagged(agent.tag) == []


THREADS = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
PROBLEMS = {
    "missing": ("", "importing absent: ModuleNotFoundError: No module named 'absent'"),
    "raises": ("raise RuntimeError('not here')", "importing spoilt: RuntimeError: not here"),
    "exits": ("import sys; sys.exit(3)", "importing spoilt: SystemExit: 3"),
    "dies": ("import os; os._exit(3)", "it ended with exit code 3"),
    "is killed": ("import os; os.kill(os.getpid(), 9)", "it ended by SIGKILL"),
    "threads": (
        THREADS,
        "importing spoilt started 1 thread; OMP_NUM_THREADS=1 in worker.env keeps most libraries from it",
    ),
    "opens": ("kept = open('/dev/zero')", "importing spoilt left /dev/zero open"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_workers_are_started_by_exec_when_the_preload_cannot_be_shared(agent: Agent, home: Path, problem: str) -> None:
    text, reason = PROBLEMS[problem]
    names = ["absent"] if problem == "missing" else [module(home, "spoilt", text)]
    nest = Nest(agent, home, preload=["json", *names])
    handles = [nest.spawn("exit", str(number)) for number in range(3)]
    assert [agent.wait(Exited, handle).exit_code for handle in handles] == [0, 1, 2]
    assert agent.wait(Exited, nest.spawn("exit", "7")).exit_code == 7
    assert agent.of_kind(ZygoteFailed) == [ZygoteFailed(nest.handle, False, reason)]


def test_workers_are_started_by_exec_when_there_is_no_such_python_or_no_source(agent: Agent, home: Path) -> None:
    absent = agent.number()
    agent.client.zygote(absent, ["/no/such/python"], agent.env, runs=["probe.py"], preload=[])
    folder = agent.number()
    agent.client.zygote(folder, [sys.executable], agent.env, runs=[str(home)], preload=[])
    for zygote in (absent, folder, agent.number()):  # and one that was never asked for
        handle = agent.number()
        agent.client.spawn(handle, ["/bin/sh", "-c", "exit 7"], agent.env, zygote=zygote)
        assert agent.wait(Exited, handle).exit_code == 7
    assert agent.of_kind(ZygoteFailed) == [
        ZygoteFailed(absent, False, "No such file or directory (at exec)"),
        ZygoteFailed(folder, False, f"{home} is no Python source file"),
    ]


def test_a_zygote_that_dies_between_workers_is_told_of_and_harms_none(agent: Agent, home: Path) -> None:
    nest = Nest(agent, home)
    running = nest.spawn("wait")
    os.kill(nest.pid, signal.SIGKILL)
    assert agent.wait(ZygoteFailed) == ZygoteFailed(nest.handle, True, "it ended by SIGKILL")
    assert agent.wait(Exited, nest.spawn("exit", "7")).exit_code == 7
    assert is_alive(agent.pid_of(running))
    again = Nest(agent, home)
    assert agent.wait(Exited, again.spawn("exit", "8")).exit_code == 8
    assert len(agent.of_kind(ZygoteFailed)) == 1


@pytest.mark.parametrize("layer", LAYERS, indirect=True)
@pytest.mark.parametrize("told", [1, 2, 5, 11])
def test_no_worker_is_lost_or_doubled_when_the_zygote_dies_in_the_midst_of_births(
    agent: Agent, home: Path, told: int
) -> None:
    nest = Nest(agent, home)
    zygote = nest.pid
    before = len(agent.of_kind(Spawned))
    handles = [nest.spawn("exit", str(number)) for number in range(24)]
    agent.until(lambda: len(agent.of_kind(Spawned)) >= before + told)
    os.kill(zygote, signal.SIGKILL)
    assert [agent.wait(Exited, handle).exit_code for handle in handles] == list(range(24))
    for handle in handles:
        assert len([event for event in agent.of_kind(Spawned) if event.handle == handle]) == 1
        assert len([event for event in agent.of_kind(Exited) if event.handle == handle]) == 1
    assert not agent.of_kind(SpawnFailed)
    wait_until(lambda: children(agent.client.pid) == [], "nothing half-born is left")


@pytest.mark.parametrize("layer", LAYERS, indirect=True)
def test_a_worker_that_is_killed_at_any_moment_of_its_birth_harms_nobody(agent: Agent, home: Path) -> None:
    nest = Nest(agent, home)
    zygote, guard, over = nest.pid, agent.client.pid, threading.Event()

    def kill() -> None:
        while not over.is_set():
            for pid in children(guard):
                if pid != zygote:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for _ in range(10):
            handles = {nest.spawn("wait") for _ in range(20)}
            agent.until(lambda handles=handles: handles <= {event.handle for event in agent.of_kind(Exited)})  # type: ignore[misc]
    finally:
        over.set()
        killer.join()
    assert agent.wait(Exited, nest.spawn("exit", "7")).exit_code == 7


@pytest.mark.parametrize("layer", LAYERS, indirect=True)
def test_a_birth_that_hangs_is_not_waited_for_when_its_worker_is_stopped(agent: Agent, home: Path) -> None:
    nest = Nest(agent, home)
    zygote = nest.pid
    os.kill(zygote, signal.SIGSTOP)
    wait_until(lambda: state_of(zygote) == "T", "it is stopped")
    handles = [nest.spawn("wait") for _ in range(3)]
    assert agent.wait(Stopped, agent.stop(*handles)).unkillable == ()
    assert agent.of_kind(SpawnFailed) == [SpawnFailed(handle, "stopped", errno.ECANCELED) for handle in handles]
    os.kill(zygote, signal.SIGCONT)
    assert agent.wait(Exited, nest.spawn("exit", "7")).exit_code == 7
    wait_until(lambda: children(agent.client.pid) == [zygote], "nothing of the others is left")
    assert not agent.of_kind(ZygoteFailed)


def test_a_zygote_that_does_not_answer_is_given_up(agent: Agent, home: Path) -> None:
    nest = Nest(agent, home)
    os.kill(nest.pid, signal.SIGSTOP)
    handles = [nest.spawn("exit", str(number)) for number in range(3)]
    assert [agent.wait(Exited, handle).exit_code for handle in handles] == [0, 1, 2]
    assert agent.of_kind(ZygoteFailed) == [ZygoteFailed(nest.handle, True, "it does not answer")]


def test_who_waits_for_slow_imports_is_stopped_and_killed_at_once(agent: Agent, home: Path) -> None:
    name = module(home, "slow", "import signal; signal.pause()\n")
    nest = Nest(agent, home, preload=[name])
    first, second = nest.spawn("wait"), nest.spawn("wait")
    agent.wait(Stopped, agent.stop(first))
    agent.client.kill([second])
    agent.wait(SpawnFailed, second)
    agent.client.fence(0.0)  # long past
    third = nest.spawn("wait")
    assert agent.wait(SpawnFailed, third).step == "fenced"
    assert not agent.of_kind(Spawned)
    agent.client.dismiss(nest.handle)
    wait_until(lambda: children(agent.client.pid) == [], "the zygote is gone")
    assert not agent.of_kind(ZygoteFailed)


def test_descriptors_return_to_the_baseline_after_births(agent: Agent, home: Path) -> None:
    nest = Nest(agent, home)
    zygote = nest.pid

    def descriptors() -> list[int]:
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (agent.client.pid, zygote)]

    before = descriptors()
    for handle in [nest.spawn("quit") for _ in range(20)]:
        agent.wait(Exited, handle)
    wait_until(lambda: descriptors() == before, "no descriptor is left over")
    assert children(zygote) == []


def test_a_guard_without_descriptors_refuses_births_and_can_still_kill(agent: Agent, home: Path) -> None:
    nest = Nest(agent, home)
    most = max(int(path.name) for path in Path(f"/proc/{agent.client.pid}/fd").iterdir()) + 20
    assert nest.pid > 0
    hard = resource.prlimit(agent.client.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(agent.client.pid, resource.RLIMIT_NOFILE, (most, hard))
    handles = [nest.spawn("wait") for _ in range(40)]
    agent.until(lambda: len(agent.of_kind(Spawned)) - 1 + len(agent.of_kind(SpawnFailed)) == len(handles))
    assert len(agent.of_kind(Spawned)) > 1
    assert {(failed.step, failed.errno) for failed in agent.of_kind(SpawnFailed)} == {("pipe", errno.EMFILE)}
    assert agent.wait(Stopped, agent.stop(*handles, grace_s=0)).unkillable == ()
