"""What is checked before this node may join a round, and for how long a node that is unfit keeps away.

Specs and sums only: who looks at disks and runs commands is `edge/preflight`. Invariant: a node that fails keeps away
for longer each time, and is given up after as many attempts as it was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

COOLDOWN_MOST_S = 3600.0  # doubling goes on until an hour


class CheckKind(StrEnum):
    """What is looked at."""

    EXEC = "exec"  # a command succeeds
    DISK = "disk"  # so much is free there
    MEMORY = "memory"  # so much is available
    FDS = "fds"  # so many files may be open
    CLOCK_SKEW = "clock_skew_s"  # our clock is that near to the server's


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. ``bound`` is in mebibytes, files or seconds; ``path`` is the disk's."""

    kind: CheckKind
    timeout_s: float
    cmd: tuple[str, ...] = ()
    path: str = ""
    bound: float = 0.0

    def name(self) -> str:
        """The check in a word or two. Of a command only the program: its arguments may hold secrets."""
        if self.kind is CheckKind.EXEC:
            return f"exec {self.cmd[0]}"
        return f"disk {self.path}" if self.kind is CheckKind.DISK else str(self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightPolicy:
    """The checks before each join, and how often they may fail, in a row, before the node is given up."""

    checks: tuple[Check, ...]
    attempts: int
    cooldown_s: float


def cooldown_s(failed: int, policy: PreflightPolicy) -> float | None:
    """How long to keep away after the ``failed``-th failure in a row; None: it is hopeless."""
    if failed >= policy.attempts:
        return None
    return min(COOLDOWN_MOST_S, policy.cooldown_s * 2.0 ** min(failed - 1, 60))


def too_skewed(server_s: float, sent_s: float, heard_s: float, bound_s: float) -> str:
    """Why our clock is too far from the server's, which read ``server_s`` between ``sent_s`` and ``heard_s`` of ours.

    Half the round trip is what nobody can know: it is given to the clock's favour. Empty if it is near enough.
    """
    skew_s, unknown_s = (sent_s + heard_s) / 2 - server_s, (heard_s - sent_s) / 2
    if abs(skew_s) - unknown_s <= bound_s:
        return ""
    side = "ahead of" if skew_s > 0 else "behind"
    found = f"the clock is {abs(skew_s):.3f} s {side} the server's, give or take {unknown_s:.3f} s"
    return f"{found}; the limit is {bound_s:g} s"
