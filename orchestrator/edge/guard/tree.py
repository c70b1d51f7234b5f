"""Process trees as /proc shows them: who descends from whom, of which session, marked by which guard.

Reads and kills; whom to kill is decided elsewhere. Invariant: a number found in /proc is never signalled as it is. It
is pinned by a pidfd first and then looked at again, because only children of ours cannot be recycled under our hands.

A tree that forks while it is killed is stopped first, process by process, until a look finds no new one: what is
stopped neither forks nor notices that others die.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Found = tuple[int, tuple[int, ...]]  # a process, and who may be its parent

MARKER = "ORCHESTRATOR_GUARD"  # in every worker's environment: <pid of the guard>.<its start>.<id of the worker>
_MARKER_BYTES = MARKER.encode() + b"="
_EXITING = 4  # PF_EXITING, among a thread's flags in /proc
_FIELDS = 20  # of /proc/PID/stat after the name, up to starttime
_PASSES = 20  # looks at a tree that forks while it is being killed; its next death gives the next ones
_PINNED = 256  # processes that are held stopped at once: each needs a descriptor


class Process:
    """One look at /proc/PID/stat."""

    __slots__ = ("alive", "parent", "session", "started")

    def __init__(self, parent: int, session: int, alive: bool, started: int) -> None:
        self.parent = parent
        self.session = session
        self.alive = alive
        self.started = started  # ticks since boot: with the pid, what no other process ever has


def read(path: str) -> bytes:
    """A /proc file, or nothing if the process is gone or not ours to look at."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        data = b""
        while chunk := os.read(fd, 65536):
            data += chunk
    except OSError:
        return b""
    else:
        return data
    finally:
        os.close(fd)


def look(pid: int) -> Process | None:
    """What the process is now; None if there is none."""
    fields = read(f"/proc/{pid}/stat").rpartition(b") ")[2].split(None, _FIELDS)
    if len(fields) < _FIELDS:
        return None
    # A leader that ended before its other threads shows as a zombie, but its process lives on.
    dead = fields[0] in b"ZX" and int(fields[17]) <= 1
    return Process(parent=int(fields[1]), session=int(fields[3]), alive=not dead, started=int(fields[19]))


def is_ending(pid: int) -> bool:
    """Whether a process is about to be dead: its memory, with its environment, goes before it is a zombie."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    flags = (read(f"/proc/{pid}/task/{thread}/stat").rpartition(b") ")[2].split(None, 7)[6:7] for thread in threads)
    return all(int(word) & _EXITING for words in flags for word in words)


def started(pid: int) -> int:
    """When a process started, in ticks since boot; 0 if there is none."""
    process = look(pid)
    return 0 if process is None else process.started


def namespace(pid: int | str = "self") -> str:
    """Where the number and the start of a process mean something: its pid namespace, and that of its clocks."""
    numbers = os.stat(f"/proc/{pid}/ns/pid").st_ino
    try:
        return f"{numbers}-{os.stat(f'/proc/{pid}/ns/time').st_ino}"
    except FileNotFoundError:  # before Linux 5.6, which has one clock for all; or it is gone
        return str(numbers)


def marker(pid: int) -> str:
    """The value of ORCHESTRATOR_GUARD that the process was started with; empty if it has none or may not be read."""
    environ = read(f"/proc/{pid}/environ")
    for entry in environ.split(b"\0"):
        if entry.startswith(_MARKER_BYTES):
            return entry[len(_MARKER_BYTES) :].decode(errors="replace")
    return ""


def _parents() -> dict[int, list[int]]:
    """Children by parent, from a walk over all of /proc: for kernels without CONFIG_PROC_CHILDREN."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (process := look(int(name))) is not None:
            found.setdefault(process.parent, []).append(int(name))
    return found


def children(pid: int) -> list[int]:
    """Direct children of all threads, zombies included."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):
        return _parents().get(pid, [])
    return [int(child) for thread in threads for child in read(f"/proc/{pid}/task/{thread}/children").split()]


def descendants(root: int) -> Iterator[tuple[int, int]]:
    """(pid, parent) of everything below ``root``, parents first."""
    queue = [root]
    for parent in queue:
        for child in children(parent):
            queue.append(child)
            yield child, parent


def below(root: int) -> Iterator[Found]:
    """`descendants`, with whom else they may belong to by the time they are looked at: orphans come to us."""
    me = os.getpid()
    for pid, parent in descendants(root):
        yield pid, (parent, root, me)


def pin(pid: int, parents: tuple[int, ...]) -> int | None:
    """A pidfd of a process that was found as a child of one of ``parents``; None if it is something else by now.

    Raises OSError if there is no descriptor left for it.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None  # if it left children, the next look finds them with us
    process = look(pid)
    if process is not None and process.parent in parents:
        return fd
    os.close(fd)
    return None


def bring_down(find: Callable[[], Iterable[Found]]) -> set[int]:
    """SIGKILL what ``find`` finds, asked again until it finds nothing new. Returns whom it was sent to."""
    killed: set[int] = set()
    pinned: dict[int, int] = {}
    for _ in range(_PASSES):
        new = False
        for pid, parents in find():
            if pid in killed or pid in pinned:
                continue
            try:
                fd = pin(pid, parents)
            except OSError:  # no descriptor is left: those that we hold must do
                killed |= _kill(pinned)
                fd = pin(pid, parents)
            if fd is not None:
                new, pinned[pid] = True, fd
                _send(fd, signal.SIGSTOP)
            if len(pinned) >= _PINNED:
                killed |= _kill(pinned)
        if not new:
            break
    return killed | _kill(pinned)


def _kill(pinned: dict[int, int]) -> set[int]:
    killed = set(pinned)
    for fd in pinned.values():
        _send(fd, signal.SIGKILL)
        os.close(fd)
    pinned.clear()
    return killed


def _send(fd: int, signum: int) -> None:
    try:
        signal.pidfd_send_signal(fd, signum)
    except OSError:
        return  # gone


def reap(pid: int) -> bool:
    """Collect a child, one that was adopted perhaps, if it is dead."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True
