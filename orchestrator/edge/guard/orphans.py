"""After a guard was killed: find what it leaves, kill it and reap it. Runs in the agent, which must be a subreaper.

The guard's direct children die with it (PDEATHSIG); what they had forked comes to the agent as orphans, and stays in
the guard's cgroups if it had any. Invariant: only what is in those and children of this process are judged, so that an
equal guard pid in another container's environment is no match.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Collection, Iterator

from orchestrator.edge.guard import cgroup, tree

__all__ = ["reap_strangers", "sweep_orphans"]

_WATCHED = 256  # processes whose end is waited for at once: each needs a descriptor


def sweep_orphans(guard_pid: int, known: Collection[int] = (), limit_s: float = 1.0, home: str | None = None) -> int:
    """Kill and reap adopted processes of a dead guard; returns how many were killed one by one.

    ``known`` are the pids of the workers that ran under it: they and their sessions are recognised also as zombies,
    which show no environment. ``home`` is the directory of the guard's cgroups, which goes with it. Call this before
    another guard is launched, lest one of its children gets such a pid.
    """
    deadline = time.monotonic() + limit_s
    if home is not None:
        _clear(home, deadline)
    recognised = set(known)
    killed: set[int] = set()

    def orphans() -> Iterator[tuple[int, tuple[int, ...]]]:
        for pid in tree.children(os.getpid()):
            if _belongs(pid, guard_pid, recognised, home) and not _reap(pid):
                yield pid, (os.getpid(),)
                for found in tree.below(pid):
                    recognised.add(found[0])
                    yield found

    while True:
        new = tree.bring_down(orphans)
        killed |= new
        recognised |= new
        left = [pid for pid in tree.children(os.getpid()) if _belongs(pid, guard_pid, recognised, home)]
        living = [pid for pid in left if not _reap(pid)]
        if not left or time.monotonic() > deadline or (living and not _wait_for_one(living, deadline)):
            return len(killed)  # what is unkillable is for the kernel to end


def reap_strangers() -> None:
    """Collect the dead among those who came to this process because it is the first one, as whoever is must.

    They were started by others, as `docker exec` does, in sessions of their own. What this process has started itself
    is in its own session or leads one, and whoever started it waits for it.
    """
    ours = os.getsid(0)
    for pid in tree.children(os.getpid()):
        process = tree.look(pid)
        if process is not None and not process.alive and process.session not in (ours, pid):
            _reap(pid)


def _clear(home: str, deadline: float) -> None:
    """Kill all that is in the cgroups of a dead guard, and remove them; but for what is unkillable."""
    found = cgroup.leaves(home)
    for leaf in found:
        leaf.kill()
    for leaf in found:
        while leaf.populated() and _wait_for_change(leaf.events_fd(), deadline):
            leaf.kill()
        leaf.remove()
    cgroup.remove(home)


def _belongs(pid: int, guard_pid: int, recognised: Collection[int], home: str | None) -> bool:
    if pid in recognised or (home is not None and cgroup.leaf_of(pid, os.path.basename(home)) is not None):
        return True
    process = tree.look(pid)
    return (process is not None and process.session in recognised) or tree.marker(pid).startswith(f"{guard_pid}.")


def _reap(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:  # another part of the agent reaps as well
        return True


def _wait_for_change(events_fd: int, deadline: float) -> bool:
    """Whether a cgroup has changed before the deadline; of one that cannot be watched nobody knows."""
    if events_fd < 0:
        return False
    poll = select.poll()
    poll.register(events_fd, select.POLLPRI)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _wait_for_one(pids: list[int], deadline: float) -> bool:
    """Whether one of them ended before the deadline."""
    poll = select.poll()
    fds = []
    try:
        for pid in pids[:_WATCHED]:
            fds.append(os.pidfd_open(pid))
            poll.register(fds[-1], select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        for fd in fds:
            os.close(fd)
