"""The guard: parent of all workers, so that nothing of them outlives the agent.

Here requests are handed to those who carry them out, events go back, and the end is put in order. The guard decides
nothing about a job. Invariant: it ends for one reason only, that its agent has ended or asked it to, and when it
ends by itself, no worker, orphan or server is left.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from functools import partial

from orchestrator.edge.guard import estate, ghosts, libc, spawn, will
from orchestrator.edge.guard.cgroup import Cgroups
from orchestrator.edge.guard.fence import Fence
from orchestrator.edge.guard.ladder import Ladder
from orchestrator.edge.guard.loop import Loop
from orchestrator.edge.guard.protocol import Channel, ProtocolError
from orchestrator.edge.guard.servers import Servers
from orchestrator.edge.guard.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.edge.guard.protocol import Message
    from orchestrator.edge.guard.worker import Worker
    from orchestrator.edge.guard.zygotes import Zygotes

_END_S = 1.0  # for each part of the end; then SIGKILL, or whatever is left belongs to the kernel
_FIELDS = ("argv", "env", "cwd", "stdout", "stderr", "umask", "limits", "cpus")  # of a program, in a message
_EXITS, _ORPHANS, _REQUESTS, _FENCE = range(4)  # the order within one turn of the loop


class Guard:
    """One agent's guard."""

    def __init__(self, fd: int, sigchld_fd: int, agent_fd: int) -> None:
        self._loop = Loop()
        self._cgroups = Cgroups.open()
        self._workers = Workers(self._loop, self._cgroups, self._told, self._gone)
        self._servers = Servers(self._loop, self._workers, self._emit)
        self._zygotes: Zygotes | None = None
        self._channel = Channel(fd)
        self._ladders: list[Ladder] = []
        self._will: Message | None = None
        self._inherited: list[str] = []  # paths
        self._fence = Fence(self._fall)
        self._over: str | None = None  # why: "quit" or "agent died"
        self._sigchld_fd = sigchld_fd
        self._loop.watch(fd, self._converse, turn=_REQUESTS)
        self._loop.watch(sigchld_fd, self._child_died, turn=_ORPHANS)
        self._loop.watch(agent_fd, lambda: self._finish("agent died"), turn=_REQUESTS)
        # Last: an extension that has arrived while this process was paused counts.
        self._loop.watch(self._fence.fd, self._fence.look, turn=_FENCE)
        self._agent_fd = agent_fd
        self._handlers: dict[str, Callable[[Message], None]] = {
            "spawn": self._spawn,
            "stop": self._stop,
            "kill": self._kill,
            "signal": self._signal,
            "serve": self._serve,
            "zygote": self._open_zygote,
            "dismiss": self._dismiss,
            "will": self._keep_will,
            "inherit": self._inherit,
            "fence": lambda message: self._fence.set(message["at"]),
            "ghosts": self._lay_ghosts,
            "quit": lambda _: self._finish("quit"),
        }

    def run(self) -> None:
        """Serve until the agent ends or says so; then leave nothing behind."""
        cgroup = self._cgroups and self._cgroups.path
        containment = "subreaper" if cgroup is None else "cgroup2"
        try:
            self._emit({"op": "guard_started", "pid": os.getpid(), "containment": containment, "cgroup": cgroup})
            while self._over is None:
                self._turn()
        finally:
            self._end()
            if self._cgroups is not None:
                self._cgroups.close()

    def _turn(self, limit_s: float | None = None) -> None:
        self._loop.run_once(limit_s)
        self._workers.settle()

    # --- words in and out

    def _converse(self) -> None:
        self._channel.flush()
        try:
            for message in self._channel.receive():
                self._handlers[message["op"]](message)
        except EOFError:
            self._finish("agent died")
        except ProtocolError as problem:
            os.write(2, f"orchestrator guard: {problem}\n".encode())
            self._finish("agent died")  # nothing that follows on this connection can be trusted
        self._loop.want_write(self._channel.fd, self._channel.pending)

    def _emit(self, event: Message) -> None:
        self._channel.send(event)
        if self._channel.pending:
            self._loop.want_write(self._channel.fd, True)

    def _told(self, worker: Worker, event: Message) -> None:
        if worker.is_server:
            self._owner_of(worker).told(worker, event)
        else:
            self._emit(event)

    def _gone(self, worker: Worker) -> None:
        if worker.is_server:
            self._owner_of(worker).gone(worker)
        for ladder in list(self._ladders):
            ladder.left(worker)
        self._ladders = [ladder for ladder in self._ladders if not ladder.done]

    def _owner_of(self, helper: Worker) -> Servers | Zygotes:
        return self._zygotes if self._zygotes is not None and helper.id in self._zygotes else self._servers

    def _child_died(self) -> None:
        os.read(self._sigchld_fd, 4096)
        self._workers.child_died()

    # --- requests

    def _is_taken(self, message: Message) -> bool:
        """Whether an id is in use; which would be the agent's mistake, and is told to it."""
        taken = any(message["id"] in ids for ids in (self._workers, self._servers, self._zygotes or ()))
        if taken:
            self._emit({"op": "spawn_failed", "id": message["id"], "step": "id_in_use", "errno": 0})
        return taken

    def _spawn(self, message: Message) -> None:
        if self._fence.is_down():  # ordered before the agent could know
            self._emit({"op": "spawn_failed", "id": message["id"], "step": "fenced", "errno": 0})
        elif not self._is_taken(message):
            zygote = message["zygote"]
            bear = None if zygote is None or self._zygotes is None else partial(self._zygotes.bear, zygote)
            self._workers.spawn(message["id"], spawn.Program(**{name: message[name] for name in _FIELDS}), bear=bear)

    def _open_zygote(self, message: Message) -> None:
        from orchestrator.edge.guard.zygotes import Zygotes  # noqa: PLC0415 - few jobs want it

        if self._zygotes is None:
            self._zygotes = Zygotes(self._loop, self._workers, self._emit)
        if not self._is_taken(message):
            program = spawn.Program(**{name: message[name] for name in _FIELDS})
            self._zygotes.open(message["id"], program, message["words"])

    def _dismiss(self, message: Message) -> None:
        if self._zygotes is not None:
            self._zygotes.close(message["id"])

    def _serve(self, message: Message) -> None:
        if not self._is_taken(message):
            program = spawn.Program(message["argv"], message["env"], stdout=message["log"], stderr=message["log"])
            self._servers.serve(message["id"], program, message["cleanup"], message["restart"], message["signal"])

    def _stop(self, message: Message) -> None:
        ticket = message["ticket"]
        self._servers.release(message["ids"])
        ladder = Ladder(
            self._loop,
            self._workers,
            self._workers.of(message["ids"]),
            lambda unkillable: self._emit({"op": "stopped", "ticket": ticket, "unkillable": unkillable}),
        )
        self._ladders.append(ladder)
        ladder.descend(message["signal"], message["grace_s"], message["kill_wait_s"])

    def _kill(self, message: Message) -> None:
        for worker in self._workers.of(message["ids"]):
            self._workers.kill(worker)
        for ladder in self._ladders:
            ladder.hurry()

    def _signal(self, message: Message) -> None:
        for worker in self._workers.of(message["ids"]):
            self._workers.send(worker, message["signal"], ours=False)

    def _fall(self, at_s: float) -> None:
        """The lease has lapsed and nobody said otherwise: others may be starting in our place."""
        self._emit({"op": "fenced", "at_s": at_s})  # first: very many trees take their time
        self._kill({"ids": [worker.id for worker in self._workers.all(servers=False)]})

    def _keep_will(self, message: Message) -> None:
        self._will = message if message["addr"] else None

    def _inherit(self, message: Message) -> None:
        self._inherited = message["paths"]

    def _lay_ghosts(self, message: Message) -> None:
        """Kill what an earlier guard has left of a run; the spawns that were asked for after this wait behind it."""
        try:
            pids = ghosts.lay(message["run_id"])
        except OSError as problem:
            os.write(
                2, f"orchestrator guard: what an earlier run may have left was not looked for: {problem}\n".encode()
            )
            return
        if pids:
            self._emit({"op": "ghosts_killed", "pids": pids})

    # --- the end

    def _finish(self, why: str) -> None:
        self._over = self._over or why
        self._loop.unwatch(self._channel.fd)
        self._loop.unwatch(self._agent_fd)

    def _end(self) -> None:
        """Kill all trees, tell the rendezvous server, stop the servers, clean up; in this order."""
        self._finish("a fault of the guard")
        for worker in self._workers.all(servers=False):
            self._workers.kill(worker)
        if self._zygotes is not None:
            self._zygotes.close_all()  # after those who may have waited for a birth
        self._workers.child_died()  # also look for orphans that no worker can be named for
        self._workers.settle()
        self._wait(lambda: not self._workers.all(servers=False) and not self._workers.strays)
        if self._will is not None and self._over == "agent died":
            will.deliver(self._will["addr"], self._will["payloads"])
        self._servers.terminate()
        self._wait(lambda: not self._workers.all(servers=True))
        for worker in self._workers.all(servers=True):
            self._workers.kill(worker)
        self._wait(lambda: not self._workers.all(servers=True))
        self._servers.clean_up()
        for path in self._inherited:
            estate.remove(path)

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Turn the loop until the condition holds, within a bound."""
        deadline = time.monotonic() + _END_S
        while not condition() and (left := deadline - time.monotonic()) > 0:
            self._turn(left)


def _isolate(fd: int) -> int:
    """Make this process deaf to stray signals and free of foreign descriptors. Returns what SIGCHLD wakes."""
    # Blocked, not ignored: what is ignored stays ignored through exec, a mask is lifted by one call in the child.
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {signal.SIGCHLD})
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(signum) is not signal.SIG_DFL:
            signal.signal(signum, signal.SIG_DFL)  # not ours only: a launcher under nohup hands down ignored ones
    for standard in (0, 1, 2):
        try:
            os.fstat(standard)
        except OSError:  # closed by whoever started us; a log file must not get this number by chance
            os.open(os.devnull, os.O_RDWR)
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_inheritable(fd, False)
    spawn.raise_descriptor_limit()  # after closing, which may have to walk up to the limit
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # full is as good as one byte
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read


def main(fd: int) -> None:
    """Be the guard of the process that started this one, over the socket ``fd``."""
    sigchld_fd = _isolate(fd)
    libc.become_subreaper()
    guard = Guard(fd, sigchld_fd, os.pidfd_open(os.getppid()))
    gc.freeze()  # what is here now is never looked at again, so that forks copy fewer pages
    guard.run()
