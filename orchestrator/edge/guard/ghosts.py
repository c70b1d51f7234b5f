"""What an earlier guard of the same run has left on this host, when it and its agent were killed at once.

`orphans` is for an agent that lives on; here nobody knows more than the kernel shows. Invariant: only processes of this
user and these namespaces are touched, that say they are this run's, and whose guard is no more: a process of its
number that started at another time is not that guard.
"""

from __future__ import annotations

import os
import select
import signal
import time
from errno import ETIMEDOUT

from orchestrator.edge.guard import cgroup, tree
from orchestrator.edge.guard.libc import die_with_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 1.0
_RUN = b"ORCHESTRATOR_RUN_ID="
_MARK = tree.MARKER.encode() + b"="


def lay(run_id: str, limit_s: float = LIMIT_S) -> list[int]:
    """Kill them, wait until they are dead, and remove their cgroups. Their pids. OSError if that was not possible.

    A child does it: to read the environment of a process that hangs can hang, too.
    """
    guard = os.getpid()
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError:
        os.close(read)
        os.close(write)
        raise
    if pid == 0:
        try:
            die_with_parent(guard)
            os.write(write, " ".join(map(str, [*_lay(run_id, guard, limit_s / 2), "."])).encode())
        finally:
            os._exit(0)
    os.close(write)
    words = _read_words(read, time.monotonic() + limit_s)
    os.close(read)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if words[-1:] != ["."]:
        raise TimeoutError(ETIMEDOUT, f"it took more than {limit_s:g} s")
    return [int(word) for word in words[:-1]]


def _read_words(fd: int, deadline: float) -> list[str]:
    """What the child says until it ends; as far as it has come by the deadline."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    said = b""
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        data = os.read(fd, 65536)
        if not data:
            break
        said += data
    return said.decode().split()


def _lay(run_id: str, guard: int, limit_s: float) -> list[int]:
    spared = {os.getpid(), guard, *_ancestors(guard)}  # we may be a worker's, whose guard was killed meanwhile
    above = cgroup.own_directory()
    homes = [] if above is None else [home for home in cgroup.homes(above) if not _lives(home.rpartition("/")[2])]
    killed: set[int] = set()
    for home in homes:
        for leaf in cgroup.leaves(home):
            if leaf.path.rpartition("/")[2].partition(".")[2] == cgroup.plain(run_id):
                killed.update(leaf.pids())
                leaf.kill()
    killed |= tree.bring_down(lambda: _found(run_id, spared))
    deadline = time.monotonic() + limit_s
    for pid in killed:
        _wait_for(pid, deadline)
    for home in homes:
        cgroup.remove(home)
    return sorted(killed)


def _found(run_id: str, spared: set[int]) -> Iterator[tree.Found]:
    me, here = os.geteuid(), tree.namespace()
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) in spared:
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != me or not _is_ghost(name, run_id):
                continue
            process = tree.look(int(name))
            if process is None or tree.namespace(name) != here:
                continue
        except OSError:
            continue  # gone, or not ours to look at
        yield int(name), (process.parent,)
        yield from tree.below(int(name))


def _is_ghost(name: str, run_id: str) -> bool:
    """Whether it was started for this run by a guard that is dead."""
    environ = tree.read(f"/proc/{name}/environ")
    if _MARK not in environ:  # nearly all
        return False
    found = {key: value for key, _, value in (entry.partition(b"=") for entry in environ.split(b"\0"))}
    guard = found.get(_MARK[:-1], b"").decode(errors="replace").split(".")
    return found.get(_RUN[:-1]) == os.fsencode(run_id) and not _is_guard(*guard[:2])


def _lives(home: str) -> bool:
    """Whether the guard whose cgroups have this name may live: also one whose number means nothing here."""
    namespace, _, guard = home.removeprefix(cgroup.PREFIX).partition(".")
    return namespace != tree.namespace() or _is_guard(*guard.split(".")[:2])


def _is_guard(pid: str = "", started: str = "") -> bool:
    process = tree.look(int(pid)) if pid.isdecimal() else None
    return process is not None and process.alive and str(process.started) == started


def _ancestors(pid: int) -> Iterator[int]:
    while (process := tree.look(pid)) is not None and process.parent > 0:
        pid = process.parent
        yield pid


def _wait_for(pid: int, deadline: float) -> None:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return  # gone
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    os.close(fd)
