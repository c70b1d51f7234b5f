"""The stop ladder, and whole trees: nothing is left when a stop is answered."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.edge.guard.client import Exited, Stopped
from tests.edge.guard.layers import LAYERS
from tests.edge.procs import is_alive, read_pid, state_of, wait_until

if TYPE_CHECKING:
    from tests.edge.guard.conftest import Agent

pytestmark = pytest.mark.parametrize("layer", LAYERS, indirect=True)

FREEZER = Path("/sys/fs/cgroup/freezer")
STUBBORN = "trap '' TERM; echo $$ > pid; while :; do sleep 1000; done"
# fork, setsid, fork: the daemon's parent is gone, and so is its session
DAEMON = (
    "import os, signal\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        {before}\n"
    "        print(os.getpid(), file=open('daemon', 'w'), flush=True)\n"
    "        signal.pause()\n"
    "    os._exit(0)\n"
    "os.wait()\n"
    "while not os.path.exists('daemon') or not open('daemon').read().endswith('\\n'): pass\n"
    "{after}\n"
)


def daemon(*, before: str = "pass", after: str = "signal.pause()") -> str:
    return DAEMON.format(before=before, after=after)


def test_an_obedient_worker_ends_by_the_signal_and_is_marked_ours(agent: Agent) -> None:
    handle = agent.sh("exec sleep 1000")
    agent.pid_of(handle)
    assert agent.wait(Stopped, agent.stop(handle)).unkillable == ()
    exited = agent.wait(Exited, handle)
    assert (exited.signal, exited.sent_by_us) == (signal.SIGTERM, True)
    assert isinstance(agent.events[-1], Stopped)  # after the exits that it is about


def test_a_stop_right_behind_the_spawn_is_not_lost(agent: Agent) -> None:
    handles = [agent.sh("exec sleep 1000") for _ in range(8)]
    agent.wait(Stopped, agent.stop(*handles))
    assert {agent.wait(Exited, handle).signal for handle in handles} == {signal.SIGTERM}


def test_a_stubborn_worker_is_killed_when_the_grace_is_over(agent: Agent, tmp_path: Path) -> None:
    handle = agent.sh(STUBBORN, cwd=str(tmp_path))
    read_pid(tmp_path / "pid")
    began = time.monotonic()
    agent.wait(Stopped, agent.stop(handle, grace_s=0.3))
    assert time.monotonic() - began >= 0.3
    exited = agent.wait(Exited, handle)
    assert (exited.signal, exited.sent_by_us) == (signal.SIGKILL, True)


def test_a_stopped_process_dies_of_the_signal_itself(agent: Agent) -> None:
    handle = agent.sh("exec sleep 1000")
    pid = agent.pid_of(handle)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T", "the worker is stopped")
    agent.wait(Stopped, agent.stop(handle))
    assert agent.wait(Exited, handle).signal == signal.SIGTERM


def test_what_died_before_the_stop_is_not_marked_ours(agent: Agent) -> None:
    handle = agent.sh("exec sleep 1000")
    pid = agent.pid_of(handle)
    os.kill(agent.client.pid, signal.SIGSTOP)  # so that the exit and the stop reach the guard together
    os.kill(pid, signal.SIGSEGV)
    wait_until(lambda: state_of(pid) == "Z", "the worker is dead")
    ticket = agent.stop(handle)
    os.kill(agent.client.pid, signal.SIGCONT)
    agent.wait(Stopped, ticket)
    exited = agent.wait(Exited, handle)
    assert (exited.signal, exited.sent_by_us) == (signal.SIGSEGV, False)


def test_a_grace_of_months_is_a_grace(agent: Agent, tmp_path: Path) -> None:
    handle = agent.sh("trap 'sleep 0.2; exit 5' TERM; echo $$ > pid; while :; do sleep 0.01; done", cwd=str(tmp_path))
    read_pid(tmp_path / "pid")
    ticket = agent.stop(handle, grace_s=1e7, kill_wait_s=1e12)
    assert agent.wait(Exited, handle).exit_code == 5
    assert agent.wait(Stopped, ticket).unkillable == ()


def test_a_forwarded_signal_does_not_mark_the_exit(agent: Agent) -> None:
    handle = agent.sh("exec sleep 1000")
    agent.pid_of(handle)
    agent.client.signal([handle], signal.SIGUSR1)
    exited = agent.wait(Exited, handle)
    assert (exited.signal, exited.sent_by_us) == (signal.SIGUSR1, False)


def test_a_signal_that_is_forwarded_during_a_stop_makes_the_exit_no_less_ours(agent: Agent, tmp_path: Path) -> None:
    script = "trap '' TERM; trap 'exit 7' USR1; echo $$ > pid; while :; do sleep 0.01; done"
    handle = agent.sh(script, cwd=str(tmp_path))
    read_pid(tmp_path / "pid")
    ticket = agent.stop(handle)
    agent.client.signal([handle], signal.SIGUSR1)
    agent.wait(Stopped, ticket)
    exited = agent.wait(Exited, handle)
    assert (exited.exit_code, exited.sent_by_us) == (7, True)


def test_nothing_to_stop_is_answered_at_once(agent: Agent) -> None:
    handle = agent.sh("exit 0")
    agent.wait(Exited, handle)
    assert agent.wait(Stopped, agent.stop(handle, 4711)).unkillable == ()


def test_a_kill_hurries_a_running_ladder(agent: Agent, tmp_path: Path) -> None:
    handle = agent.sh(STUBBORN, cwd=str(tmp_path))
    read_pid(tmp_path / "pid")
    ticket = agent.stop(handle, grace_s=1000)
    agent.round_trip()  # the ladder does not block the guard
    agent.client.kill([handle])
    assert agent.wait(Stopped, ticket).unkillable == ()


def test_overlapping_stops_are_each_answered_once(agent: Agent, tmp_path: Path) -> None:
    stubborn = agent.sh(STUBBORN, cwd=str(tmp_path))
    obedient = agent.sh("exec sleep 1000")
    read_pid(tmp_path / "pid")
    both = agent.stop(stubborn, obedient, grace_s=1000)
    one = agent.stop(obedient)
    agent.wait(Stopped, one)
    assert not [event for event in agent.of_kind(Stopped) if event.ticket == both]
    agent.wait(Stopped, agent.stop(stubborn, grace_s=0))
    agent.wait(Stopped, both)
    agent.round_trip()
    assert [event.ticket for event in agent.of_kind(Stopped)].count(both) == 1


def test_the_grace_belongs_to_the_main_process_alone(agent: Agent, tmp_path: Path) -> None:
    # The trainer stops its own helpers: a TERM to them would kill the loaders under its feet.
    handle = agent.sh(
        "sleep 1000 & helper=$!; trap 'kill -0 $helper && exit 9' TERM; echo $$ > pid; wait", cwd=str(tmp_path)
    )
    read_pid(tmp_path / "pid")
    agent.wait(Stopped, agent.stop(handle))
    assert agent.wait(Exited, handle).exit_code == 9


@pytest.mark.parametrize("ending", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_daemon_of_a_crashed_worker_is_swept_at_once(agent: Agent, tmp_path: Path, ending: str) -> None:
    other = agent.sh("exec sleep 1000")
    agent.wait(Exited, agent.python(daemon(after=ending), cwd=str(tmp_path)))
    pid = read_pid(tmp_path / "daemon")
    wait_until(lambda: state_of(pid) == "", "the daemon is killed and reaped")
    assert is_alive(agent.pid_of(other))


def test_the_daemon_of_a_living_worker_is_left_alone(agent: Agent, tmp_path: Path) -> None:
    agent.python(daemon(), cwd=str(tmp_path))
    pid = read_pid(tmp_path / "daemon")
    agent.wait(Exited, agent.sh("sleep 1000 & exit 1"))  # makes the guard sweep
    agent.round_trip()
    assert is_alive(pid)


def test_a_stop_is_answered_when_the_daemons_are_gone_too(agent: Agent, tmp_path: Path) -> None:
    handle = agent.python(daemon(before="signal.signal(signal.SIGTERM, signal.SIG_IGN)"), cwd=str(tmp_path))
    pid = read_pid(tmp_path / "daemon")
    agent.wait(Stopped, agent.stop(handle))
    assert state_of(pid) == ""


def test_a_stop_waits_for_a_daemon_that_takes_its_time_to_die(agent: Agent, tmp_path: Path) -> None:
    # What dies gives its memory back before it is a zombie, and says no more meanwhile whose it is; the worker's own
    # death, which comes sooner, makes the guard look again. Another worker lives, to whom it may belong.
    agent.sh("exec sleep 1000")
    for number in range(5):
        home = tmp_path / str(number)
        home.mkdir()
        handle = agent.python(daemon(before="memory = b'x' * 150_000_000"), cwd=str(home))
        pid = read_pid(home / "daemon")
        assert agent.wait(Stopped, agent.stop(handle)).unkillable == ()
        assert state_of(pid) == ""


# A child with an empty environment, perhaps in a session of its own.
ANONYMOUS = (
    "import os, signal\n"
    "if os.fork() == 0:\n"
    "    {session}\n"
    "    os.execve('/bin/sh', ['sh', '-c', 'echo $$ > anonymous; exec sleep 1000'], {{}})\n"
    "while not os.path.exists('anonymous') or not open('anonymous').read().endswith('\\n'): pass\n"
    "{after}\n"
)


def test_an_orphan_without_marker_is_known_by_its_session(agent: Agent, tmp_path: Path) -> None:
    other = agent.sh("exec sleep 1000")
    agent.wait(Exited, agent.python(ANONYMOUS.format(session="pass", after="os._exit(1)"), cwd=str(tmp_path)))
    pid = read_pid(tmp_path / "anonymous")
    wait_until(lambda: state_of(pid) == "", "the orphan is killed and reaped")
    assert is_alive(agent.pid_of(other))


def test_a_kill_reaches_descendants_that_only_their_ancestry_gives_away(agent: Agent, tmp_path: Path) -> None:
    other = agent.sh("exec sleep 1000")
    handle = agent.python(ANONYMOUS.format(session="os.setsid()", after="signal.pause()"), cwd=str(tmp_path))
    pid = read_pid(tmp_path / "anonymous")
    agent.client.kill([handle])
    wait_until(lambda: state_of(pid) == "", "the descendant is killed and reaped")
    assert is_alive(agent.pid_of(other))


def test_what_a_swept_daemon_had_started_is_swept_with_it(agent: Agent, tmp_path: Path) -> None:
    other = agent.sh("exec sleep 1000")
    child = ANONYMOUS.format(session="os.setsid()", after="pass").replace("\n", "\n        ")
    agent.wait(Exited, agent.python(daemon(before=child, after="os._exit(1)"), cwd=str(tmp_path)))
    pid = read_pid(tmp_path / "anonymous")
    wait_until(lambda: state_of(pid) == "", "the daemon's child is killed and reaped")
    assert is_alive(agent.pid_of(other))


def test_an_orphan_without_marker_and_session_dies_with_its_worker_or_with_the_last(
    agent: Agent, layer: str, tmp_path: Path
) -> None:
    anonymous = "os.execve('/bin/sh', ['sh', '-c', 'echo $$ > daemon; exec sleep 1000'], {})"
    first = agent.python(daemon(before=anonymous), cwd=str(tmp_path))
    last = agent.sh("exec sleep 1000")
    pid = read_pid(tmp_path / "daemon")
    agent.wait(Stopped, agent.stop(first))
    assert is_alive(pid) is (layer == "subreaper")  # then it may belong to the other
    agent.wait(Stopped, agent.stop(last))
    assert state_of(pid) == ""


def test_a_tree_that_forks_while_it_is_killed_is_gone_when_the_stop_is_answered(agent: Agent, tmp_path: Path) -> None:
    bomb = (
        "import os, time\n"
        "for _ in range(20):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        while True:\n"
        "            if os.fork() == 0: time.sleep(0.05); os._exit(0)\n"
        "            try: os.wait()\n"
        "            except ChildProcessError: pass\n"
        "print(os.getpid(), file=open('pid', 'w'), flush=True)\n"
        "time.sleep(1000)\n"
    )
    handle = agent.python(bomb, cwd=str(tmp_path))
    read_pid(tmp_path / "pid")
    ticket = agent.stop(handle, grace_s=0)
    assert agent.wait(Stopped, ticket).unkillable == ()
    assert not Path(f"/proc/{agent.pid_of(handle)}").exists()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that no SIGKILL reaches, until this block ends."""
    group = FREEZER / f"orchestrator-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "freezer.state").write_text("FROZEN")
        wait_until(lambda: (group / "freezer.state").read_text().strip() == "FROZEN", "the process is frozen")
        yield
    finally:
        (group / "freezer.state").write_text("THAWED")
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the frozen process is gone")
        group.rmdir()


@pytest.mark.skipif(not os.access(FREEZER, os.W_OK), reason="needs a writable freezer cgroup to be unkillable in")
def test_an_unkillable_process_is_named_and_waited_for_no_longer_than_allowed(agent: Agent) -> None:
    stuck, fine = agent.sh("exec sleep 1000"), agent.sh("exec sleep 1000")
    pid = agent.pid_of(stuck)
    with frozen(pid):
        assert agent.wait(Stopped, agent.stop(stuck, fine, grace_s=0.05, kill_wait_s=0.05)).unkillable == (pid,)
        assert agent.wait(Exited, fine).signal == signal.SIGTERM
        assert not [event for event in agent.of_kind(Exited) if event.handle == stuck]
    exited = agent.wait(Exited, stuck)  # its end is told when it comes after all
    assert exited.sent_by_us
    agent.round_trip()
    assert len(agent.of_kind(Stopped)) == 2, "the stop was answered before, and once"


@pytest.mark.skipif(not os.access(FREEZER, os.W_OK), reason="needs a writable freezer cgroup to be unkillable in")
def test_a_kill_ends_the_grace_of_a_ladder_but_not_its_bounded_wait(agent: Agent) -> None:
    stuck = agent.sh("exec sleep 1000")
    pid = agent.pid_of(stuck)
    with frozen(pid):
        ticket = agent.stop(stuck, grace_s=1000, kill_wait_s=0.05)
        agent.client.kill([stuck])
        assert agent.wait(Stopped, ticket).unkillable == (pid,)


def test_signals_that_a_terminal_or_a_careless_person_sends_do_not_end_the_guard(agent: Agent) -> None:
    handle = agent.sh("exec sleep 1000")
    pid = agent.pid_of(handle)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        os.kill(agent.client.pid, signum)
    agent.round_trip()
    assert is_alive(pid)
