"""Real agents that are asked how they are, from their start to their end."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, SLEEP, Launch, python, until


def ask(run: Launch, path: str) -> tuple[int, str]:
    """What the agent answers; 0 if nobody does."""
    url = run.await_event("health_listening")["url"]
    try:
        with urllib.request.urlopen(f"{url}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def test_an_agent_that_still_waits_for_others_is_alive_and_not_ready(nodes: Nodes) -> None:
    a = nodes.start("a", "nodes=2", "health=http", *SLEEP)
    a.await_event("transition", to="RENDEZVOUS")
    until(lambda: "RENDEZVOUS" in ask(a, "/readyz")[1], "its state is shown")
    assert ask(a, "/livez") == (200, "alive\n")
    assert ask(a, "/readyz") == (503, "not ready: the group is RENDEZVOUS\n")
    b = nodes.start("b", "nodes=2", *SLEEP)  # whether a node can be asked is its own business
    a.await_healthy()
    until(lambda: ask(a, "/readyz")[0] == 200, "the group is ready")
    told = json.loads(ask(a, "/status")[1])
    assert (told["state"], told["nodes"], told["world_size"]) == ("HEALTHY", 2, 2)
    assert [worker["pid"] for worker in told["workers"]] == list(a.workers(told["round"]).values())
    a.signal(15)
    assert {a.wait(), b.wait()} == {143}
    assert ask(a, "/livez")[0] == 0


def test_it_answers_during_a_restart_and_counts_it(launch: Launcher) -> None:
    crash = python(
        "import os, time", "os._exit(3) if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' else time.sleep(600)"
    )
    slow = ("restart.backoff.initial_s=3", "restart.backoff.jitter=0")
    run = launch("health=http", *slow, *crash)
    until(lambda: "BACKOFF" in ask(run, "/readyz")[1], "its restart is shown")
    assert ask(run, "/livez")[0] == 200
    until(lambda: ask(run, "/readyz")[0] == 200, "it is ready again")
    text = ask(run, "/metrics")[1]
    assert 'orchestrator_restarts_charged_total{group="default"} 1\n' in text
    assert 'orchestrator_failures_total{group="default"} 1\n' in text
    assert 'orchestrator_workers_running{group="default"} 1\n' in text
    run.signal(15)
    assert run.wait() == 143


BLOCKED = """
import asyncio, signal, time
import orchestrator.edge.agent as agent
forward = agent.Agent.forward
def block(self, signum):
    time.sleep(8)
agent.Agent.forward = block
"""


def test_a_loop_that_is_blocked_is_not_alive_and_is_again_when_it_turns(launch: Launcher, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("")  # ours must not hide another by accident
    (tmp_path / "blocked.py").write_text(
        BLOCKED + "from orchestrator import HealthCheckServer\nclass Mine(HealthCheckServer):\n    pass\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    run = launch("health.timeout_s=3", "health.server=blocked:Mine", *SLEEP, env=env)
    run.await_healthy()
    assert ask(run, "/livez")[0] == 200
    run.signal(10)  # SIGUSR1, which an agent forwards; this one sleeps over it
    until(lambda: ask(run, "/livez")[0] == 503, "the blocked loop is noticed")
    assert "the agent's loop has not turned for" in ask(run, "/livez")[1]
    assert ask(run, "/status")[0] == 200
    until(lambda: ask(run, "/livez")[0] == 200, "it is alive again")
    run.signal(15)
    assert run.wait() == 143


MINE = """
import socketserver, threading, time
class Mine:  # speaks a protocol of its own, and inherits from nobody
    def __init__(self, alive_callback, port, timeout):
        self.alive, self.port, self.timeout = alive_callback, port, timeout
    def start(self):
        mine = self
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.sendall(b"up" if time.time() - mine.alive() <= mine.timeout else b"down")
        self.server = socketserver.TCPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
    def stop(self):
        self.server.shutdown()
        print("the user's server was stopped", flush=True)
"""


def test_a_users_own_server_is_started_first_and_stopped_last(launch: Launcher, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    run = launch(f"health.port={port}", "health.server=mine:Mine", *SLEEP, env=env)
    assert run.await_event("health_listening")["server"] == "mine:Mine"
    run.await_healthy()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        assert client.recv(16) == b"up"
    run.signal(15)
    assert run.wait() == 143
    assert run.stdout.endswith("the user's server was stopped\n")


def test_a_server_that_cannot_start_keeps_everything_from_starting(launch: Launcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = launch(f"health.port={port}", *SLEEP)
        assert run.wait() == 2
    assert run.stderr == (
        f"error: health.port: cannot listen on 127.0.0.1, port {port}: Address already in use; "
        "choose another, or 0 for a free one\n"
    )
    assert run.journal == []


def test_a_token_is_asked_for_and_kept_out_of_every_file(launch: Launcher) -> None:
    run = launch("health.token=hunter22", "health.host=0.0.0.0", *SLEEP)
    run.await_healthy()
    url = run.await_event("health_listening")["url"].replace("0.0.0.0", "127.0.0.1")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/status", timeout=10)
    request = urllib.request.Request(f"{url}/status", headers={"Authorization": "Bearer hunter22"})
    with urllib.request.urlopen(request, timeout=10) as response:
        assert "hunter22" not in response.read().decode()
    run.signal(15)
    assert run.wait() == 143
    for path in run.directory.rglob("*"):
        assert not path.is_file() or b"hunter22" not in path.read_bytes(), path


def test_torchelastics_variable_turns_it_on(launch: Launcher) -> None:
    run = launch("health.port=0", *FAST, *SLEEP, env={"TORCHELASTIC_HEALTH_CHECK_PORT": "1"})
    assert ask(run, "/livez")[0] == 200
    assert f"health: {run.await_event('health_listening')['url']}" in run.stderr + run.stdout
    run.signal(15)
    assert run.wait() == 143
