"""Process trees as /proc shows them: who descends from whom, of which session, marked by which guard.

Reads and kills; whom to kill is decided elsewhere. Invariant: a number found in /proc is never signalled as it is. It
is pinned by a pidfd first and then looked at again, because only children of ours cannot be recycled under our hands.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = "ORCHESTRATOR_GUARD"  # in every worker's environment: <pid of the guard>.<id of the worker>
_MARKER_BYTES = MARKER.encode() + b"="
_FIELDS = 18  # of /proc/PID/stat after the name, up to num_threads


class Process:
    """One look at /proc/PID/stat."""

    __slots__ = ("alive", "parent", "session")

    def __init__(self, parent: int, session: int, alive: bool) -> None:
        self.parent = parent
        self.session = session
        self.alive = alive


def _read(path: str) -> bytes:
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
    fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split(None, _FIELDS)
    if len(fields) < _FIELDS:
        return None
    # A leader that ended before its other threads shows as a zombie, but its process lives on.
    dead = fields[0] in b"ZX" and int(fields[17]) <= 1
    return Process(parent=int(fields[1]), session=int(fields[3]), alive=not dead)


def marker(pid: int) -> str:
    """The value of ORCHESTRATOR_GUARD that the process was started with; empty if it has none or may not be read."""
    environ = _read(f"/proc/{pid}/environ")
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
    return [int(child) for thread in threads for child in _read(f"/proc/{pid}/task/{thread}/children").split()]


def descendants(root: int) -> Iterator[tuple[int, int]]:
    """(pid, parent) of everything below ``root``, parents first."""
    queue = [root]
    for parent in queue:
        for child in children(parent):
            queue.append(child)
            yield child, parent


def kill_found(pid: int, parents: tuple[int, ...]) -> None:
    """SIGKILL a process that was found as a child of one of ``parents``, unless it is something else by now."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return  # gone; if it left children, the next look finds them with us
    try:
        process = look(pid)
        if process is not None and process.parent in parents:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        return  # gone between the look and the signal
    finally:
        os.close(fd)


def kill_below(root: int, found: list[tuple[int, int]]) -> None:
    """SIGKILL what `descendants` had found below ``root``. Orphans among it may be our own children by now."""
    me = os.getpid()
    for pid, parent in found:
        kill_found(pid, (parent, root, me))
