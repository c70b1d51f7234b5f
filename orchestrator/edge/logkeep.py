"""Keeps workers' log files within bounds while workers write to them, and notices when their disk is full.

Workers hold the files open for appending, so nothing can be moved or cut off: instead the oldest part becomes a hole
(fallocate(2), PUNCH_HOLE). Sizes and offsets stay what they were, a reader finds zeros where nothing is left, and
the disk has its blocks back. Invariant: nobody waits for this, no byte of the newest ``max_bytes`` is touched, and
whatever a file system cannot do is said once and harms nobody.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from orchestrator.edge.filework import FileThread

SPACE_S = 2.0  # so often the disk is looked at
IDLE_S, BUSY_S = 1.0, 0.02  # between looks at the files, when little is written and when much is
_BLOCK = 4096  # holes are made of whole blocks; most file systems have them of this size
_KEEP_SIZE, _PUNCH_HOLE = 1, 2

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclass(slots=True)
class _Kept:
    """One file, and where what is left of it begins."""

    path: Path
    start: int = 0
    size: int = 0


@dataclass(slots=True)
class Look:
    """What one look has found."""

    grown: int = 0  # the most bytes that a file has grown by
    trimmed: list[str] = field(default_factory=list)
    refused: str = ""  # why no hole could be made
    full: bool = False


class LogKeeper:
    """Looks after the files of the current round; ``log`` writes to the journal, on the loop's thread."""

    def __init__(self, directory: str, max_bytes: int | None, log: Callable[..., None]) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._log = log
        self._thread = FileThread("log keeper")
        self._files: list[_Kept] = []
        self._timer: asyncio.TimerHandle | None = None
        self._pace_s = IDLE_S
        self._looked_for_space_s = float("-inf")
        self._told: set[str] = set()
        self._ended = False

    def keep(self, paths: Iterable[Path]) -> None:
        """From now on look after these, in place of those of the last round: these are looked at once more."""
        old, self._files = self._files, [_Kept(path) for path in paths]
        if old and self._max_bytes is not None:
            self._thread.submit(partial(look, old, self._max_bytes, None))
        if self._timer is None:
            self._wait()

    def end(self) -> None:
        """Nobody writes any more: look a last time, without waiting for what that finds."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._max_bytes is not None:
            self._thread.submit(partial(look, self._files, self._max_bytes, None))
        self._thread.close(0.5)

    def _wait(self) -> None:
        pace_s = self._pace_s if self._max_bytes is not None and "refused" not in self._told else SPACE_S
        self._timer = asyncio.get_running_loop().call_later(pace_s, self._look)

    def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for_space = now_s - self._looked_for_space_s >= SPACE_S and "full" not in self._told
        if for_space:
            self._looked_for_space_s = now_s
        max_bytes = None if "refused" in self._told else self._max_bytes
        looking = self._thread.ask(partial(look, self._files, max_bytes, self._directory if for_space else None))
        looking.add_done_callback(self._learn)

    def _learn(self, looking: asyncio.Future[Look]) -> None:
        found = looking.result()
        if self._ended:
            return
        if found.trimmed:
            self._tell("trimmed", "log_trimmed", path=found.trimmed[0], max_bytes=self._max_bytes)
        if found.refused:
            self._tell("refused", "log_degraded", path=self._directory, reason=f"no logs.max_bytes: {found.refused}")
        if found.full:
            reason = "no space left on the disk; what workers write now may be lost"
            self._tell("full", "log_degraded", path=self._directory, reason=reason)
        if self._max_bytes is not None:
            if found.grown > self._max_bytes // 8:
                self._pace_s = max(BUSY_S, self._pace_s / 2)
            elif found.grown < self._max_bytes // 32:
                self._pace_s = min(IDLE_S, self._pace_s * 2)
        self._wait()

    def _tell(self, what: str, event: str, **fields: object) -> None:
        if what not in self._told:
            self._told.add(what)
            self._log(event, **fields)


def look(files: list[_Kept], max_bytes: int | None, directory: str | None) -> Look:
    """Trim each file to its newest ``max_bytes``, if given, and see if ``directory``'s disk is full. In a thread."""
    found = Look()
    for file in files if max_bytes is not None else ():
        try:
            size = file.path.stat().st_size
        except OSError:
            continue  # it is gone, or not there yet
        found.grown = max(found.grown, size - file.size)
        file.size = size
        start = (size - (max_bytes or 0)) // _BLOCK * _BLOCK
        if start <= file.start:
            continue
        try:
            _cut(file.path, file.start, start)
        except OSError as error:
            found.refused = f"{error.strerror} ({file.path})"
        else:
            file.start = start
            found.trimmed.append(str(file.path))
    found.full = directory is not None and _is_full(directory)
    return found


def _cut(path: Path, start: int, end: int) -> None:
    """Give the blocks between two offsets back. Raises OSError, EOPNOTSUPP where there are no holes."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, start, end - start) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def _is_full(directory: str) -> bool:
    try:
        disk = os.statvfs(directory)
    except OSError:
        return False
    free = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    return disk.f_blocks > 0 and free == 0
