"""Faults 7 to 13: workers and their descendants that do not end when they should, or where nothing reaches them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher
from tests.e2e.harness import BEATS, FAST, SLEEP, alive, python, until
from tests.edge.disks import freezable, needs_loop, sh
from tests.edge.guard.layers import LAYERS, confined, homes, inside
from tests.edge.procs import state_of

pytestmark = pytest.mark.e2e

FIRST = "first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'"
# In the first round a daemon that tells without end that it lives; in the next, when that began. Then it is done.
DAEMON = (
    "import os, signal, sys, time",
    FIRST,
    "def now(): return repr(time.monotonic())",
    "if not first:",
    "    open('next', 'w').write(now())",
    "    sys.exit(0)",
    "if os.fork() == 0:",
    "    os.setsid()",
    "    if os.fork(): os._exit(0)",
    "    while True:",
    "        print('late', flush=True)",
    "        with open('told.new', 'w') as file: file.write(now())",
    "        os.replace('told.new', 'told')",
    "        time.sleep(0.01)",
    "while not os.path.exists('told'): time.sleep(0.001)",
)
# Obeys no SIGTERM, and answers one with processes that end while others begin.
FORKS = python(
    "import os, signal, sys, time",
    "def fork(*_):",
    "    open('forking', 'w').close()",
    "    while True:",
    "        for _ in range(20):",
    "            if os.fork() == 0:",
    "                os.setsid()",
    "                for _ in range(10):",
    "                    if os.fork() == 0: time.sleep(0.05); os._exit(0)",
    "                time.sleep(0.01)",
    "                os._exit(0)",
    "        time.sleep(0.02)",
    "signal.signal(signal.SIGTERM, fork)",
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "open('ready', 'w').close()",
    "while True: signal.pause()",
)


# The kind of the exit is its signal, sent by us: a stop that was asked for is no failure.
def test_fault_07_a_worker_ignores_sigterm(launch: Launcher, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "import signal, time\n"
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
    assert 1.8 <= killed["mono"] - asked["mono"] <= 2.2
    assert "rank 0 does not stop; its stacks are in the journal" in run.stderr


def test_fault_08_a_stopped_worker_is_stopped(launch: Launcher) -> None:
    run = launch("stop.grace_s=600", *SLEEP)
    (pid,) = run.workers(run.await_healthy()).values()
    os.kill(pid, signal.SIGSTOP)
    until(lambda: state_of(pid) == "T", "the worker is stopped")
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.events("worker_exited", signal=signal.SIGTERM, sent_by_us=True), "no SIGKILL was needed"


# There is no SIGABRT on the way: stacks come from faulthandler and from /proc, and neither needs the worker to run.
def test_fault_09_a_stopped_worker_falls_silent(launch: Launcher) -> None:
    run = launch("watchdog=heartbeat", "watchdog.timeout_s=1", "watchdog.warmup_s=30", "restart=never", *BEATS)
    pid = run.workers(run.await_healthy())[0]
    until((run.directory / "spoken").exists, "it has spoken")
    os.kill(pid, signal.SIGSTOP)
    assert run.wait() == 1
    assert run.result["root_cause"]["kind"] == "hang"
    assert "stopped" in run.events("worker_hung")[0]["stacks"]
    assert not alive(pid)


@pytest.mark.parametrize("layer", LAYERS)
def test_fault_10_a_crashed_worker_leaves_a_daemon(launch: Launcher, layer: str) -> None:
    with confined(layer) as group:
        with inside(group):
            run = launch(*FAST, *python(*DAEMON, "os._exit(1)"))
        assert run.wait() == 0
    assert run.events("guard_started")[0]["containment"] == layer
    assert float((run.directory / "told").read_text()) < float((run.directory / "next").read_text())


@pytest.mark.parametrize("layer", LAYERS)
def test_fault_11_a_worker_forks_without_end_while_it_is_stopped(launch: Launcher, layer: str) -> None:
    with confined(layer) as group:
        with inside(group):
            run = launch("stop.grace_s=0.3", *FORKS)
        run.await_healthy()
        until((run.directory / "ready").exists, "the worker is ready")
        run.signal(signal.SIGTERM)
        until((run.directory / "forking").exists, "it forks")
        assert run.wait() == 143
    asked, ended = run.events("stop_requested")[0], run.events("transition")[-1]
    assert ended["mono"] - asked["mono"] < 0.3 + 2
    assert run.events("unkillable") == []
    guard = run.events("guard_started")[0]["pid"]
    assert not [path for path in homes() if f".{guard}." in path.name]


def test_fault_12_a_grandchild_holds_the_output_open(launch: Launcher) -> None:
    run = launch(*FAST, *python(*DAEMON, "open('dead', 'w').write(now())", "os._exit(1)"))
    assert run.wait() == 0
    died, again = run.events("worker_exited", round=1)[0], run.events("worker_started", round=2)[0]
    assert died["mono"] - float((run.directory / "dead").read_text()) < 1, "50 ms on a quiet machine: tests/bench"
    assert again["mono"] - died["mono"] < 5
    first, second = ((run.run_dir / f"logs/default/{number}/0/stdout.log").read_text() for number in (1, 2))
    assert (set(first.split()), second) == ({"late"}, "")


@needs_loop
def test_fault_13_a_worker_in_uninterruptible_sleep(launch: Launcher, tmp_path: Path) -> None:
    with freezable(tmp_path) as mount:
        script = (
            "import os, sys, time",
            "if os.environ['RANK'] == '0':",
            "    while not os.path.exists('crash'): time.sleep(0.01)",
            "    sys.exit(1)",
            f"while True: open({str(mount / 'log')!r}, 'a').write('x'); time.sleep(0.01)",
        )
        stop = ("stop.grace_s=0.1", "stop.kill_wait_s=0.3")
        run = launch("worker.nproc=2", *stop, *FAST, *python(*script))
        stuck = run.workers(run.await_healthy())[1]
        until((mount / "log").exists, "it writes")
        sh("fsfreeze", "-f", str(mount))
        until(lambda: state_of(stuck) == "D", "it waits, deaf")
        (run.directory / "crash").touch()
        began = time.monotonic()
        assert run.wait() == 4
        assert time.monotonic() - began < 10
        subprocess.run(["fsfreeze", "-u", str(mount)], check=True)
        until(lambda: not alive(stuck), "it dies of the SIGKILL that it has had")
        assert launch("--", "true").wait() == 0, "whoever comes next on this node clears its cgroup away"
