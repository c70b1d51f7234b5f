"""The watchdog with a real pipe and real processes, without an agent."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.policies import WatchdogKind, WatchdogPolicy
from orchestrator.core.ranks import Place
from orchestrator.core.rendezvous import Seat
from orchestrator.edge import stacks as stacks_module
from orchestrator.edge.fifo import Fifo, make_fifo
from orchestrator.edge.procfs import ancestor, catches, cpu_s, described
from orchestrator.edge.redis.arguments import CAUSE_LIMIT, cause_json
from orchestrator.edge.stacks import stacks_of
from orchestrator.edge.watchdog import Watchdog
from orchestrator.edge.worker_beats import Line
from orchestrator.edge.worker_files import Worker
from tests.edge.procs import is_alive, wait_until
from tests.edge.servers import failure

SEAT = Seat(
    round=1, token=1, slot=0, size=1, base_rank=0, world_size=9, members_hash="", master_addr="", master_port=0,
    charged=0, consecutive=0,
)  # fmt: skip
TIMER = WatchdogPolicy(kind=WatchdogKind.TIMER)
HEARTBEAT = WatchdogPolicy(kind=WatchdogKind.HEARTBEAT, timeout_s=0.5, warmup_s=60)


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))  # type: ignore[arg-type] # it is a coroutine

    return run


@pytest.fixture
def processes() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start processes in sessions of their own, as the guard does; their trees are killed afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(argv, start_new_session=True, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


class Home:
    """A watchdog that turns, and what it has said."""

    def __init__(self, policy: WatchdogPolicy, directory: Path) -> None:
        self.directory = directory
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.hung: list[tuple[int, str]] = []
        self.dog = Watchdog(policy, lambda event, **fields: self.told.append((event, fields)))
        self.dog.on_hang = lambda worker, why, *_: self.hung.append((worker.place.local_rank, why))

    def start(self, pid: int, local_rank: int = 0) -> Worker:
        place = Place(rank=local_rank, local_rank=local_rank, local_world_size=9, seat=SEAT)
        worker = Worker(place=place, handle=local_rank, directory=self.directory, pid=pid)
        self.dog.started(worker)
        return worker

    def say(self, *lines: str) -> None:
        assert self.dog.path is not None
        with Path(self.dog.path).open("wb", buffering=0) as pipe:
            pipe.writelines(f"{line}\n".encode() for line in lines)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.told if event == name]

    async def until(self, condition: Callable[[], object], patience_s: float = 20) -> None:
        async with asyncio.timeout(patience_s):
            while not condition():  # noqa: ASYNC110 - what is waited for is no event
                await asyncio.sleep(0.005)


@asynccontextmanager
async def watching(policy: WatchdogPolicy, directory: Path) -> AsyncIterator[Home]:
    home = Home(policy, directory)
    home.dog.open(str(directory))
    task = asyncio.create_task(home.dog.run())
    try:
        yield home
    finally:
        task.cancel()
        await asyncio.wait([task])
        home.dog.close()


def timer(pid: int, scope: str, in_s: float, signum: int = 9) -> str:
    return json.dumps(
        {"version": 1, "pid": pid, "scope_id": scope, "expiration_time": time.time() + in_s, "signal": signum}
    )


@on_loop
async def test_a_stranger_is_not_watched_and_never_signalled(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    ours, stranger = processes("sleep", "60"), processes("sleep", "60")
    async with watching(TIMER, tmp_path) as home:
        home.start(ours.pid)
        home.say(timer(stranger.pid, "theirs", 0.0), timer(1, "init's", 0.0), timer(ours.pid, "ours", 0.3))
        await home.until(lambda: home.hung)
    assert [(rank, why[:10]) for rank, why in home.hung] == [(0, "its timer ")]
    assert "ours" in home.hung[0][1]
    assert is_alive(stranger.pid)
    assert is_alive(ours.pid), "whom to end is the machine's to say"
    assert home.events("watchdog_refused")[0]["reason"].endswith(f"pid {stranger.pid} is none of this node's workers")


@on_loop
async def test_the_timer_of_a_child_counts_while_the_child_lives(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    parent = processes("sh", "-c", "sleep 60 & echo $!; sleep 60 & echo $!; wait")
    assert parent.stdout is not None
    dying, living = (int(parent.stdout.readline()) for _ in range(2))
    async with watching(TIMER, tmp_path) as home:
        home.start(parent.pid)
        home.say(timer(dying, "dead", 0.4), timer(living, "alive", 0.8))
        await home.until(lambda: home.dog._watch.due_s() is not None)
        os.kill(dying, signal.SIGKILL)
        await home.until(lambda: home.hung)
    assert ["alive" in why for _, why in home.hung] == [True]
    assert home.events("worker_hung")[0]["pid"] == parent.pid


@on_loop
async def test_a_renewal_that_waits_in_the_pipe_counts(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    worker = processes("sleep", "60")
    async with watching(TIMER, tmp_path) as home:
        home.start(worker.pid)
        home.say(timer(worker.pid, "step", 0.3))
        await home.until(lambda: home.dog._watch.due_s() is not None)
        home.say(timer(worker.pid, "step", 60))
        time.sleep(0.4)  # noqa: ASYNC251 - the loop must not turn before the first one has expired
        await home.until(lambda: (home.dog._watch.due_s() or 0) > time.monotonic() + 30)
    assert home.hung == []


@on_loop
async def test_a_timer_without_a_signal_is_told_and_is_no_failure(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    worker = processes("sleep", "60")
    async with watching(TIMER, tmp_path) as home:
        home.start(worker.pid)
        home.say(timer(worker.pid, "step", 0.1, signum=0))
        await home.until(lambda: home.events("worker_hung"))
    assert home.events("worker_hung")[0]["fails"] is False
    assert home.hung == []


@on_loop
async def test_a_pipe_that_was_full_leads_to_an_amnesty(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    worker = processes("sleep", "60")
    async with watching(TIMER, tmp_path) as home:
        home.start(worker.pid)
        home.say(timer(worker.pid, "step", 0.5))
        await home.until(lambda: home.dog._watch.due_s() is not None)
        fd = os.open(str(home.dog.path), os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(fd, b"x" * 4000 + b"\n")
        os.close(fd)
        await home.until(lambda: home.dog._watch.due_s() is None)
        assert home.dog.alive()
    assert home.hung == []


@on_loop
async def test_a_loop_that_was_held_up_gives_everybody_that_time(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    worker = processes("sleep", "60")
    async with watching(HEARTBEAT, tmp_path) as home:
        home.start(worker.pid)
        home.say(f"beat {worker.pid}")
        await home.until(lambda: (home.dog._watch.due_s() or 1e9) < time.monotonic() + 1)
        time.sleep(2)  # noqa: ASYNC251 - that is the fault that is tried
        ended = time.monotonic()
        await home.until(lambda: home.hung)
        assert time.monotonic() - ended > 0.2
    assert home.hung[0][1].startswith("no heartbeat for")


@on_loop
async def test_a_timer_that_was_set_too_late_is_no_lateness_of_ours(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    first, second = processes("sleep", "60"), processes("sleep", "60")
    async with watching(TIMER, tmp_path) as home:
        home.start(first.pid, 0)
        home.start(second.pid, 1)
        home.say(timer(second.pid, "second", 0.5), timer(first.pid, "first", -60))
        await home.until(lambda: len(home.hung) == 2, 5)
    assert [rank for rank, _ in home.hung] == [0, 1]


@on_loop
async def test_while_a_disk_hangs_nobody_is_said_to_do_nothing(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(Worker, "written", lambda _: answers.wait() and 0)
    async with watching(WatchdogPolicy(kind=WatchdogKind.OBSERVE, after_s=0.5), tmp_path) as home:
        home.start(processes("sleep", "60").pid)
        await home.until(lambda: home.dog._seeing is not None)
        looked_s = time.monotonic()
        await home.until(lambda: time.monotonic() > looked_s + 1)
        assert home.events("worker_hung") == []
        answers.set()
        await home.until(lambda: home.events("worker_hung"))
    assert home.hung == []


@on_loop
async def test_it_is_seen_to_live(tmp_path: Path) -> None:
    async with watching(HEARTBEAT, tmp_path) as home:
        await home.until(lambda: home.dog.last_beat_s is not None)
        assert home.dog.alive()
        home.dog.last_beat_s = time.monotonic() - 60
        assert not home.dog.alive()


@on_loop
async def test_who_has_ended_or_is_being_stopped_is_not_told_of(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    first, second, third = (processes("sleep", "60") for _ in range(3))
    async with watching(HEARTBEAT, tmp_path) as home:
        gone = home.start(first.pid, 0)
        home.start(second.pid, 1)
        home.say(f"beat {first.pid}", f"beat {second.pid}")
        home.dog.ended(gone)
        await home.until(lambda: home.hung)
        assert [rank for rank, _ in home.hung] == [1]
        home.start(third.pid, 2)
        home.say(f"beat {third.pid}")
        home.dog.rest()
        assert home.dog._watch.due_s() is None


# -- the pipe


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    made = make_fifo(None, str(tmp_path))
    yield made
    made.close()


def write(fifo: Fifo, data: bytes) -> None:
    with Path(fifo.path).open("wb", buffering=0) as pipe:
        pipe.write(data)


def test_a_writers_exit_is_no_end_and_half_a_line_waits_for_its_rest(fifo: Fifo) -> None:
    write(fifo, b"one\ntw")
    assert list(fifo.lines()) == [b"one"]
    write(fifo, b"o\n")
    assert list(fifo.lines()) == [b"two"]
    assert list(fifo.lines()) == []


def test_an_endless_line_is_not_kept_and_costs_only_itself(fifo: Fifo) -> None:
    write(fifo, b"one\n" + b"x" * 100_000)
    assert list(fifo.lines()) == [b"one"]
    assert len(fifo._rest) <= 4096
    write(fifo, b"x\ntwo\n" + b"y" * 5000 + b"\nthree\n")
    assert list(fifo.lines()) == [b"", b"two", b"", b"three"]


def test_a_pipe_is_private_whatever_the_umask_lets_through(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = make_fifo(None, str(tmp_path / "new"))
    finally:
        os.umask(before)
    assert Path(made.path).stat().st_mode & 0o777 == 0o600
    made.close()
    assert list((tmp_path / "new").iterdir()) == []


def test_what_is_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_text("mine")
    theirs = Fifo(str(pipe))
    for wished in (file, pipe, tmp_path / "no" / "such"):
        made = make_fifo(str(wished), str(tmp_path / "run"))
        assert Path(made.path).parent == tmp_path / "run"
        made.close()
    assert file.read_text() == "mine"
    assert pipe.exists()
    theirs.close()


def test_a_dead_agents_pipe_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "watchdog.1234")
    made = make_fifo(str(tmp_path / "pipe"), str(tmp_path))
    assert made.path == str(tmp_path / "pipe")
    made.close()
    make_fifo(None, str(tmp_path)).close()
    assert list(tmp_path.iterdir()) == []


# -- the worker's end


@pytest.fixture
def line_to() -> Iterator[Callable[[str | None], Line]]:
    """A worker's line, which ends with its process; here with the test."""
    made: list[Line] = []

    def make(path: str | None) -> Line:
        made.append(Line(path))
        return made[-1]

    yield make
    for fd in [line._fd for line in made if line._fd is not None]:
        os.close(fd)


def test_a_full_pipe_blocks_no_worker_and_sections_are_said_later(
    fifo: Fifo, line_to: Callable[[str | None], Line]
) -> None:
    line = line_to(fifo.path)
    fd = os.open(fifo.path, os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(fd, bytes(4096))
    line.enter("a")
    line.beat()
    line.leave("a")
    for _ in range(1000):
        line.enter("b")
    list(fifo.lines())
    line.enter("c")
    os.write(fd, b"\n")
    *_, second_last, last, _ = fifo.lines()
    assert (second_last, last) == (f"enter {os.getpid()} b".encode(), f"enter {os.getpid()} c".encode())
    os.close(fd)


def test_a_pipe_that_is_gone_fails_no_worker(fifo: Fifo, tmp_path: Path, line_to: Callable[[str | None], Line]) -> None:
    line = line_to(fifo.path)
    line.beat()
    line.enter("a")
    opened = line._fd
    assert opened is not None
    os.close(fifo.fd)
    fifo.fd = os.open("/dev/null", os.O_RDONLY)
    for _ in range(3):
        line.enter("a")
        line.leave("a")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened)
    for path in (None, "", str(tmp_path / "nowhere"), str(tmp_path)):
        other = line_to(path)
        other.beat()
        other.step(1)
        other.enter("a")
    with pytest.raises(ValueError, match="'a b' is not a section's name"):
        line.enter("a b")


def test_beats_are_sent_now_and_then_and_steps_if_they_are_new(
    fifo: Fifo, line_to: Callable[[str | None], Line]
) -> None:
    line = line_to(fifo.path)
    for _ in range(1000):
        line.beat()
    assert 1 <= len(list(fifo.lines())) < 50
    again = line_to(fifo.path)
    for _ in range(3):
        again.step(7)
        again._next_s = 0.0
    again.step(8)
    assert list(fifo.lines()) == [f"step {os.getpid()} 7".encode(), f"step {os.getpid()} 8".encode()]


# -- looking at processes

HOLDS = """
import faulthandler, signal, sys, threading, time
faulthandler.register(signal.SIGRTMAX, file=open(sys.argv[1], "a"), all_threads=True)
def somewhere(): time.sleep(60)
threading.Thread(target=somewhere, daemon=True).start()
def elsewhere():
    print(flush=True)
    time.sleep(60)
elsewhere()
"""


@on_loop
async def test_a_worker_that_offers_its_stacks_is_asked_for_them(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    file = tmp_path / "stacks.log"
    worker = processes(sys.executable, "-c", HOLDS, str(file))
    assert worker.stdout is not None
    worker.stdout.readline()
    assert catches(worker.pid, signal.SIGRTMAX)
    text = await stacks_of(worker.pid, signal.SIGRTMAX, file)
    assert " in somewhere" in text
    assert " in elsewhere" in text
    assert f"thread {worker.pid} " in text
    assert is_alive(worker.pid)


@on_loop
async def test_a_signal_that_is_no_longer_caught_is_not_sent(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    worker = processes("sleep", "60")
    text = await stacks_of(worker.pid, signal.SIGRTMAX, tmp_path / "stacks.log")
    assert "sleep" in text
    assert is_alive(worker.pid)


def spy(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program named py-spy on the PATH."""
    program = directory / "py-spy"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


@on_loop
async def test_py_spy_is_asked_where_there_is_one(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = processes("sleep", "60")
    spy(tmp_path, 'echo "$@"; yes | head -c 100000', monkeypatch)
    text = await stacks_of(worker.pid, None, tmp_path / "stacks.log")
    assert text.startswith(f"dump --nonblocking --pid {worker.pid}\n")
    assert len(text) <= stacks_module.STACKS_MAX + 1


@on_loop
async def test_a_py_spy_that_hangs_is_given_up_and_ended(
    tmp_path: Path, processes: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks_module, "WITHIN_S", 0.5)
    worker = processes("sleep", "60")
    spy(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60", monkeypatch)
    began = time.monotonic()
    text = await stacks_of(worker.pid, None, tmp_path / "stacks.log")
    assert time.monotonic() - began < 5
    assert "sleep" in text, "the kernel's are there all the same"
    pid = int((tmp_path / "pid").read_text())
    await asyncio.to_thread(wait_until, lambda: not is_alive(pid), "it is ended")


@on_loop
async def test_of_a_process_that_is_gone_there_is_nothing_to_tell(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])  # noqa: ASYNC220 - it is over at once
    gone.wait()
    assert await stacks_of(gone.pid, signal.SIGRTMAX, tmp_path / "stacks.log") == ""
    assert described(gone.pid) == ""
    assert cpu_s(gone.pid) == 0
    assert ancestor(gone.pid, {1}) is None


def test_a_child_that_has_left_the_session_is_still_its_parents(
    processes: Callable[..., subprocess.Popen[bytes]],
) -> None:
    parent = processes("sh", "-c", "setsid sh -c 'echo $$; exec sleep 60' & wait")
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert os.getsid(child) != parent.pid
    assert ancestor(child, {parent.pid}) == parent.pid
    assert ancestor(os.getpid(), {parent.pid}) is None
    os.kill(child, signal.SIGKILL)


def test_processor_time_is_that_of_all_descendants(processes: Callable[..., subprocess.Popen[bytes]]) -> None:
    busy = processes("sh", "-c", "sh -c 'while :; do :; done' & wait")
    wait_until(lambda: cpu_s(busy.pid) > 0.1, "it computes")


def test_stacks_of_any_content_fit_what_agents_tell_each_other() -> None:
    cause = replace(failure(), kind="hang", stacks="\0" * stacks_module.STACKS_MAX, message="m" * 1000)
    assert len(cause_json(cause)) <= CAUSE_LIMIT
