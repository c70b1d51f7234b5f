"""Guards with cgroups and without, on one machine: a cgroup that allows none below it hides them from a guard.

Nothing in the guard is told which it shall use. Invariant: what is made here is removed here.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.edge.guard.cgroup import own_directory
from tests.edge.procs import wait_until

LAYERS = ["cgroup2", "subreaper"]
_numbers = itertools.count()


def own_cgroup() -> Path | None:
    """The cgroup of this process where it may make others."""
    found = own_directory()
    return Path(found) if found is not None and os.access(f"{found}/cgroup.procs", os.W_OK) else None


@contextmanager
def confined(layer: str) -> Iterator[Path | None]:
    """A cgroup whose guards have just this layer, for `enter`; None where all have it."""
    home = own_cgroup()
    if layer == "cgroup2":
        if home is None:
            pytest.skip("needs a writable cgroup2")
        yield None
    elif home is None:
        yield None
    else:
        barren = home / f"orchestrator-test-{os.getpid()}-{next(_numbers)}"
        barren.mkdir()
        (barren / "cgroup.max.descendants").write_text("0")
        try:
            yield barren
        finally:
            wait_until(lambda: "populated 0" in (barren / "cgroup.events").read_text(), "the cgroup is empty")
            barren.rmdir()


@contextmanager
def inside(group: Path | None) -> Iterator[None]:
    """What is started in this block is in a cgroup, if one is given; this process is back where it was at the end."""
    before = own_cgroup()
    enter(group)
    try:
        yield
    finally:
        enter(group and before)


def enter(group: Path | None) -> None:
    """Go into a cgroup, and everything that is started from here on with it."""
    if group is not None:
        (group / "cgroup.procs").write_text("0")


def homes() -> list[Path]:
    """The directories of guards, of those that live and of those that have left something."""
    home = own_cgroup()
    return [] if home is None else list(home.glob("orchestrator.*"))
