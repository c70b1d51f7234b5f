"""Whether the kernel has killed a process for want of memory, by counters that it keeps.

The counter of the process's own memory cgroup knows best, then that of a parent (version 2 counts upwards). Without one
that of the whole host makes it probable. Invariant: what cannot be read counts as not moved; nothing here raises.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

_HOST = Path("/proc/vmstat")
_COUNTER = re.compile(rb"^oom_kill ([0-9]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MemoryMark:
    """Where the counters stood when a process began: of its cgroups, nearest first, or of the host if it has none."""

    stood: tuple[tuple[Path, int], ...]

    def moved(self) -> bool:
        """Whether the nearest counter that is still there has grown."""
        for path, before in self.stood:
            now = _count(path)
            if now is not None:
                return now > before
        return False


def mark(pid: int) -> MemoryMark:
    """Where the counters stand for a process that has just begun. They lie in memory: no disk is waited for."""
    return MemoryMark(_standing(_counters(pid)) or _standing((_HOST,)))


def _standing(paths: tuple[Path, ...]) -> tuple[tuple[Path, int], ...]:
    found = [(path, _count(path)) for path in paths]
    return tuple((path, count) for path, count in found if count is not None)


def _count(path: Path) -> int | None:
    found = _COUNTER.search(_read(path))
    return int(found[1]) if found else None


def _read(path: Path | str) -> bytes:
    """What the kernel says there, as it does in one piece; nothing if it does not. Many workers start at once."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 16)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _counters(pid: int) -> tuple[Path, ...]:
    """The files that count for a process, nearest first."""
    return _counters_in(_read(f"/proc/{pid}/cgroup").decode(errors="surrogateescape"))


@lru_cache(16)
def _counters_in(groups: str) -> tuple[Path, ...]:
    v1, v2 = _mounts()
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if v1 is not None and "memory" in controllers.split(","):
            return (v1 / path.lstrip("/") / "memory.oom_control",)
    for line in groups.splitlines():
        if v2 is not None and line.startswith("0::"):
            home = v2 / line.removeprefix("0::").lstrip("/")
            return tuple(place / "memory.events" for place in (home, *home.parents) if place.is_relative_to(v2))
    return ()


@cache
def _mounts() -> tuple[Path | None, Path | None]:
    """Where the memory controller of cgroup version 1 is mounted, and version 2."""
    v1 = v2 = None
    try:
        text = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return None, None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = (*after.split(" ", 2), "", "")[:3]
        if kind == "cgroup" and "memory" in options.split(","):
            v1 = Path(before.split(" ")[4])
        elif kind == "cgroup2":
            v2 = Path(before.split(" ")[4])
    return v1, v2
