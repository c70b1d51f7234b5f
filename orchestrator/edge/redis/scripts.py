"""The Lua commands as this process sends them: source and SHA-1, the shared library in front.

Reading the files is all that happens here. Invariant: what is sent is exactly what lies in ``lua/``, library first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

KEY_NAMES = (
    "group",
    "leases",
    "nonces",
    "bids",
    "waiting",
    "absent",
    "back",
    "seats",
    "slots",
    "done",
    "charges",
    "free",
    "events",
    "gaps",
    "job",
)
"""What a key's name ends with, in the order of KEYS in ``lua/lib/1_caller.lua``.

The last one is the run's, the others are a group's.
"""

EVENTS = KEY_NAMES.index("events")


@dataclass(frozen=True, slots=True)
class Script:
    """One command."""

    name: str
    source: str
    sha: str


@cache
def library() -> str:
    """What stands before every command: the files of ``lua/lib``, in the order of their names."""
    folder = files("orchestrator.edge.redis") / "lua" / "lib"
    parts = sorted(folder.iterdir(), key=lambda part: part.name)
    return "".join(part.read_text("utf-8") for part in parts)


@cache
def script(name: str) -> Script:
    """The command ``name``, read once."""
    lua = files("orchestrator.edge.redis") / "lua"
    source = library() + (lua / f"{name}.lua").read_text("utf-8")
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def group_keys(run_id: str, role: str) -> tuple[str, ...]:
    """All keys of a group, and its run's. Those of a run share a hash tag, and so a slot of a cluster."""
    run = f"orchestrator:{{{run_id}}}"
    return (*(f"{run}:{role}:{name}" for name in KEY_NAMES[:-1]), f"{run}:{KEY_NAMES[-1]}")
