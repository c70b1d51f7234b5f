"""What a command says, through a pipe: its last words only, so that no command can fill a disk or our memory.

The guard opens the pipe by a path, as it does with files. Invariant: whoever is slow to listen slows down the command,
and nobody else; what it has started and left behind is not waited for.
"""

from __future__ import annotations

import asyncio
import os
from typing import Self

from orchestrator.edge.errorfile import lines_of

KEPT_BYTES, KEPT_LINES = 4096, 20
_READ_BYTES = 65536  # a whole pipe


class Overheard:
    """A pipe to write to at `path`, while it is entered. For the loop's thread."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # of our ends; who opens `path` has his own
        self._said = b""
        self.path = f"/proc/{os.getpid()}/fd/{self._write}"

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._read, self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._read)
        os.close(self._read)
        os.close(self._write)

    def _listen(self) -> None:
        try:
            more = os.read(self._read, _READ_BYTES)
        except BlockingIOError:
            return
        self._said = (self._said + more)[-KEPT_BYTES - 1 :]

    def last_lines(self) -> tuple[str, ...]:
        """What has been said last."""
        self._listen()
        return lines_of(self._said, KEPT_LINES, KEPT_BYTES)
