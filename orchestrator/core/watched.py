"""One worker as its watchdog knows it, and the instant at which it counts as hung.

Who watches several of them is `watchdog`'s. All instants are seconds of one monotonic clock. Invariant: a worker that
has not warmed up is judged by what was configured, never by what was learnt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from orchestrator.core.learning import SILENCE, WARM_UP, Learning, stay_in
from orchestrator.core.policies import WatchdogKind, WatchdogPolicy


@dataclass(frozen=True, slots=True)
class Limit:
    """An instant at which a worker counts as hung unless something happens before, and since when it is waited for.

    ``what`` is filled with the seconds waited. ``fails``: it is a failure; else it is only told.
    """

    at_s: float
    since_s: float
    what: str
    fails: bool = True
    timer: tuple[int, str] | None = None  # pid and scope
    learnt: str | None = None  # which limit was, if it was


@dataclass(slots=True)
class Watched:
    """What is known of one worker since it was started."""

    started_s: float
    heard_s: float | None = None  # the last sign of life
    step: int | None = None
    sections: dict[str, list[float]] = field(default_factory=dict)  # when they were entered, oldest first
    timers: dict[tuple[int, str], Limit] = field(default_factory=dict)
    still_s: float | None = None  # since when it has done nothing, as far as was looked
    cpu_s: float = 0.0  # of its processes, at that instant
    output: int = 0  # bytes, likewise
    told: bool = False  # that it hangs; until it is seen to do something
    warm: dict[str, int] = field(default_factory=dict)  # how often it has come off within a limit, up to WARM_UP

    def shift(self, by_s: float) -> None:
        """Move all that was by ``by_s``."""
        self.started_s += by_s
        self.heard_s = None if self.heard_s is None else self.heard_s + by_s
        self.still_s = None if self.still_s is None else self.still_s + by_s
        self.sections = {name: [at + by_s for at in entered] for name, entered in self.sections.items()}
        self.timers = {
            key: replace(one, at_s=one.at_s + by_s, since_s=one.since_s + by_s) for key, one in self.timers.items()
        }

    def is_warm(self, limit: str) -> bool:
        """Whether what it does by now is what it does all the time: its first steps may take longer."""
        return self.warm.get(limit, 0) >= WARM_UP


def limit_of(worker: Watched, policy: WatchdogPolicy, learning: Learning | None = None) -> Limit | None:
    """The next limit that ``worker`` will exceed if nothing happens; None: there is none."""
    match policy.kind:
        case WatchdogKind.DISABLED:
            return None
        case WatchdogKind.OBSERVE:
            if worker.still_s is None or worker.told:
                return None
            what = "no CPU time and no output for {0:.1f} s" + _open(worker)
            return Limit(worker.still_s + policy.after_s, worker.still_s, what, fails=False)
        case WatchdogKind.TIMER:
            return min(worker.timers.values(), key=lambda one: one.at_s, default=None)
        case WatchdogKind.HEARTBEAT:
            return _silence(worker, policy, learning)
        case WatchdogKind.SECTIONS:
            stays = _stays(worker, policy, learning)
            return min(stays, key=lambda one: one.at_s, default=_silence(worker, policy, learning))


def _stays(worker: Watched, policy: WatchdogPolicy, learning: Learning | None) -> Iterator[Limit]:
    for name, entered in worker.sections.items():
        if name in policy.sections:
            limit = Limit(entered[0] + policy.sections[name], entered[0], f"in section {name} for {{0:.1f}} s")
            yield _learnt(limit, stay_in(name), worker, learning)


def _silence(worker: Watched, policy: WatchdogPolicy, learning: Learning | None) -> Limit:
    if worker.heard_s is None:
        what = f"no heartbeat within {{0:.1f}} s of its start; watchdog.warmup_s is {policy.warmup_s:g}"
        return Limit(worker.started_s + policy.warmup_s, worker.started_s, what)
    step = "" if worker.step is None else f" since step {worker.step}"
    what = f"no heartbeat for {{0:.1f}} s{step}{_open(worker)}"
    return _learnt(Limit(worker.heard_s + policy.timeout_s, worker.heard_s, what), SILENCE, worker, learning)


def _learnt(limit: Limit, name: str, worker: Watched, learning: Learning | None) -> Limit:
    """``limit``, or the shorter one that the run has taught; and which one it is."""
    what = f"{limit.what}; watchdog.{name} is {limit.at_s - limit.since_s:g}"
    learnt_s = learning.learnt_s(name) if learning is not None and worker.is_warm(name) else None
    if learnt_s is None:
        return replace(limit, what=what)
    why = f", of which watchdog.learn has made {learnt_s:.1f}"
    return replace(limit, at_s=limit.since_s + learnt_s, what=what + why, learnt=name)


def _open(worker: Watched) -> str:
    return f", in section {' and '.join(sorted(worker.sections))}" if worker.sections else ""


def pace_s(policy: WatchdogPolicy) -> float:
    """For how long words may be gathered before they are read: a fiftieth of the shortest limit, and no eternity.

    Torch's timers come seldom, with limits that are not known before.
    """
    limits = [policy.after_s, policy.timeout_s, *policy.sections.values()]
    if policy.learn is not None:
        limits.append(policy.learn.floor_s)
    return min(1.0, max(0.1, min((limit for limit in limits if limit > 0), default=0.0) / 50))
