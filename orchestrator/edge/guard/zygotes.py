"""The guard's zygotes: processes that have imported what workers want, and are forked for each of them.

Loaded only when there is one. Which process a zygote is, and what it does, is `warm`'s business. A worker that it forks
becomes our child before it does anything: it is in the books, by number and pidfd, before it is let go. Invariant: a
worker for which a zygote was asked is started by fork and exec as soon as the zygote does not serve, and not otherwise.

With each birth a pair of sockets and the program, in memory, go to the zygote. The child answers ``born PID``, is told
``go``, and closes the socket when it is about to run what it was made for; else it says the step that failed.
"""

from __future__ import annotations

import _socket
import marshal
import os
import signal
import sys
from collections import deque

from orchestrator.edge.guard import spawn, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.edge.guard.loop import Loop, Timer
    from orchestrator.edge.guard.protocol import Message
    from orchestrator.edge.guard.spawn import Program
    from orchestrator.edge.guard.worker import Worker
    from orchestrator.edge.guard.workers import Workers

ENTRY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "zygote.py")
_TITLE_BYTES = 4096  # room for what is shown as a worker's command line
_ID_DIGITS = 10  # a worker's number is written over the zygote's, which is as long
_READY_S = 300.0  # imports may come from a slow disk
_BIRTH_S = 5.0  # a fork takes milliseconds
_WORDS = 4096


class _Birth:
    """A worker that is to be forked."""

    __slots__ = ("fd", "program", "timer", "worker")

    def __init__(self, worker: Worker, program: Program) -> None:
        self.worker = worker
        self.program = program
        self.fd = -1  # our end, once it was asked for
        self.timer: Timer | None = None


class _Zygote:
    __slots__ = ("current", "fd", "id", "ready", "reason", "sock", "timer", "waiting")

    def __init__(self, zygote_id: int, sock: _socket.socket, timer: Timer) -> None:
        self.id = zygote_id
        self.sock = sock
        self.fd = sock.fileno()
        self.timer = timer
        self.ready = False
        self.reason: str | None = None  # why it does not serve, if it does not
        self.current: _Birth | None = None
        self.waiting: deque[_Birth] = deque()


class Zygotes:
    """All of them. An id that is not in here, or does not serve, bears nobody."""

    def __init__(self, loop: Loop, workers: Workers, emit: Callable[[Message], None]) -> None:
        self._loop = loop
        self._workers = workers
        self._emit = emit
        self._zygotes: dict[int, _Zygote] = {}

    def __contains__(self, zygote_id: int) -> bool:
        return zygote_id in self._zygotes

    def open(self, zygote_id: int, program: Program, words: list[str]) -> None:
        """Start one: ``program``'s argv is Python and its flags, ``words`` are `warm`'s."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # others than the zygote may hold its end, too: those who are half-born
        program.argv = [*program.argv, ENTRY, *words, "." * _TITLE_BYTES]
        program.stdin = theirs.fileno()
        timer = self._loop.call_later(_READY_S, lambda: self._fail(zygote, f"it took more than {_READY_S:g} s"))
        zygote = self._zygotes[zygote_id] = _Zygote(zygote_id, ours, timer)
        self._loop.watch(zygote.fd, lambda: self._hear(zygote))
        self._workers.spawn(zygote_id, program, is_server=True, mark=f"{zygote_id:0{_ID_DIGITS}}")
        theirs.close()

    def close(self, zygote_id: int) -> None:
        """It is not needed any more."""
        zygote = self._zygotes.get(zygote_id)
        if zygote is not None and zygote.reason is None:
            self._fall_silent(zygote, "it was dismissed")

    def close_all(self) -> None:
        """The end: none is needed any more."""
        for zygote_id in list(self._zygotes):
            self.close(zygote_id)

    # --- births

    def bear(self, zygote_id: int, worker: Worker, program: Program) -> bool:
        """Whether the worker will be born of this zygote, or of nobody else but us if that goes wrong."""
        zygote = self._zygotes.get(zygote_id)
        if zygote is None or zygote.reason is not None:
            return False
        birth = _Birth(worker, program)
        worker.unask = lambda: self._unask(zygote, birth)
        zygote.waiting.append(birth)
        self._next(zygote)
        return True

    def _next(self, zygote: _Zygote) -> None:
        """Ask for the next one, if the zygote has nothing to do."""
        while zygote.ready and zygote.reason is None and zygote.current is None and zygote.waiting:
            birth = zygote.waiting.popleft()
            try:
                self._ask(zygote, birth)
            except OSError:  # we have too few descriptors, or it is dying
                self._start_ourselves(birth)
            else:
                zygote.current = birth
                birth.timer = self._loop.call_later(_BIRTH_S, lambda: self._fail(zygote, "it does not answer"))
                self._loop.watch(birth.fd, lambda birth=birth: self._born(zygote, birth))  # type: ignore[misc]

    def _ask(self, zygote: _Zygote, birth: _Birth) -> None:
        worker = birth.worker
        cgroup = None if worker.leaf is None else worker.leaf.path
        ours, theirs, memory = spawn.with_spare(_make_descriptors)
        try:
            os.write(memory, marshal.dumps(_fields(birth.program, worker.id)))
            rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (theirs, memory))
            ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
            zygote.sock.sendmsg([marshal.dumps(cgroup)], ancillary, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
            os.close(memory)
        birth.fd = ours

    def _born(self, zygote: _Zygote, birth: _Birth) -> None:
        """The child has said that it is there; or it will never be."""
        words = os.read(birth.fd, _WORDS).split()
        fd = self._release(zygote, birth)
        pid = int(words[1]) if words[:1] == [b"born"] else 0
        pidfd = _pin(pid) if pid else None
        if pidfd is None:
            os.close(fd)
            self._start_ourselves(birth)
        else:
            self._workers.born(birth.worker, pid, pidfd, fd)
            _let_go(fd)
        self._next(zygote)

    def _release(self, zygote: _Zygote, birth: _Birth) -> int:
        """It is not waited for any more; what is left is our end of its socket."""
        fd, birth.fd = birth.fd, -1
        zygote.current = None
        self._loop.cancel(birth.timer)
        self._loop.unwatch(fd)
        return fd

    def _unask(self, zygote: _Zygote, birth: _Birth) -> None:
        """It is not to be born: what exists of it ends without our ``go``."""
        if birth is zygote.current:
            os.close(self._release(zygote, birth))
            self._loop.call_later(0, lambda: self._next(zygote))
        elif birth in zygote.waiting:
            zygote.waiting.remove(birth)

    def _start_ourselves(self, birth: _Birth) -> None:
        birth.worker.unask = None
        self._workers.start(birth.worker, birth.program)

    # --- what becomes of it

    def _hear(self, zygote: _Zygote) -> None:
        """The zygote's own words: that it is ready, or why it will never be."""
        try:
            words = os.read(zygote.fd, _WORDS).decode(errors="replace")
        except OSError:
            words = ""
        if words == "ready":
            zygote.ready = True
            self._loop.cancel(zygote.timer)
            self._next(zygote)
        elif words:
            self._fail(zygote, words)
        else:
            self._loop.unwatch(zygote.fd)  # its exit says more

    def told(self, worker: Worker, event: Message) -> None:
        """What happened to a zygote's process, in the words of `workers`."""
        zygote = self._zygotes[worker.id]
        if event["op"] == "exited":
            if zygote.fd in self._loop:
                self._hear(zygote)  # its last words come before its exit
            code, signum = event["exit_code"], event["signal"]
            how = f"with exit code {code}" if signum is None else f"by {signal.Signals(signum).name}"
            self._fail(zygote, f"it ended {how}")
        elif event["op"] == "spawn_failed":
            self._fail(zygote, f"{os.strerror(event['errno'])} (at {event['step']})")

    def _fail(self, zygote: _Zygote, reason: str) -> None:
        """It does not serve any more: say so, once, and start those that wait."""
        if zygote.reason is not None:
            return
        self._emit({"op": "zygote_failed", "id": zygote.id, "ready": zygote.ready, "reason": reason})
        self._fall_silent(zygote, reason)

    def _fall_silent(self, zygote: _Zygote, reason: str) -> None:
        zygote.reason = reason
        self._loop.cancel(zygote.timer)
        self._loop.unwatch(zygote.fd)
        zygote.sock.close()
        zygote.fd = -1  # the number may come again
        births = list(zygote.waiting)
        zygote.waiting.clear()
        if zygote.current is not None:
            births.insert(0, zygote.current)
            os.close(self._release(zygote, births[0]))
        for worker in self._workers.of([zygote.id]):
            self._workers.kill(worker)
        for birth in births:
            self._start_ourselves(birth)

    def gone(self, worker: Worker) -> None:
        """Nothing of a zygote's process is left. Its id stays taken: who was asked for of it is started by us."""


def _make_descriptors() -> tuple[int, ...]:
    """Both ends of a birth's sockets, and the memory for its program."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        memory = os.memfd_create("program")
    except OSError:
        ours.close()
        theirs.close()
        raise
    ours.setblocking(False)  # the zygote may hold the child's end, too, and hang
    return ours.detach(), theirs.detach(), memory


def _pin(pid: int) -> int | None:
    """A pidfd of a child that leads its session, as it says; None if it was killed, or no descriptor is left."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    process = tree.look(pid)
    if process is not None and process.alive and process.session == pid:
        return pidfd
    os.close(pidfd)
    return None


def _let_go(fd: int) -> None:
    """Tell a child that it may go on."""
    try:
        os.write(fd, b"go")
    except OSError:
        return  # it was killed just now: its exit tells


def _fields(program: Program, worker_id: int) -> Message:
    """What `warm` makes the same program of, in another process and perhaps another Python."""
    names = ("argv", "stdout", "stderr", "umask", "cwd", "limits", "cpus")
    return {
        "env": dict(program.env),
        "guard": os.getpid(),
        "id": f"{worker_id:0{_ID_DIGITS}}",
        **{name: getattr(program, name) for name in names},
    }
