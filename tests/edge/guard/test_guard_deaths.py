"""Deaths that nobody ordered: of the agent, of the guard. Whatever dies first, nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.edge.guard.client import (
    Exited,
    GuardLost,
    ServerDied,
    ServerStarted,
    sweep_orphans,
)
from tests.edge.guard.layers import LAYERS, confined, homes
from tests.edge.procs import children, is_alive, read_pid, state_of, tagged, wait_until

if TYPE_CHECKING:
    from tests.edge.guard.conftest import Agent

SLEEPER = ["/bin/sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1000; done"]
# A child in a session of its own, and a grandchild in yet another.
_ESCAPE = (
    "import os, signal\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        os.setsid()\n"
    "        open(f'escaped.{os.getppid()}', 'w').write(f'{os.getpid()}\\n')\n"
    "    signal.pause()\n"
    "signal.pause()\n"
)
ESCAPER = [sys.executable, "-I", "-S", "-c", _ESCAPE]


class Doomed:
    """An agent in a process of its own that is there to be killed."""

    def __init__(
        self,
        home: Path,
        *,
        will: str = "",
        servers: list[list[str]] | None = None,
        cleanup: list[str],
        group: Path | None = None,
    ) -> None:
        self.tag = f"ORCHESTRATOR_TEST={uuid.uuid4().hex}"
        name, _, value = self.tag.partition("=")
        plan = {
            "workers": [SLEEPER, ESCAPER, SLEEPER, ESCAPER],
            "servers": servers or [],
            "will": will,
            "cleanup": cleanup,
            "home": str(home),
            "group": str(group) if group else None,
        }
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("agent_process.py")), json.dumps(plan)],
            env={**os.environ, name: value},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.guard: int = told["guard"]
        self.containment: str = told["containment"]
        self.pids: list[int] = told["pids"]
        self.servers: list[int] = told["servers"]
        wait_until(lambda: len(list(home.glob("escaped.*"))) == 2, "both have forked their escapers")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def everything_is_gone(self) -> bool:
        return not tagged(self.tag) and not is_alive(self.guard)


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A unix socket on which somebody may call."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        yield server
    path.unlink()


@contextmanager
def listener(path: Path) -> Iterator[list[bytes]]:
    """A server that takes RESP commands on a unix socket, answers each line, and remembers what it got."""
    got: list[bytes] = []
    with listening(path) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    got.append(line)
                    connection.sendall(b"*2\r\n$2\r\nok\r\n:1\r\n")
            got.append(b"closed")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield got
        thread.join(timeout=20)


def test_the_death_of_an_agent_leaves_nothing_and_is_told_to_the_server(tmp_path: Path) -> None:
    with listener(tmp_path / "will.sock") as got:
        agent = Doomed(tmp_path, will=str(tmp_path / "will.sock"), cleanup=[])
        assert len(tagged(agent.tag)) >= 8  # the agent, its guard, four workers, their children
        agent.kill()
        wait_until(agent.everything_is_gone, "nothing is left")
    assert got == [b"PING\r\n", b"LEAVE me\r\n", b"closed"]


def test_the_will_is_sent_after_the_workers_are_gone_and_before_the_servers_are(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []
    with listening(tmp_path / "will.sock") as server:
        agent = Doomed(tmp_path, will=str(tmp_path / "will.sock"), servers=[["sleep", "1000"]], cleanup=[])
        agent.kill()
        server.settimeout(20)
        connection, _ = server.accept()
        with connection:
            seen.append((any(is_alive(pid) for pid in agent.pids), is_alive(agent.servers[0])))
    assert seen == [(False, True)]
    wait_until(agent.everything_is_gone, "nothing is left")


def test_a_server_that_never_answers_holds_the_end_up_for_two_seconds_at_most(tmp_path: Path) -> None:
    with listening(tmp_path / "mute.sock"):
        agent = Doomed(tmp_path, will=str(tmp_path / "mute.sock"), cleanup=[])
        agent.kill()
        took = wait_until(agent.everything_is_gone, "the guard gives up")
    assert took < 10
    assert not [pid for pid in agent.pids if is_alive(pid)]


def test_an_agents_servers_end_with_it_and_their_files_are_removed(tmp_path: Path) -> None:
    home = tmp_path / "server"
    home.mkdir()
    (home / "sock").touch()
    (home / "dump.rdb").touch()
    agent = Doomed(tmp_path, servers=[["sleep", "1000"]], cleanup=[str(home / "sock"), str(home)])
    agent.kill()
    wait_until(agent.everything_is_gone, "nothing is left")
    assert not home.exists()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_hundred_agents_are_killed_and_nothing_is_left_after_a_second(tmp_path: Path, layer: str) -> None:
    took = []
    with confined(layer) as group, ThreadPoolExecutor(4) as starting:
        homes_of_agents = [tmp_path / str(trial) for trial in range(100)]
        for home in homes_of_agents:
            home.mkdir()
        for agent in starting.map(lambda home: Doomed(home, cleanup=[], group=group), homes_of_agents):
            assert agent.containment == layer
            agent.kill()
            took.append(wait_until(agent.everything_is_gone, "nothing is left"))
            assert not [path for path in homes() if f".{agent.guard}." in path.name]
    assert len(took) == 100
    assert sorted(took)[98] < 1, sorted(took)[-5:]  # one may have met a machine that stood still


def test_an_agent_that_is_only_paused_keeps_its_workers(tmp_path: Path) -> None:
    agent = Doomed(tmp_path, cleanup=[])
    agent.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state_of(agent.process.pid) == "T", "the agent is paused")
    os.kill(agent.pids[0], signal.SIGKILL)  # an event that nobody reads
    wait_until(lambda: state_of(agent.pids[0]) == "", "the guard still reaps")
    assert is_alive(agent.pids[2])
    agent.kill()
    wait_until(agent.everything_is_gone, "nothing is left")


def test_the_death_of_a_guard_is_told_once_and_takes_its_workers_along(agent: Agent, tmp_path: Path) -> None:
    handles = [agent.spawn(*SLEEPER), agent.spawn(*ESCAPER, cwd=str(tmp_path))]
    pids = [agent.pid_of(handle) for handle in handles]
    wait_until(lambda: bool(list(tmp_path.glob("escaped.*"))), "the escaper is out")
    escaper = read_pid(next(tmp_path.glob("escaped.*")))
    os.kill(agent.client.pid, signal.SIGKILL)
    lost = agent.wait(GuardLost)
    assert (lost.pid, lost.exit_code, lost.signal) == (agent.client.pid, None, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the direct workers are dead")
    assert sweep_orphans(agent.client.pid, pids) >= 1
    assert [state_of(pid) for pid in (*pids, escaper)] == ["", "", ""]
    assert not set(children(os.getpid())) & {*pids, escaper}
    agent.client.spawn(4711, ["true"], {})  # to nobody: no error, no event
    assert len(agent.of_kind(GuardLost)) == 1


def test_a_sweep_spares_what_other_guards_own(agent: Agent) -> None:
    pid = agent.pid_of(agent.sh("exec sleep 1000"))
    mine = subprocess.Popen(["sleep", "1000"])
    try:
        assert sweep_orphans(agent.client.pid + 100_000) == 0
        assert is_alive(pid)
        assert is_alive(mine.pid)
    finally:
        mine.kill()
        mine.wait()


def test_a_guard_that_was_asked_to_quit_is_not_lost(agent: Agent) -> None:
    pid = agent.pid_of(agent.spawn(*SLEEPER))
    agent.quit()
    assert state_of(pid) == ""
    assert state_of(agent.client.pid) == ""
    agent.quit()  # once more is fine
    assert not agent.of_kind(GuardLost)


def test_a_quit_sends_no_will(agent: Agent, tmp_path: Path) -> None:
    with listening(tmp_path / "will.sock") as server:
        server.setblocking(False)
        agent.client.will({"unix": str(tmp_path / "will.sock")}, [b"LEAVE\r\n"])
        agent.quit()
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_killed_server_is_started_again(agent: Agent) -> None:
    handle = agent.number()
    agent.client.serve(handle, ["sleep", "1000"], agent.env, log=None)
    first = agent.wait(ServerStarted, handle).pid
    os.kill(first, signal.SIGKILL)
    agent.until(lambda: len(agent.of_kind(ServerStarted)) == 2)
    kinds = [type(event).__name__ for event in agent.events]
    assert kinds == ["ServerStarted", "ServerDied", "ServerStarted"]
    assert not agent.of_kind(Exited)


def test_the_end_of_the_last_worker_leaves_the_server_running(agent: Agent) -> None:
    handle = agent.number()
    agent.client.serve(handle, ["sleep", "1000"], agent.env, log=None)
    pid = agent.wait(ServerStarted, handle).pid
    agent.wait(Exited, agent.sh("exit 0"))
    agent.round_trip()
    assert is_alive(pid)


def test_a_server_that_dies_at_once_is_started_ever_more_slowly(agent: Agent) -> None:
    handle = agent.number()
    began = time.monotonic()
    agent.client.serve(handle, ["false"], agent.env, log=None)
    agent.until(lambda: len(agent.of_kind(ServerStarted)) == 5)
    assert time.monotonic() - began >= 0.02 + 0.04 + 0.08 + 0.16


def test_a_stop_between_two_starts_of_a_server_ends_them(agent: Agent) -> None:
    handle = agent.number()
    agent.client.serve(handle, ["false"], agent.env, log=None)
    agent.until(lambda: len(agent.of_kind(ServerDied)) == 4)  # the next start is 0.16 s away
    agent.client.stop([handle], signal=15, grace_s=0, kill_wait_s=0, ticket=agent.number())
    agent.wait(Exited, agent.sh("sleep 0.4"))
    assert len(agent.of_kind(ServerStarted)) == 4


def test_a_server_without_restart_stays_down(agent: Agent, tmp_path: Path) -> None:
    handle = agent.number()
    log = tmp_path / "server.log"
    agent.client.serve(handle, ["/bin/sh", "-c", "echo hello; exit 3"], agent.env, log=str(log), restart=False)
    died = agent.wait(ServerDied, handle)
    assert (died.exit_code, died.signal) == (3, None)
    assert log.read_text() == "hello\n"
    agent.wait(Exited, agent.sh("sleep 0.2"))  # ten times the first delay of a restart
    assert len(agent.of_kind(ServerStarted)) == 1
