"""After a guard was killed: find what it leaves, kill it and reap it. Runs in the agent, which must be a subreaper.

The guard's direct children die with it (PDEATHSIG); what they had forked comes to the agent as orphans. Invariant:
only children of this process are judged, so that an equal guard pid in another container's environment is no match.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Collection

from orchestrator.edge.guard import tree

__all__ = ["sweep_orphans"]


def sweep_orphans(guard_pid: int, known: Collection[int] = (), limit_s: float = 1.0) -> int:
    """Kill and reap adopted processes of a dead guard; returns how many were killed.

    ``known`` are the pids of the workers that ran under it: they and their sessions are recognised also as zombies,
    which show no environment. Call this before another guard is launched, lest one of its children gets such a pid.
    """
    recognised = set(known)
    killed: set[int] = set()
    deadline = time.monotonic() + limit_s
    while found := [pid for pid in tree.children(os.getpid()) if _belongs(pid, guard_pid, recognised)]:
        living = [pid for pid in found if not _reap(pid)]
        for pid in living:
            below = list(tree.descendants(pid))
            recognised.update(pid for pid, _ in below)
            os.kill(pid, signal.SIGKILL)  # by number: an unreaped child of ours
            tree.kill_below(pid, below)
            killed.update((pid, *(pid for pid, _ in below)))
        recognised.update(living)
        if living and not _wait_for_one(living, deadline):
            break  # an unkillable process is for the kernel to end
    return len(killed)


def _belongs(pid: int, guard_pid: int, recognised: Collection[int]) -> bool:
    if pid in recognised:
        return True
    process = tree.look(pid)
    return (process is not None and process.session in recognised) or tree.marker(pid).startswith(f"{guard_pid}.")


def _reap(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:  # another part of the agent reaps as well
        return True


def _wait_for_one(pids: list[int], deadline: float) -> bool:
    """Whether one of them ended before the deadline."""
    poll = select.poll()
    fds = []
    try:
        for pid in pids:
            fds.append(os.pidfd_open(pid))
            poll.register(fds[-1], select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        for fd in fds:
            os.close(fd)
