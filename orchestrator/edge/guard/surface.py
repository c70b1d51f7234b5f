"""What /proc shows of this process, changed in place: its command line, and the guard's marker in its environment.

A forked worker has its zygote's, and both are read by others: by people who look for their script, and by the guard,
which knows an orphan's worker by the marker. Invariant: nothing is written beyond what the kernel laid out at the
start, and of the environment only the marker's digits.
"""

from __future__ import annotations

import ctypes
import os

from orchestrator.edge.guard import tree

_ARGUMENTS, _ENVIRONMENT = 45, 47  # fields of /proc/self/stat after the name, from 0: where each begins and ends
_MARK = tree.MARKER.encode() + b"="


def _area(field: int) -> tuple[int, int]:
    """Address and size; 0 where the kernel does not say."""
    fields = tree.read("/proc/self/stat").rpartition(b") ")[2].split()
    begin, end = int(fields[field]), int(fields[field + 1])
    return (begin, end - begin) if 0 < begin < end else (0, 0)


def show(argv: list[str]) -> None:
    """Have the command line be ``argv``, as far as there is room."""
    address, size = _area(_ARGUMENTS)
    words = b"".join(os.fsencode(word) + b"\0" for word in argv)
    if size:
        ctypes.memmove(address, words[: size - 1].ljust(size, b"\0"), size)


def mark(digits: str) -> None:
    """Put the worker's number in the marker, over one of as many digits."""
    address, size = _area(_ENVIRONMENT)
    if not size:
        return
    entries = ctypes.string_at(address, size)
    at = entries.find(b"\0" + _MARK) + 1 if not entries.startswith(_MARK) else 0
    if at or entries.startswith(_MARK):
        end = entries.index(b"\0", at)
        ctypes.memmove(address + end - len(digits), digits.encode(), len(digits))
