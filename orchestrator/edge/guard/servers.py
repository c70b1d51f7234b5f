"""Helper servers (the embedded rendezvous server): started, started again when they die, stopped last.

Which server and why is the agent's business. Invariant: a server that dies at once is started ever more slowly, so
that a broken one costs no processor.
"""

from __future__ import annotations

import os
import signal
import stat
import time

from orchestrator.edge.guard.spawn import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.edge.guard.loop import Loop
    from orchestrator.edge.guard.protocol import Message
    from orchestrator.edge.guard.worker import Worker
    from orchestrator.edge.guard.workers import Workers

_FIRST_DELAY_S = 0.02
_MAX_DELAY_S = 1.0
_STABLE_S = 1.0  # who has lived this long starts again without delay


class _Server:
    __slots__ = ("cleanup", "delay_s", "id", "program", "restart", "signal", "since")

    def __init__(self, server_id: int, program: Program, cleanup: Sequence[str], restart: bool, signum: int) -> None:
        self.id = server_id
        self.program = program
        self.cleanup = cleanup
        self.restart = restart
        self.signal = signum  # what ends it
        self.delay_s = 0.0
        self.since = 0.0


class Servers:
    """The servers that the guard owns."""

    def __init__(self, loop: Loop, workers: Workers, emit: Callable[[Message], None]) -> None:
        self._loop = loop
        self._workers = workers
        self._emit = emit
        self._servers: dict[int, _Server] = {}
        self._ending = False

    def __contains__(self, server_id: int) -> bool:
        return server_id in self._servers

    def serve(self, server_id: int, program: Program, cleanup: Sequence[str], restart: bool, signum: int) -> None:
        """Start a server and keep it."""
        server = self._servers[server_id] = _Server(server_id, program, cleanup, restart, signum)
        self._start(server)

    def release(self, ids: Sequence[int]) -> None:
        """Do not start these again: their stop has been asked for."""
        for server_id in ids:
            if server_id in self._servers:
                self._servers[server_id].restart = False

    def _start(self, server: _Server) -> None:
        if not self._ending and server.id not in self._workers:
            server.since = time.monotonic()
            self._workers.spawn(server.id, server.program, is_server=True)

    def _start_again(self, server: _Server) -> None:
        if server.restart:  # its stop may have been asked for during the delay
            self._start(server)

    def told(self, worker: Worker, event: Message) -> None:
        """What happened to a server's process, in the words of `workers`, turned into ours."""
        match event["op"]:
            case "spawned":
                self._emit({"op": "server_started", "id": worker.id, "pid": worker.pid})
            case "exited":
                self._emit(
                    {
                        "op": "server_died",
                        "id": worker.id,
                        "exit_code": event["exit_code"],
                        "signal": event["signal"],
                    }
                )
            case _:  # one that cannot be executed is not tried again: the agent knows better what to do
                self._servers[worker.id].restart = False
                self._emit(event)

    def gone(self, worker: Worker) -> None:
        """Nothing of a server is left, so that it can be started again under its id."""
        server = self._servers[worker.id]
        if not server.restart or self._ending:
            return
        stable = time.monotonic() - server.since >= _STABLE_S
        server.delay_s = 0.0 if stable else min(max(_FIRST_DELAY_S, 2 * server.delay_s), _MAX_DELAY_S)
        self._loop.call_later(server.delay_s, lambda: self._start_again(server))

    def terminate(self) -> None:
        """Ask all to end; none is started again."""
        self._ending = True
        for worker in self._workers.of(self._servers):
            self._workers.send(worker, self._servers[worker.id].signal, ours=True)
            self._workers.send(worker, signal.SIGCONT, ours=True)

    def clean_up(self) -> None:
        """Remove what the servers leave in the file system."""
        for server in self._servers.values():
            for path in server.cleanup:
                _remove(path)


def _remove(path: str) -> None:
    """Remove a file, or a directory with the files right in it; never a whole tree."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        for entry in os.scandir(path):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as problem:
        os.write(2, f"orchestrator guard: {path} is left behind: {problem}\n".encode())
