"""What the kernel tells of processes: whose they are, what they have computed, where they wait.

Reads /proc, decides nothing. Invariant: whatever is gone, or not for us to see, is left out; nothing here raises.
Nothing is read that waits for the memory of a process that hangs (its command line, its environment).
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path

_ANCESTORS_MAX = 32
_PROCESSES_MAX = 1000
_THREADS_MAX = 32
_FRAMES_MAX = 12
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def ancestor(pid: int, among: Container[int]) -> int | None:
    """The one of ``among`` that ``pid`` is, or descends from, by its session or its parents."""
    if pid in among:
        return pid
    try:
        session = os.getsid(pid)
    except OSError:
        return None
    if session in among:
        return session
    for _ in range(_ANCESTORS_MAX):
        found = _stat(pid)
        if found is None:
            return None
        pid = int(found[1])
        if pid in among:
            return pid
    return None


def lives(pid: int) -> bool:
    """Whether there is such a process."""
    return _stat(pid) is not None


def cpu_s(pid: int) -> float:
    """The processor time that a process and its descendants have used, and those that they have waited for."""
    return sum(_own_cpu_s(one) for one in family(pid))


def family(pid: int) -> Iterator[int]:
    """``pid`` and its descendants, without those that have left it."""
    todo = [pid]
    for _ in range(_PROCESSES_MAX):
        if not todo:
            return
        one = todo.pop()
        yield one
        for task in _tasks(one):
            todo += [int(child) for child in _text(f"/proc/{one}/task/{task}/children").split()]


def _own_cpu_s(pid: int) -> float:
    found = _stat(pid)
    return 0.0 if found is None else sum(int(ticks) for ticks in found[11:15]) * _TICK_S


def catches(pid: int, signum: int) -> bool:
    """Whether a process has a handler for a signal."""
    for line in _text(f"/proc/{pid}/status").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    return False


def described(pid: int) -> str:
    """Where the threads of a process wait, one a line; below, as far as we may see it, the kernel's stack."""
    lines = []
    tasks = _tasks(pid)
    for task in tasks[:_THREADS_MAX]:
        home = f"/proc/{pid}/task/{task}"
        state = next((one[7:] for one in _text(f"{home}/status").splitlines() if one.startswith("State:")), "gone")
        where = _text(f"{home}/wchan")
        waits = f", waits in {where}" if where not in ("", "0") else ""
        lines.append(f"thread {task} {_text(f'{home}/comm').strip()}: {state}{waits}")
        lines += [f"    {frame.partition(' ')[2]}" for frame in _text(f"{home}/stack").splitlines()[:_FRAMES_MAX]]
    if len(tasks) > _THREADS_MAX:
        lines.append(f"and {len(tasks) - _THREADS_MAX} more threads")
    return "\n".join(lines)


def _tasks(pid: int) -> list[str]:
    try:
        return sorted((task.name for task in Path(f"/proc/{pid}/task").iterdir()), key=int)
    except OSError:
        return []


def _stat(pid: int) -> list[str] | None:
    """The fields after the name: state, parent and so on."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split() or None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
