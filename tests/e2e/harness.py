"""Real launches for tests: start `orchestrate`, wait for what its journal says, look at what is left afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.edge.embedded import find_server
from orchestrator.edge.guard import cgroup, estate, tree
from tests.edge.guard.layers import homes
from tests.edge.servers import REDIS, Server

PATIENCE_S = 30.0  # the most that a wait may take; no test depends on how long it does

FAST = ("restart.backoff.initial_s=0.01", "restart.backoff.max_s=0.05", "restart.backoff.reset_after_s=60")
SLEEP = ("--", sys.executable, "-c", "import time; time.sleep(600)")

T = TypeVar("T")


def python(*lines: str) -> tuple[str, ...]:
    """A worker's command: a Python script of these lines."""
    return ("--", sys.executable, "-c", "\n".join(lines))


def until(what: Callable[[], T | None], why: str, patience_s: float = PATIENCE_S, pause_s: float = 0.005) -> T:
    """Wait until ``what()`` is true, and return it."""
    deadline = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"waited {patience_s:g} s in vain: {why}"
        time.sleep(pause_s)
    return found


BEATS = python(
    "import time",
    "from orchestrator.worker import heartbeat",
    "heartbeat()",
    "open('spoken', 'w').close()",
    "while True: heartbeat(); time.sleep(0.05)",
)


class Launch:
    """One `orchestrate` process, in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        arguments: Sequence[str],
        env: Mapping[str, str] | None = None,
        wrap: Sequence[str] = (),  # what is put before the command, such as `nsenter`, and keeps the pid
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.run_dir = directory / "run"
        self._killed_guards: list[tuple[int, set[str]]] = []  # and their servers' directories
        self.out, self.err = directory / "stdout", directory / "stderr"
        command = [*wrap, sys.executable, "-m", "orchestrator", f"hydra.run.dir={self.run_dir}", *arguments]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    # -- what it says

    @property
    def journal(self) -> list[dict[str, Any]]:
        """All whole records so far."""
        try:
            text = (self.run_dir / "events.jsonl").read_text()
        except OSError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def events(self, name: str, **fields: object) -> list[dict[str, Any]]:
        """The records of one event whose fields have these values."""
        return [
            record
            for record in self.journal
            if record["event"] == name and all(record.get(key) == value for key, value in fields.items())
        ]

    def await_event(self, name: str, count: int = 1, **fields: object) -> dict[str, Any]:
        """Wait for the ``count``-th record of an event."""

        def found() -> dict[str, Any] | None:
            records = self.events(name, **fields)
            if len(records) < count and self.process.poll() is not None:
                raise AssertionError(f"ended without {name} {fields}: {self.stderr}\n{self.journal[-5:]}")
            return records[count - 1] if len(records) >= count else None

        return until(found, f"{name} {fields} of {self.directory.name}")

    def await_healthy(self, count: int = 1) -> int:
        """Wait until the group is HEALTHY for the ``count``-th time; returns the round."""
        round_number: int = self.await_event("transition", count, to="HEALTHY")["round"]
        return round_number

    def state_is(self, state: str) -> bool:
        """Whether the last transition led there."""
        return bool(self.events("transition")) and self.events("transition")[-1]["to"] == state

    def workers(self, round_number: int) -> dict[int, int]:
        """The pids of this node's workers in a round, by rank."""
        return {record["rank"]: record["pid"] for record in self.events("worker_started", round=round_number)}

    @property
    def stdout(self) -> str:
        return self.out.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self.err.read_text(errors="replace")

    @property
    def result(self) -> dict[str, Any]:
        """The object of result.json."""
        value: dict[str, Any] = json.loads((self.run_dir / "result.json").read_text())
        return value

    # -- what is done to it

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {patience_s:g} s\n{self.stderr}\n{self.journal[-8:]}") from None

    def signal(self, number: int) -> None:
        """Send a signal to the agent."""
        self.process.send_signal(number)

    def guard_pid(self) -> int:
        """Its guard: the child that runs `edge/guard`."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if b"guard" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def kill_guard(self) -> None:
        """SIGKILL its guard, if it has one."""
        with suppress(OSError, StopIteration):
            guard = self.guard_pid()
            self._killed_guards.append((guard, _private_directories(guard)))
            os.kill(guard, signal.SIGKILL)

    def kill_with_guard(self) -> None:
        """SIGKILL the agent and its guard, so that neither sees the other's end."""
        self.signal(signal.SIGSTOP)
        self.kill_guard()
        self.signal(signal.SIGKILL)
        self.process.wait(10)

    def end(self) -> None:
        """Make sure that it is gone, whatever a test left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        if self.process.returncode == -signal.SIGKILL:
            for guard, directories in self._killed_guards:
                self._clear_after(guard, directories)

    def _clear_after(self, guard: int, directories: set[str]) -> None:
        """Remove what an agent and its guard, both killed, have left: nobody else lives to do it."""
        for pipe in self.run_dir.glob("watchdog.*"):
            estate.remove(str(pipe))
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)
        for home in homes():
            if home.name.split(".")[2] == str(guard):
                until(lambda home=home: "populated 0" in (home / "cgroup.events").read_text(), "it is empty")  # type: ignore[misc]
                cgroup.remove(str(home))


def _private_directories(guard: int) -> set[str]:
    """Those of the servers that a guard runs, by their command lines."""
    commands = [tree.read(f"/proc/{pid}/cmdline").decode() for pid in tree.children(guard)]
    return {found[0] for command in commands for found in re.finditer(r"/[^\s\0]*/orch-[^/\s\0]+", command)}


def in_round(run: Launch, nodes: int, after: int = 0) -> int:
    """Wait until ``run`` is HEALTHY in a round of so many nodes, later than ``after``; returns the round."""

    def found() -> int | None:
        settled = {record["round"]: record["nodes"] for record in run.events("round_settled")}
        healthy = [record["round"] for record in run.events("transition", to="HEALTHY")]
        return next((number for number in healthy if number > after and settled[number] == nodes), None)

    return until(found, f"a round of {nodes} nodes after {after}")


def ranks(run: Launch, round_number: int) -> set[int]:
    """The ranks of this node's workers in a round."""
    return set(run.workers(round_number))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def marked(value: str) -> list[int]:
    """The pids of all live processes that have ``value`` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if value.encode() in (entry / "environ").read_bytes() and alive(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def patched(directory: Path, module: str, name: str, value: str) -> dict[str, str]:
    """An environment in which ``orchestrate`` itself has a fault: a name of a module of its edge is another thing."""
    return injected(directory, f"from orchestrator.edge import {module}", f"{module}.{name} = {value}")


def injected(directory: Path, *lines: str) -> dict[str, str]:
    """An environment in which ``orchestrate`` itself runs these lines first; guards and workers do not."""
    run_first = ["import sys", "if sys.orig_argv[1:3] == ['-m', 'orchestrator']:", *(f"    {line}" for line in lines)]
    (directory / "sitecustomize.py").write_text("\n".join(run_first))
    return {"PYTHONPATH": os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])}


@contextmanager
def external_server(password: str = "") -> Iterator[Server]:
    """A server of the user's own on a TCP port of the loopback; a real Redis where there is one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--requirepass", password) if password else ()
    server = Server(REDIS or find_server(), "--port", str(port), *options)
    server.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{port}/0"
    server.start()
    try:
        yield server
    finally:
        server.stop()
