"""The guard's children: spawn, notice the exit, kill the tree, and know when nothing of it is left.

Decides nothing about *when* to stop (`ladder`) or start again (`servers`). The invariant: a worker stays in the books
from its fork until its main process is reaped and no process attributed to it lives.
"""

from __future__ import annotations

import os
import signal
from errno import ECANCELED

from orchestrator.edge.guard import spawn, tree
from orchestrator.edge.guard.spawn import SpawnError
from orchestrator.edge.guard.worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestrator.edge.guard.cgroup import Cgroups, Leaf
    from orchestrator.edge.guard.loop import Loop
    from orchestrator.edge.guard.protocol import Message
    from orchestrator.edge.guard.spawn import Program

_PASSES = 20  # looks per turn at orphans that come while others are reaped; their deaths give the next turn


class Workers:
    """All of them, servers included. Two calls tell the owner: ``emit`` an event, ``on_gone`` a whole tree."""

    def __init__(
        self,
        loop: Loop,
        cgroups: Cgroups | None,
        emit: Callable[[Worker, Message], None],
        on_gone: Callable[[Worker], None],
    ) -> None:
        self._loop = loop
        self._cgroups = cgroups
        self._emit = emit
        self._on_gone = on_gone
        self._me = os.getpid()
        self._mark = f"{self._me}.{tree.started(self._me)}."
        self._by_id: dict[int, Worker] = {}
        self._by_pid: dict[int, Worker] = {}  # also the sessions that they lead
        self._by_leaf: dict[str, Worker] = {}
        self._strays: dict[int, bool] = {}  # orphans that no worker can be named for: whether they are about to be dead
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
        """Orphans that are being killed, or are dying, although no worker can be named for them."""
        return frozenset(pid for pid, ending in self._strays.items() if ending or not self._any_living())

    def left_of(self, workers: Iterable[Worker]) -> list[int]:
        """The pids that still live of these workers' trees."""
        left = self.strays
        for worker in workers:
            left |= worker.lingering
            if worker.leaf is not None:
                left |= set(worker.leaf.pids())
            if worker.running and worker.pid:
                left |= {worker.pid}
        return sorted(left)

    def _any_living(self) -> bool:
        return any(worker.running and not worker.doomed and not worker.is_server for worker in self._by_id.values())

    # --- from fork to exit

    def spawn(
        self,
        worker_id: int,
        program: Program,
        *,
        is_server: bool = False,
        mark: str | None = None,
        bear: Callable[[Worker, Program], bool] | None = None,
    ) -> None:
        """Start a process; `spawned` or `spawn_failed` is told when exec has succeeded or anything has failed.

        ``bear`` is whoever may start it in another way than by fork and exec, and says whether that will be tried.
        """
        program.env = {**program.env, tree.MARKER: f"{self._mark}{mark or worker_id}"}
        worker = Worker(worker_id, is_server=is_server)
        try:
            worker.leaf = self._leaf(program)
        except SpawnError as failure:
            self._fail(worker, failure)
            return
        self._by_id[worker_id] = worker
        if worker.leaf is not None:
            self._by_leaf[worker.leaf.path] = worker
        if bear is None or not bear(worker, program):
            self.start(worker, program)

    def start(self, worker: Worker, program: Program) -> None:
        """Fork and exec."""
        try:
            born = spawn.start(program, None if worker.leaf is None else worker.leaf.path)
        except SpawnError as failure:
            self._give_up(worker, failure)
        else:
            self.born(worker, *born)

    def born(self, worker: Worker, pid: int, pidfd: int, error_fd: int) -> None:
        """It has a process now, a child of ours; what reads from ``error_fd`` says how it goes on."""
        worker.unask = None
        worker.pid, worker.pidfd, worker.error_fd = pid, pidfd, error_fd
        self._by_pid[pid] = worker
        self._loop.watch(error_fd, lambda: self._learn_start(worker))
        self._loop.watch(pidfd, lambda: self._collect(worker))

    def _give_up(self, worker: Worker, failure: SpawnError) -> None:
        """It will have no process."""
        worker.unask = None
        worker.doomed, worker.running = True, False
        self._unsettled = True
        self._fail(worker, failure)

    def _fail(self, worker: Worker, failure: SpawnError) -> None:
        self._emit(worker, {"op": "spawn_failed", "id": worker.id, "step": failure.step, "errno": failure.errno})

    def _leaf(self, program: Program) -> Leaf | None:
        if self._cgroups is None:
            return None
        try:
            return self._cgroups.leaf(program.env.get("ORCHESTRATOR_RUN_ID", ""))
        except OSError as problem:
            raise SpawnError("cgroup", problem.errno or 0) from None

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
            self._fail(worker, failure)

    def _collect(self, worker: Worker) -> None:
        """The main process has ended: reap it, tell of it, and have its remains swept before this turn is over."""
        self._learn_start(worker)
        if worker.leaf is None:  # before the number of its group is free for others
            self._signal_group(worker, signal.SIGKILL)
        info = os.waitid(os.P_PIDFD, worker.pidfd, os.WEXITED | os.WNOHANG)
        if info is None:
            return
        self._loop.unwatch(worker.pidfd)
        os.close(worker.pidfd)
        worker.running = False
        self._unsettled = True
        if worker.started:
            self._emit(worker, worker.last_word(info))

    # --- signals

    def send(self, worker: Worker, signum: int, *, ours: bool) -> None:
        """Signal the main process. ``ours``: we want it to end, so that its exit is a consequence, not a cause.

        One that is not born yet need not be, then.
        """
        if worker.unask is not None and ours:
            worker.unask()
            self._give_up(worker, SpawnError("stopped", ECANCELED))
        if not (worker.running and worker.pid):
            return
        if os.waitid(os.P_PIDFD, worker.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return  # what has died by itself shall not look as if we had killed it
        worker.sent_by_us = worker.sent_by_us or ours
        signal.pidfd_send_signal(worker.pidfd, signum)

    def kill(self, worker: Worker) -> None:
        """SIGKILL the whole tree, wherever its processes went. What escapes in a race is found by the next sweeps."""
        if worker.doomed:
            return
        worker.doomed = self._unsettled = True
        if worker.leaf is not None and worker.running:
            self.send(worker, signal.SIGKILL, ours=True)  # it may not be in its leaf yet
            worker.leaf.kill()
            return
        self.send(worker, signal.SIGSTOP, ours=True)
        if not worker.running:
            return
        self._signal_group(worker, signal.SIGSTOP)  # at once, so that what forks within it does not get away
        tree.bring_down(lambda: tree.below(worker.pid))  # before the main process: after it they are our children
        self._signal_group(worker, signal.SIGKILL)
        self.send(worker, signal.SIGKILL, ours=True)

    def _signal_group(self, worker: Worker, signum: int) -> None:
        """Signal all that have stayed in the process group of a main process that is not reaped yet."""
        try:
            if worker.pid:  # 0 were our own group
                os.killpg(worker.pid, signum)
        except OSError:
            return  # it died, or was killed, before it led one

    # --- the remains

    def child_died(self) -> None:
        """SIGCHLD, or a leaf has become empty: some process has ended, perhaps an adopted one."""
        self._unsettled = True

    def settle(self) -> None:
        """At the end of a turn: reap orphans, kill those whose worker is dead or doomed, tell what is gone."""
        if not self._unsettled:
            return
        self._unsettled = False
        for worker in self._by_id.values():
            if worker.doomed or not worker.running:
                self._clear_leaf(worker)
        tree.bring_down(self._condemned)
        strays = self.strays
        for worker in list(self._by_id.values()):
            empty = not worker.running and not worker.lingering and worker.leaf is None
            if empty and (worker.is_server or not strays):
                del self._by_id[worker.id]
                if self._by_pid.get(worker.pid) is worker:
                    del self._by_pid[worker.pid]
                self._on_gone(worker)

    def _clear_leaf(self, worker: Worker) -> None:
        """Kill what is left in the leaf of a tree that shall not live; when it is empty, let go of it."""
        leaf = worker.leaf
        if leaf is None:
            return
        if leaf.populated():
            leaf.kill()
            fd = leaf.events_fd()
            if fd >= 0 and fd not in self._loop:  # else the deaths of our children must do
                self._loop.watch(fd, self.child_died, urgent=True)
        elif not worker.running:
            self._loop.unwatch(leaf.events_fd())
            leaf.remove()
            worker.leaf = None
            del self._by_leaf[leaf.path]

    def _condemned(self) -> Iterator[tree.Found]:
        """A look at our own children, the dead among them reaped: those whose worker is dead or doomed, and below."""
        living = self._any_living()
        for _ in range(_PASSES):
            self._strays.clear()
            for worker in self._by_id.values():
                worker.lingering.clear()
            found = [pid for pid in tree.children(self._me) if not self._is_main(pid)]
            left = [pid for pid in found if not tree.reap(pid)]
            for pid in left:
                if self._is_condemned(pid, living):
                    yield pid, (self._me,)
                    yield from tree.below(pid)
            if len(left) == len(found):
                break  # else the children of those who died are ours now

    def _is_main(self, pid: int) -> bool:
        main = self._by_pid.get(pid)
        return main is not None and main.running

    def _is_condemned(self, pid: int, living: bool) -> bool:
        """Whether an adopted orphan is to be killed, one by one; it is put in the books."""
        owner, ours = self._owner(pid)
        if owner is None:
            if not ours:
                self._strays[pid] = tree.is_ending(pid)
            return ours or not living
        owner.lingering.add(pid)
        return (owner.doomed or not owner.running) and owner.leaf is None  # a leaf dies as a whole

    def _owner(self, pid: int) -> tuple[Worker | None, bool]:
        """The worker that an adopted orphan came from, by its leaf, session or marker; and whether it is marked."""
        if self._cgroups is not None:
            path = self._cgroups.home_of(pid)
            if path is not None:
                return self._by_leaf.get(path), True
        process = tree.look(pid)
        if process is not None and process.session in self._by_pid:
            return self._by_pid[process.session], True
        mark = tree.marker(pid)
        worker_id = mark.removeprefix(self._mark)
        if worker_id == mark or not worker_id.isdecimal():
            return None, False
        return self._by_id.get(int(worker_id)), True
