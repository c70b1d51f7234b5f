"""Copies of single lines: what is shown of a worker's stream also goes through here, and lines with a word are kept.

Torchrun's ``--duplicate-stdout-filters``. Invariant: whatever happens to the copy, the console gets all that it is
given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

_LONGEST = 1 << 20  # bytes of a line that is waited for; a longer one is judged in pieces


class Filtered:
    """Stands before the console's `out` or `err`, for one stream of one worker."""

    def __init__(self, show: Callable[..., None], words: Sequence[str], path: Path, prefix: bytes) -> None:
        """Lines with one of ``words`` are appended to ``path``, each behind ``prefix``."""
        self._show = show
        self._words = [word.encode(errors="surrogateescape") for word in words]
        self._path = path
        self._prefix = prefix
        self._rest = b""

    def __call__(self, data: bytes, *, source: object = None, lead: bytes = b"") -> None:
        """As the console's."""
        self._show(data, source=source, lead=lead)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST:
            lines, self._rest = [*lines, self._rest], b""
        bare = [line.removeprefix(lead) for line in lines]
        kept = [line for line in bare if any(word in line for word in self._words)]
        if kept:
            self._keep(b"".join(b"%s%s\n" % (self._prefix, line) for line in kept))

    def _keep(self, text: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk costs the copy; the worker's own log has the line
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(descriptor, text)
            finally:
                os.close(descriptor)
