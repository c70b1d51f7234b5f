"""What workers report while they run: their result files, read again when the kernel says that one was written.

Invariant: a worker that reports all the time costs a look now and then, and one that reports nothing costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.edge.inotify import CLOSE_WRITE, MOVED_TO, Inotify
from orchestrator.edge.worker_files import RESULT_FILE, read_report

_PAUSE_S = 0.05  # between two looks

Hear = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class _Followed:
    """A worker, and who hears of it."""

    file: Path
    hear: Hear


class Reports:
    """Follows the workers of one process's agents, on the running loop."""

    def __init__(self) -> None:
        """Raises OSError when the user's inotify instances are used up."""
        self._loop = asyncio.get_running_loop()
        self._inotify = Inotify()
        self._followed: dict[int, _Followed] = {}
        self._changed: set[int] = set()
        self._later: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._inotify.fd, self._readable)

    def follow(self, directory: Path, hear: Hear) -> int:
        """Tell ``hear`` what the worker of ``directory`` reports, and has reported; a number. Raises OSError."""
        number = self._inotify.watch(str(directory), CLOSE_WRITE | MOVED_TO)
        self._followed[number] = _Followed(directory / RESULT_FILE, hear)
        self._mark({number})
        return number

    def leave(self, number: int) -> None:
        """End that, after a last look."""
        if number in self._followed:
            self._inotify.unwatch(number)
            self._tell(self._followed.pop(number))

    def close(self) -> None:
        """End all of it."""
        self._loop.remove_reader(self._inotify.fd)
        if self._later is not None:
            self._later.cancel()
        self._inotify.close()

    def _readable(self) -> None:
        changed = self._inotify.read()
        self._mark(set(self._followed) if changed is None else set(changed))

    def _mark(self, numbers: set[int]) -> None:
        self._changed |= numbers
        if self._later is None:
            self._later = self._loop.call_later(_PAUSE_S, self._look)

    def _look(self) -> None:
        self._later = None
        for number in self._changed & set(self._followed):
            if number in self._followed:  # whoever heard of another may have left this one
                self._tell(self._followed[number])
        self._changed.clear()

    def _tell(self, one: _Followed) -> None:
        values = read_report(one.file)
        if values is not None:
            one.hear(values)
