"""The guard's children: spawn, notice the exit, kill the tree, and know when nothing of it is left.

Decides nothing about *when* to stop (`ladder`) or start again (`servers`). The invariant: a worker stays in the books
from its fork until its main process is reaped and no process attributed to it lives.
"""

from __future__ import annotations

import os
import signal

from orchestrator.edge.guard import spawn, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.edge.guard.loop import Loop
    from orchestrator.edge.guard.protocol import Message

_PASSES = 20  # looks per turn at a tree that forks while it is being killed; its next death gives the next turn


class Worker:
    """One main process and what came from it."""

    __slots__ = (
        "doomed",
        "error_fd",
        "id",
        "is_server",
        "lingering",
        "pid",
        "pidfd",
        "running",
        "sent_by_us",
        "started",
    )

    def __init__(self, worker_id: int, pid: int, pidfd: int, error_fd: int | None, is_server: bool) -> None:
        self.id = worker_id
        self.pid = pid
        self.pidfd = pidfd
        self.error_fd = error_fd
        self.is_server = is_server
        self.running = True  # the main process has not been reaped
        self.started = False  # it has reached exec
        self.doomed = False  # nothing of this tree shall live
        self.sent_by_us = False
        self.lingering: set[int] = set()  # adopted orphans of it that were alive at the last look


class Workers:
    """All of them, servers included. Two calls tell the owner: ``emit`` an event, ``on_gone`` a whole tree."""

    def __init__(self, loop: Loop, emit: Callable[[Worker, Message], None], on_gone: Callable[[Worker], None]) -> None:
        self._loop = loop
        self._emit = emit
        self._on_gone = on_gone
        self._me = os.getpid()
        self._by_id: dict[int, Worker] = {}
        self._by_pid: dict[int, Worker] = {}  # also the sessions that they lead
        self._strays: set[int] = set()  # living orphans that no worker can be named for
        self._unsettled = False

    # --- the books

    def __contains__(self, worker_id: int) -> bool:
        return worker_id in self._by_id

    def of(self, ids: Iterable[int]) -> list[Worker]:
        """Those among ``ids`` of which something is left."""
        return [self._by_id[worker_id] for worker_id in ids if worker_id in self._by_id]

    def all(self, *, servers: bool) -> list[Worker]:
        """The servers, or all the others."""
        return [worker for worker in self._by_id.values() if worker.is_server is servers]

    @property
    def strays(self) -> frozenset[int]:
        """Orphans that are being killed although no worker can be named for them."""
        return frozenset() if self._any_living() else frozenset(self._strays)

    def left_of(self, workers: Iterable[Worker]) -> list[int]:
        """The pids that still live of these workers' trees."""
        left = self.strays
        for worker in workers:
            left |= worker.lingering
            if worker.running:
                left |= {worker.pid}
        return sorted(left)

    def _any_living(self) -> bool:
        return any(worker.running and not worker.doomed and not worker.is_server for worker in self._by_id.values())

    # --- from fork to exit

    def spawn(self, worker_id: int, program: spawn.Program, *, is_server: bool = False) -> None:
        """Start a process; `spawned` or `spawn_failed` is told when exec has succeeded or anything has failed."""
        program.env = {**program.env, tree.MARKER: f"{self._me}.{worker_id}"}
        try:
            pid, pidfd, error_fd = spawn.start(program)
        except spawn.SpawnError as failure:
            ghost = Worker(worker_id, 0, -1, None, is_server)
            self._emit(ghost, {"op": "spawn_failed", "id": worker_id, "step": failure.step, "errno": failure.errno})
            return
        worker = Worker(worker_id, pid, pidfd, error_fd, is_server)
        self._by_id[worker_id] = self._by_pid[pid] = worker
        self._loop.watch(error_fd, lambda: self._learn_start(worker))
        self._loop.watch(pidfd, lambda: self._collect(worker))

    def _learn_start(self, worker: Worker) -> None:
        """Its error pipe has ended: with nothing (exec closed it), or with the step that failed."""
        if worker.error_fd is None:
            return
        failure = spawn.read_failure(worker.error_fd)
        self._loop.unwatch(worker.error_fd)
        os.close(worker.error_fd)
        worker.error_fd = None
        if failure is None:
            worker.started = True
            self._emit(worker, {"op": "spawned", "id": worker.id, "pid": worker.pid})
        else:
            self._emit(worker, {"op": "spawn_failed", "id": worker.id, "step": failure.step, "errno": failure.errno})

    def _collect(self, worker: Worker) -> None:
        """The main process has ended: reap it, tell of it, and have its remains swept before this turn is over."""
        self._learn_start(worker)
        info = os.waitid(os.P_PIDFD, worker.pidfd, os.WEXITED | os.WNOHANG)
        if info is None:
            return
        self._loop.unwatch(worker.pidfd)
        os.close(worker.pidfd)
        worker.running = False
        self._unsettled = True
        if worker.started:
            by_code = info.si_code == os.CLD_EXITED
            self._emit(
                worker,
                {
                    "op": "exited",
                    "id": worker.id,
                    "pid": worker.pid,
                    "exit_code": info.si_status if by_code else None,
                    "signal": None if by_code else info.si_status,
                    "core": info.si_code == os.CLD_DUMPED,
                    "sent_by_us": worker.sent_by_us,
                },
            )

    # --- signals

    def send(self, worker: Worker, signum: int, *, ours: bool) -> None:
        """Signal the main process. ``ours``: we want it to end, so that its exit is a consequence, not a cause."""
        if not worker.running or os.waitid(os.P_PIDFD, worker.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return  # what has died by itself shall not look as if we had killed it
        worker.sent_by_us = worker.sent_by_us or ours
        signal.pidfd_send_signal(worker.pidfd, signum)

    def kill(self, worker: Worker) -> None:
        """SIGKILL the whole tree, wherever its processes went. What escapes in a race is found by the next sweeps."""
        if worker.doomed:
            return
        worker.doomed = self._unsettled = True
        if worker.running:
            found = list(tree.descendants(worker.pid))  # before the main process dies: after it they are our children
            self.send(worker, signal.SIGKILL, ours=True)
            tree.kill_below(worker.pid, found)

    # --- the remains

    def child_died(self) -> None:
        """SIGCHLD: some child has ended, perhaps an adopted one."""
        self._unsettled = True

    def settle(self) -> None:
        """At the end of a turn: reap orphans, kill those whose worker is dead or doomed, tell what is gone."""
        if not self._unsettled:
            return
        self._unsettled = False
        killed: set[int] = set()
        for _ in range(_PASSES):
            if not self._sweep(killed):
                break
        strays = self.strays
        for worker in list(self._by_id.values()):
            if not worker.running and not worker.lingering and (worker.is_server or not strays):
                del self._by_id[worker.id]
                if self._by_pid.get(worker.pid) is worker:
                    del self._by_pid[worker.pid]
                self._on_gone(worker)

    def _sweep(self, killed: set[int]) -> bool:
        """One look at our own children; whether it found something to kill that it had not killed before."""
        living = self._any_living()
        self._strays.clear()
        for worker in self._by_id.values():
            worker.lingering.clear()
        before = len(killed)
        for pid in tree.children(self._me):
            main = self._by_pid.get(pid)
            if (main is not None and main.running) or _reap(pid):
                continue
            owner, ours = self._owner(pid)
            if owner is not None:
                owner.lingering.add(pid)
                condemned = owner.doomed or not owner.running
            else:
                condemned = ours or not living
                if not ours:
                    self._strays.add(pid)
            if condemned and pid not in killed:
                killed.add(pid)
                found = list(tree.descendants(pid))
                os.kill(pid, signal.SIGKILL)  # by number: our own child, and nobody else reaps it
                tree.kill_below(pid, found)
        return len(killed) > before

    def _owner(self, pid: int) -> tuple[Worker | None, bool]:
        """The worker that an adopted orphan came from, by its session, else by its marker; and whether it is marked."""
        process = tree.look(pid)
        if process is not None and process.session in self._by_pid:
            return self._by_pid[process.session], True
        guard, _, worker_id = tree.marker(pid).partition(".")
        if guard != str(self._me) or not worker_id.isdecimal():
            return None, False
        return self._by_id.get(int(worker_id)), True


def _reap(pid: int) -> bool:
    """Collect an adopted child if it is dead."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True
