"""Looking at real processes in tests: who is alive, and waiting for conditions instead of for time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

GENEROUS_S = 20.0  # an upper bound for slow machines; what is measured is asserted separately


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = GENEROUS_S) -> float:
    """Poll until the condition holds; returns how long that took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.005)
    return time.monotonic() - began


def state_of(pid: int) -> str:
    """The letter from /proc/PID/stat; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    return state_of(pid) not in ("", "Z", "X")


def tagged(tag: str) -> list[int]:
    """Living processes whose environment holds ``tag``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            environ = (entry / "environ").read_bytes()
        except OSError:
            continue
        if tag.encode() in environ and is_alive(int(entry.name)):
            found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """Direct children, zombies included."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    """Children, theirs and so on, zombies included; who ends meanwhile may be missing."""
    found, unseen = [], [pid]
    while unseen:
        try:
            below = children(unseen.pop())
        except OSError:
            continue
        found += below
        unseen += below
    return found


def read_pid(path: Path) -> int:
    """A pid that a process writes, with a newline, when it is ready."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), f"{path.name} is written")
    return int(path.read_text())
