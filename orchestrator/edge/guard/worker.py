"""What the guard keeps about one of its children. Only values; `workers` is who changes them.

Invariant: with a ``pid``, ``pidfd`` is open as long as ``running``: the main process cannot be taken for another.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.edge.guard.cgroup import Leaf
    from orchestrator.edge.guard.protocol import Message


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
        "unask",
    )

    def __init__(self, worker_id: int, *, is_server: bool, leaf: Leaf | None = None) -> None:
        self.id = worker_id
        self.pid = 0  # not born yet
        self.pidfd = -1
        self.error_fd: int | None = None
        self.is_server = is_server
        self.leaf = leaf  # where all of it is, unless it went elsewhere with a privilege
        self.unask: Callable[[], None] | None = None  # calls its birth off, while that is to come
        self.running = True  # the main process has not been reaped, or is to come
        self.started = False  # it has reached exec
        self.doomed = False  # nothing of this tree shall live
        self.sent_by_us = False
        self.lingering: set[int] = set()  # adopted orphans of it that were alive at the last look

    def last_word(self, info: os.waitid_result) -> Message:
        """What is told of its end."""
        by_code = info.si_code == os.CLD_EXITED
        return {
            "op": "exited",
            "id": self.id,
            "pid": self.pid,
            "exit_code": info.si_status if by_code else None,
            "signal": None if by_code else info.si_status,
            "core": info.si_code == os.CLD_DUMPED,
            "sent_by_us": self.sent_by_us,
        }
