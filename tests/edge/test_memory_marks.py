"""The kernel's counters of processes that it has killed for want of memory."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.edge import memory_marks
from orchestrator.edge.memory_marks import MemoryMark, mark


def counter(path: Path, count: int) -> Path:
    path.write_text(f"low 0\noom 7\noom_kill {count}\noom_group_kill 9\n")
    return path


def test_the_counter_of_a_process_has_not_moved_while_nothing_is_killed() -> None:
    found = mark(os.getpid())
    assert found.stood, "at least the host counts"
    assert not found.moved()


def test_the_nearest_counter_decides(tmp_path: Path) -> None:
    near, far = counter(tmp_path / "near", 3), counter(tmp_path / "far", 3)
    found = MemoryMark(((near, 3), (far, 3)))
    counter(far, 4)
    assert not found.moved(), "somebody else was killed"
    counter(near, 4)
    assert found.moved()


def test_a_cgroup_that_is_gone_leaves_it_to_its_parent(tmp_path: Path) -> None:
    near, far = counter(tmp_path / "near", 0), counter(tmp_path / "far", 3)
    found = MemoryMark(((near, 0), (far, 3)))
    near.unlink()
    assert not found.moved()
    counter(far, 4)
    assert found.moved()


def test_what_cannot_be_read_has_not_moved(tmp_path: Path) -> None:
    assert not MemoryMark(((tmp_path / "gone", 0),)).moved()
    gone = mark(1 << 22)  # no process has this number
    assert [path for path, _ in gone.stood] in ([], [memory_marks._HOST])
