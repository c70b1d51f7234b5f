"""Faults 31 to 33: what is wrong before anything runs, another job for a run that goes on, and bad clients."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import SLEEP, Launch, alive, in_round, python, until
from tests.e2e.test_control import ctl
from tests.e2e.test_health import ask
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

TRUE = "worker: {cmd: 'true'}\n"
BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


class Wrong(NamedTuple):
    """A recipe, more words, and a line for each thing that is wrong with them: its beginning and its end."""

    recipe: str
    words: tuple[str, ...]
    says: tuple[tuple[str, str], ...]


WRONG = {
    "several at once": Wrong(
        TRUE + "restrt: never\nstop: {grace_s: -1}\n",
        ("worker.nproc=0", "node.rank=-1", "restart.backoff.initial_s=nan", "restart.budget.max=[1]"),
        (
            ("restrt: unknown key; did you mean 'restart'?", "[job.yaml:2]"),
            ("node.rank: -1 is", "[override node.rank=-1]"),
            ("worker.nproc: 0 is too small;", "[override worker.nproc=0]"),
            ("restart.backoff.initial_s: nan is not a number;", "[override restart.backoff.initial_s=nan]"),
            ("restart.budget.max: a list is not a whole number;", "[override restart.budget.max=[1]]"),
            ("stop.grace_s: -1 is negative;", "[job.yaml:3]"),
        ),
    ),
    "a dependency cycle": Wrong(
        "roles:\n  a: {worker: {cmd: 'true'}, depends_on: {b: started}}\n"
        "  b: {worker: {cmd: 'true'}, depends_on: {a: started}}\n",
        (),
        (("roles.a.depends_on: waits for itself: a -> b -> a;", "[job.yaml:2]"),),
    ),
    "a role that is there twice": Wrong(
        "roles:\n  a: {worker: {cmd: 'true'}}\n  a: {worker: {cmd: 'true'}}\n",
        (),
        (("roles.a: is given twice, first in line 2;", "[job.yaml:3]"),),
    ),
    "a rule that can never match": Wrong(
        TRUE + "restart:\n  rules:\n    - {action: retry}\n    - {exit_codes: [3], action: fatal}\n",
        (),
        (("restart.rules[1]: can never match:", "[job.yaml:5]"),),
    ),
    "a backoff that never grows": Wrong(
        TRUE + "restart: {backoff: {max_s: 100, reset_after_s: 5}}\n",
        (),
        (("restart.backoff.reset_after_s: 5 is less than restart.backoff.max_s 100;", "[job.yaml:2]"),),
    ),
    "ten megabytes": Wrong("# " + "x" * (10 << 20) + "\n", (), (("recipe: is larger than 1 MiB;", "[job.yaml]"),)),
    "a bomb of aliases": Wrong(BOMB, (), (("recipe: has more than 100000 nodes after aliases;", "[job.yaml:1]"),)),
    "an interpolation loop": Wrong(
        "worker: {cmd: 'true', env: {A: '${worker.env.B}', B: '${worker.env.A}'}}\n",
        (),
        (
            ("worker.env.A: '${worker.env.B}' leads back to itself;", "[job.yaml:1]"),
            ("worker.env.B: '${worker.env.A}' leads back to itself;", "[job.yaml:1]"),
        ),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_fault_31_a_wrong_configuration_starts_nothing_and_all_of_it_is_told(launch: Launcher, name: str) -> None:
    """The list's exit code is 78, DESIGN's 2; what it calls dry run is `orchestratectl plan`."""
    recipe, words, says = WRONG[name]
    directory = launch("--version").directory  # whatever it does: the directory is there
    (directory / "job.yaml").write_text(recipe)
    run = launch("job.yaml", *words, name=directory.name)
    assert run.wait() == 2
    told = run.stderr.splitlines()
    assert len(told) == len(says), "one line each, and no other"
    for line, (begins, ends) in zip(sorted(told), sorted(says), strict=True):
        assert line.startswith(f"error: {begins}")
        assert line.endswith(ends)
    assert not run.run_dir.exists(), "nothing was started"
    plan = ctl("plan", "job.yaml", *words, cwd=directory)
    assert (plan.returncode, plan.stderr.splitlines()) == (2, told)


def test_fault_31_a_plan_shows_the_compiled_machine(tmp_path: Path) -> None:
    plan = ctl("plan", "--json", "restart=never", "--", "true", cwd=tmp_path)
    assert plan.returncode == 0
    assert "BACKOFF" not in plan.stdout
    assert "HEALTHY" in ctl("graph", "restart=never", "--", "true", cwd=tmp_path).stdout


OTHER = {
    "another environment": ("worker.env.A=2", "worker.env.A: 2 here, 1 there"),
    "another budget": ("restart.budget.max=9", "restart.budget.max: 9 here, 3 there"),
    "another watchdog": ("watchdog=heartbeat", "watchdog."),
}


@pytest.mark.parametrize("what", OTHER)
def test_fault_32_a_changed_job_is_rejected_and_no_process_is_touched(nodes: Nodes, what: str) -> None:
    """A run keeps its job to its end: nothing is reloaded, whatever has changed. Who brings another one is refused,
    and told what differs; a changed job is a new run."""
    word, difference = OTHER[what]
    elastic = ("nodes=1:2", "rendezvous.last_call_s=0.2", "worker.env.A=1")
    a = nodes.start("a", *elastic, *SLEEP)
    number = in_round(a, 1)
    before, size = a.workers(number), len(a.journal)
    b = nodes.start("b", *elastic, word, *SLEEP)
    assert b.wait() == 3
    assert f"run j1 has another job than this agent: {difference}" in b.stderr
    assert b.events("worker_started") == []
    assert all(alive(pid) for pid in before.values())
    assert len(a.journal) == size, "it did not even notice"
    a.signal(15)
    assert a.wait() == 143


def test_fault_32_a_wish_for_a_restart_keeps_the_job_that_the_run_has(
    nodes: Nodes, server: Server, tmp_path: Path
) -> None:
    recipe = tmp_path / "job.yaml"
    recipe.write_text("worker: {env: {GREETING: before}}\n")
    said = python("import os, time", "print(os.environ['GREETING'], flush=True)", "time.sleep(600)")
    a = nodes.start("a", str(recipe), *said)
    first = a.await_healthy()
    recipe.write_text("worker: {env: {GREETING: after}}\n")
    assert ctl("restart", server.url, "j1").returncode == 0
    second = a.await_healthy(2)
    logs = [a.run_dir / f"logs/default/{number}/0/stdout.log" for number in (first, second)]
    until(lambda: logs[1].exists() and logs[1].read_text(), "it has started again")
    assert [log.read_text() for log in logs] == ["before\n", "before\n"]
    assert ctl("restart", server.url, "j1", "worker.env.GREETING=after").returncode == 2, "a wish has no settings"
    assert ctl("restart", server.url, "another").returncode == 3
    a.signal(15)
    assert a.wait() == 143
    assert a.result["rounds"] == 2


@contextmanager
def serving(launch: Launcher, *words: str) -> Iterator[Launch]:
    """A run whose health can be asked for, and which must come through unharmed whatever is done to it meanwhile."""
    run = launch("health=http", *words, *SLEEP)
    workers = run.workers(run.await_healthy())
    yield run
    assert all(alive(pid) for pid in workers.values())
    assert run.events("worker_exited") == []
    run.signal(15)
    assert run.wait() == 143
    assert "Traceback" not in run.stderr


def answer_to(run: Launch, request: bytes) -> bytes:
    """What is said to these bytes, up to the end of the connection."""
    with connect(run) as client:
        client.sendall(request)
        said = b""
        try:
            while more := client.recv(65536):
                said += more
        except ConnectionResetError:
            pass
        return said


def connect(run: Launch) -> socket.socket:
    where = urlsplit(run.await_event("health_listening")["url"])
    return socket.create_connection((where.hostname, where.port), timeout=20)


@contextmanager
def nobody() -> Iterator[None]:
    """This process as another user."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_fault_33_another_user_cannot_connect(
    launch: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the list does by SO_PEERCRED the mode of the socket does: nobody else can connect at all."""
    path = tmp_path / "health"
    with serving(launch, f"health.host=unix:{path}"), socket.socket(socket.AF_UNIX) as own:
        until(path.exists, "it listens")
        monkeypatch.chdir(tmp_path)  # that directories are in the way is not what is tested
        tmp_path.chmod(0o755)
        own.connect("health")
        with nobody(), socket.socket(socket.AF_UNIX) as other, pytest.raises(PermissionError):
            other.connect("health")


def test_fault_33_clients_that_do_not_behave_harm_nobody(launch: Launcher) -> None:
    """Oversized, malformed and slow requests, and a thousand connections at once; there is no JSON to be malformed."""
    with serving(launch) as run, ExitStack() as slow:
        for request, status in (
            (b"GET /livez HTTP/1.1\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n", b"431"),
            (b'{"verb": "stop"}\r\n\r\n', b"400"),
            (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
            (b"POST /status HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", b"405"),
        ):
            assert answer_to(run, request).split()[1:2] in ([status], []), request[:40]  # or reset, if it came too late
        clients = []
        for _ in range(1000):
            clients.append(slow.enter_context(connect(run)))
            if len(clients) <= 16:  # all places
                clients[-1].sendall(b"GET /li")
        threads = Path(f"/proc/{run.process.pid}/task")
        assert len(list(threads.iterdir())) < 40, "places are few"
        until(lambda: ask(run, "/livez")[0] == 200, "whoever is slow is sent away")
        shown = json.loads(ask(run, "/status")[1])
        assert (shown["state"], shown["alive"]) == ("HEALTHY", True)
    assert threading.active_count() < 40


def test_fault_33_pages_of_other_hosts_are_refused(launch: Launcher) -> None:
    """A name that somebody has pointed at the loopback makes a browser send his scripts' requests here."""
    with serving(launch) as run:
        port = urlsplit(run.await_event("health_listening")["url"]).port
        for headers, status in (
            ({"Host": f"evil.example:{port}"}, 403),
            ({"Host": "127.0.0.1.evil.example"}, 403),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Host": f"localhost:{port}"}, 200),
            ({"Host": f"[::1]:{port}", "Origin": f"http://127.0.0.1:{port}"}, 200),
        ):
            lines = [f"{name}: {value}" for name, value in headers.items()]
            said = answer_to(run, "\r\n".join(["GET /status HTTP/1.1", *lines, "", ""]).encode())
            assert int(said.split()[1]) == status, headers


def test_fault_33_no_verb_runs_a_command(nodes: Nodes, server: Server, tmp_path: Path) -> None:
    a = nodes.start("a", "nodes=1:2", *SLEEP)
    in_round(a, 1)
    made = tmp_path / "made"
    for verb in ("stop", "drain", "restart", "join", "status"):
        for words in (["--", "touch", str(made)], [f"worker.cmd=[touch,{made}]"]):
            assert ctl(verb, server.url, "j1", *words, cwd=tmp_path).returncode in (2, 3), "what is no node's name"
    assert not made.exists()
    assert a.process.poll() is None
    assert a.events("stop_requested") == []
    a.signal(15)
    assert a.wait() == 143
