"""What ended a worker, in words a person can use.

A `Failure` is plain data that crosses the wire between agents as JSON; reading the files it is made from is the
edge's business.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One worker's death. ``exit_code`` and ``signal`` exclude each other; both are None when nothing was spawned.

    ``kind``: ``exited``, ``signaled``, ``spawn`` (``message`` has step and errno), ``guard`` (the guard died),
    ``hang`` (``message`` says by which limit, ``stacks`` where it was), ``probe`` (it is not alive by its probe) or
    ``start_timeout`` (by its startup probe it did not come up).
    ``oom``: the kernel has killed it for want of memory, as far as can be told. ``phases``: ``starting`` or
    ``running``, and the sections that it was in. ``age_s``: since its start. ``incarnation`` counts how often it was
    started again within the round. ``at`` is wall-clock seconds on that node, for people only; order is decided by
    arrival.
    """

    kind: str
    group: str
    node: str
    rank: int
    local_rank: int
    round: int
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    error_type: str = ""
    traceback: str = ""
    stacks: str = ""
    last_lines: tuple[str, ...] = ()
    log: str = ""
    at: float = 0.0
    oom: bool = False
    phases: tuple[str, ...] = ()
    age_s: float = 0.0
    incarnation: int = 0

    def how(self) -> str:
        """How it died, e.g. ``exit code 3`` or ``killed by SIGKILL``."""
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}{', out of memory' if self.oom else ''}"
        if self.exit_code is not None:
            return f"exit code {self.exit_code}"
        return _HOW.get(self.kind, self.kind)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-ready values."""
        return {**asdict(self), "last_lines": list(self.last_lines), "phases": list(self.phases)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what ``to_dict`` made; unknown keys of a newer peer are ignored."""
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        for name in ("last_lines", "phases"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)


_HOW = {
    "spawn": "could not be started",
    "guard": "lost with its guard",
    "hang": "hung",
    "probe": "failed its liveness probe",
    "start_timeout": "did not come up in time",
}


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; ``signal 77`` for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
