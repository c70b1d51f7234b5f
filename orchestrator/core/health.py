"""Whether a node is fit to join, and whether its workers are well: what is asked, and what the answers amount to.

Specs and sums only: `edge/preflight` looks at the node, and `edge/probes` asks the workers. Invariant: a node that
fails keeps away for longer each time; a worker that failed by a probe stays failed.
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


class ProbeKind(StrEnum):
    """What a probe is asked for."""

    STARTUP = "startup"  # whether a worker has come up; until then the others are not asked
    READINESS = "readiness"  # whether it does its work; only shown
    LIVENESS = "liveness"  # whether it must be started again


class ProbeWay(StrEnum):
    """How a worker is asked."""

    EXEC = "exec"
    HTTP = "http"
    TCP = "tcp"
    FILE = "file"


class Result(StrEnum):
    """What one question came to. ``unknown``: we could not ask, which says nothing of the worker."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSpec:
    """One probe. Texts may hold macros such as __local_rank__; ``path`` is a file's, or an HTTP request's."""

    way: ProbeWay
    cmd: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: str = ""
    path: str = ""
    fresh_s: float | None = None  # a file must have been written to within so many seconds
    initial_delay_s: float = 0.0  # from the worker's start
    period_s: float = 10.0
    timeout_s: float = 1.0
    failure_threshold: int = 3  # in a row, until it counts
    success_threshold: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbesPolicy:
    """What each worker is asked."""

    startup: ProbeSpec | None = None
    readiness: ProbeSpec | None = None
    liveness: ProbeSpec | None = None

    @property
    def can_fail(self) -> bool:
        """Whether a worker can fail by them: readiness is only shown."""
        return self.startup is not None or self.liveness is not None


@dataclass(frozen=True, slots=True)
class Tally:
    """A probe's standing: what it holds now, and how often in a row it heard the same."""

    verdict: bool | None
    last: bool | None = None
    run: int = 0

    def heard(self, result: Result, spec: ProbeSpec) -> Tally:
        """The standing after one more question; it turns only after as many equal answers as its threshold says."""
        if result is Result.UNKNOWN:
            return self
        passed = result is Result.PASSED
        run = self.run + 1 if self.last is passed else 1
        enough = spec.success_threshold if passed else spec.failure_threshold
        return Tally(passed if run >= enough else self.verdict, passed, run)


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """One worker by kubelet's accounting. A worker that has ``failed`` stays so: the next one starts from nothing."""

    policy: ProbesPolicy
    startup: Tally = Tally(None)
    readiness: Tally = Tally(verdict=False)
    liveness: Tally = Tally(verdict=True)
    failed: ProbeKind | None = None

    @property
    def started(self) -> bool:
        """Whether it has come up."""
        return self.policy.startup is None or self.startup.verdict is True

    @property
    def ready(self) -> bool:
        """Whether it does its work, as far as anybody asks."""
        return (
            self.failed is None and self.started and (self.policy.readiness is None or self.readiness.verdict is True)
        )

    def asks(self, kind: ProbeKind) -> bool:
        """Whether this probe is to be asked now."""
        spec: ProbeSpec | None = getattr(self.policy, kind)
        return spec is not None and self.failed is None and self.started is (kind is not ProbeKind.STARTUP)

    def heard(self, kind: ProbeKind, result: Result) -> WorkerHealth:
        """The same after one answer; one that nobody asked for any more changes nothing."""
        spec: ProbeSpec | None = getattr(self.policy, kind)
        if spec is None or not self.asks(kind):
            return self
        before: Tally = getattr(self, kind)
        after = before.heard(result, spec)
        fatal = kind is not ProbeKind.READINESS and after.verdict is False
        return WorkerHealth(
            self.policy,
            startup=after if kind is ProbeKind.STARTUP else self.startup,
            readiness=after if kind is ProbeKind.READINESS else self.readiness,
            liveness=after if kind is ProbeKind.LIVENESS else self.liveness,
            failed=kind if fatal else None,
        )
