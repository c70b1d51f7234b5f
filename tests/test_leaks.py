"""What finds leaks finds each kind of them, blames nobody for what others do, and takes no time if there is none."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from tests.edge.procs import is_alive, read_pid, wait_until
from tests.edge.servers import Server, binary_of
from tests.leaks import Place, leaks, look

ROOT = Path(__file__).parents[1]
AT_ONCE_S = 0.05  # for what is there to stay
# A process in a session of its own, without an environment, whose parent has ended.
DAEMON = """
import os, sys
if os.fork() == 0:
    os.setsid()
    os.execve("/bin/sh", ["sh", "-c", "echo $$ > $0; exec sleep 600", sys.argv[1]], {})
"""


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(binary_of("valkey"))
    running.start()
    yield running
    running.stop()


@contextmanager
def judged(place: Place, directory: Path) -> Iterator[list[str]]:
    """What is done in this block is looked through at its end."""
    found: list[str] = []
    before = look(place)
    yield found
    found += leaks(before, place, directory, AT_ONCE_S)


def test_nothing_is_found_where_nothing_is_left(own_place_of_tests: Place, tmp_path: Path) -> None:
    with judged(own_place_of_tests, tmp_path) as found:
        subprocess.run(["true"], check=True)
        (tmp_path / "file").write_text("is no leak")
        (tmp_path / "link").symlink_to("nowhere")
    assert found == []


def test_a_daemon_that_has_shed_its_environment_and_its_parents_is_found_and_ended(
    own_place_of_tests: Place, tmp_path: Path
) -> None:
    with judged(own_place_of_tests, tmp_path) as found:
        subprocess.run([sys.executable, "-c", DAEMON, str(tmp_path / "pid")], check=True)
        pid = read_pid(tmp_path / "pid")
    assert found == [f"process: {pid}: sleep 600"]
    wait_until(lambda: not is_alive(pid), "it is ended")


def test_what_has_died_meanwhile_is_no_leak_and_is_reaped(own_place_of_tests: Place, tmp_path: Path) -> None:
    with judged(own_place_of_tests, tmp_path) as found:
        subprocess.run([sys.executable, "-c", DAEMON, str(tmp_path / "pid")], check=True)
        pid = read_pid(tmp_path / "pid")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "it is dead")
    assert found == []
    assert not Path(f"/proc/{pid}").exists()


def _descriptor(place: Place, directory: Path, undo: ExitStack) -> str:
    fd = os.open(directory, os.O_RDONLY)
    undo.callback(os.close, fd)
    return f"descriptor: {fd} -> {directory}"


def _cgroup(place: Place, directory: Path, undo: ExitStack) -> str:
    if place.cgroup is None:
        pytest.skip("needs a writable cgroup2")
    path = place.cgroup / "orchestrator.1.2.3"
    path.mkdir()
    undo.callback(path.rmdir)
    return f"cgroup: {path}"


def _fifo(place: Place, directory: Path, undo: ExitStack) -> str:
    path = directory / "run" / "deep" / "watchdog.1234"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    return f"FIFO: {path}"


def _socket(place: Place, directory: Path, undo: ExitStack) -> str:
    path = Path(tempfile.gettempdir(), "s")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    undo.callback(path.unlink)
    return f"socket: {path}"


def _directory(place: Place, directory: Path, undo: ExitStack) -> str:
    path = tempfile.mkdtemp(prefix="orch-")
    undo.callback(os.rmdir, path)
    return f"server's directory: {path}"


@pytest.mark.parametrize("plant", [_descriptor, _cgroup, _fifo, _socket, _directory])
def test_each_kind_of_leak_is_found(
    own_place_of_tests: Place, tmp_path: Path, plant: Callable[[Place, Path, ExitStack], str]
) -> None:
    with ExitStack() as undo:
        with judged(own_place_of_tests, tmp_path) as found:
            expected = plant(own_place_of_tests, tmp_path, undo)
        assert found == [expected]


def test_a_key_that_would_never_go_away_is_found(own_place_of_tests: Place, server: Server, tmp_path: Path) -> None:
    with redis.Redis.from_url(server.url) as client, judged(own_place_of_tests, tmp_path) as found:
        client.set("goes", 1, px=60_000)
        client.set("stays", 1)
        client.select(3)
        client.hset("stays too", "a", "b")
        client.close()
    assert found == [f"key without TTL: {key} of {server.url}" for key in ("stays in db0", "stays too in db3")]


def test_what_ends_by_itself_is_waited_for(own_place_of_tests: Place, tmp_path: Path) -> None:
    before = look(own_place_of_tests)
    with subprocess.Popen(["sleep", "0.3"]) as process:
        assert ("process", str(process.pid)) in look(own_place_of_tests) - before
        assert leaks(before, own_place_of_tests, tmp_path) == []
        process.wait()


def test_a_clean_test_costs_less_than_five_milliseconds(
    own_place_of_tests: Place, server: Server, tmp_path: Path
) -> None:
    for number in range(200):
        (tmp_path / str(number)).touch()
    took = []
    for _ in range(50):
        began = time.perf_counter()
        before = look(own_place_of_tests)
        assert leaks(before, own_place_of_tests, tmp_path) == []
        took.append(time.perf_counter() - began)
    assert min(took) < 0.005, "of which the quickest is judged: the machine has other things to do"


LEAKY = """
import os, subprocess, tempfile, time
from pathlib import Path
from tests.leaks import nothing_is_left
here = Path(__file__).parent

def test_leaks(tmp_path):
    subprocess.run(["sh", "-c", "setsid sleep 600 &"], check=True)
    tempfile.mkdtemp(prefix="orch-")
    os.mkfifo(tmp_path / "pipe")
    (here / "planted").touch()
    deadline = time.monotonic() + 60
    while not (here / "judged").exists() and time.monotonic() < deadline: time.sleep(0.01)

def test_after_it(tmp_path): pass
"""
CLEAN = """
import time
from pathlib import Path
import pytest
from tests.leaks import nothing_is_left
here = Path(__file__).parent

def test_beside_it(tmp_path):
    deadline = time.monotonic() + 60
    while not (here / "planted").exists() and time.monotonic() < deadline: time.sleep(0.01)

def test_after_it():
    (here / "judged").touch()
"""


# The conftest is the repository's own; files outside of it have none of its directories'.
@pytest.mark.parametrize("several", [(), ("-n", "2", "--dist", "loadfile")], ids=["one process", "two at once"])
def test_a_test_that_leaks_is_an_error_and_only_that_one(tmp_path: Path, several: tuple[str, ...]) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import own_place_of_tests\n")
    (tmp_path / "test_clean.py").write_text(CLEAN)
    (tmp_path / "test_leaky.py").write_text(LEAKY)
    if not several:
        (tmp_path / "planted").touch()  # nobody else is there to wait for
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    words = ["--rootdir", str(tmp_path), *several, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([*command, *words], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "4 passed, 1 error" in ended.stdout, ended.stdout + ended.stderr
    blamed = re.findall(r"^E +AssertionError: (\S+) has left behind", ended.stdout, re.MULTILINE)
    assert blamed == ["test_leaky.py::test_leaks"]
    for kind in (r"process: \d+: sleep 600", r"server's directory: .*/orch-", r"FIFO: .*/pipe"):
        assert re.search(rf"^E +{kind}", ended.stdout, re.MULTILINE), kind


@pytest.mark.parametrize("directory", ["edge", "chaos", "faults", "e2e"])
def test_every_directory_that_starts_processes_has_its_tests_judged(directory: str) -> None:
    from importlib import import_module  # noqa: PLC0415 - only this needs it

    from tests.leaks import nothing_is_left  # noqa: PLC0415

    assert import_module(f"tests.{directory}.conftest").nothing_is_left is nothing_is_left
