"""What the guard keeps about one of its children. Only values; `workers` is who changes them.

Invariant: ``pidfd`` is open as long as ``running``, so that the main process cannot be taken for another.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orchestrator.edge.guard.cgroup import Leaf


class Worker:
    """One main process and what came from it."""

    __slots__ = (
        "doomed",
        "error_fd",
        "id",
        "is_server",
        "leaf",
        "lingering",
        "pid",
        "pidfd",
        "running",
        "sent_by_us",
        "started",
    )

    def __init__(
        self,
        worker_id: int,
        pid: int,
        pidfd: int,
        error_fd: int | None,
        *,
        is_server: bool,
        leaf: Leaf | None = None,
    ) -> None:
        self.id = worker_id
        self.pid = pid
        self.pidfd = pidfd
        self.error_fd = error_fd
        self.is_server = is_server
        self.leaf = leaf  # where all of it is, unless it went elsewhere with a privilege
        self.running = True  # the main process has not been reaped
        self.started = False  # it has reached exec
        self.doomed = False  # nothing of this tree shall live
        self.sent_by_us = False
        self.lingering: set[int] = set()  # adopted orphans of it that were alive at the last look
