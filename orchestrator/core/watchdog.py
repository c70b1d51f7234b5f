"""Which local workers hang, and why we think so. Pure: what was heard and seen goes in, with its instant.

All instants are seconds of one monotonic clock. Invariant: nobody is judged by what may have been said and not heard:
who listens late, or may have lost words, says so (`forgive`, `amnesty`) before he asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.beats import Beat, Enter, Leave, Release, Step, Timer, Word
from orchestrator.core.policies import WatchdogKind, WatchdogPolicy

IDLE_SHARE = 0.001  # of a processor: threads that only wake up to look take less, and work takes more
OPEN_MAX = 64  # sections of a worker that are open at once; more are not kept in mind
TIMERS_MAX = 256  # timers of a worker, likewise


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


@dataclass(frozen=True, slots=True)
class Hang:
    """A worker that hangs. ``pid`` is that of the process whose timer it is; None: the worker itself."""

    local_rank: int
    why: str
    fails: bool
    pid: int | None = None
    sections: tuple[str, ...] = ()  # that it was in


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

    def shift(self, by_s: float) -> None:
        """Move all that was by ``by_s``."""
        self.started_s += by_s
        self.heard_s = None if self.heard_s is None else self.heard_s + by_s
        self.still_s = None if self.still_s is None else self.still_s + by_s
        self.sections = {name: [at + by_s for at in entered] for name, entered in self.sections.items()}
        self.timers = {
            key: Limit(one.at_s + by_s, one.since_s + by_s, one.what, one.fails, key)
            for key, one in self.timers.items()
        }


def limit_of(worker: Watched, policy: WatchdogPolicy) -> Limit | None:
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
            return _silence(worker, policy)
        case WatchdogKind.SECTIONS:
            return min(_stays(worker, policy.sections), key=lambda one: one.at_s, default=_silence(worker, policy))


def _stays(worker: Watched, limits: Mapping[str, float]) -> list[Limit]:
    return [
        Limit(
            entered[0] + limits[name],
            entered[0],
            f"in section {name} for {{0:.1f}} s; watchdog.sections.{name}.timeout_s is {limits[name]:g}",
        )
        for name, entered in worker.sections.items()
        if name in limits
    ]


def _silence(worker: Watched, policy: WatchdogPolicy) -> Limit:
    if worker.heard_s is None:
        what = f"no heartbeat within {{0:.1f}} s of its start; watchdog.warmup_s is {policy.warmup_s:g}"
        return Limit(worker.started_s + policy.warmup_s, worker.started_s, what)
    step = "" if worker.step is None else f" since step {worker.step}"
    what = f"no heartbeat for {{0:.1f}} s{step}{_open(worker)}; watchdog.timeout_s is {policy.timeout_s:g}"
    return Limit(worker.heard_s + policy.timeout_s, worker.heard_s, what)


def _open(worker: Watched) -> str:
    return f", in section {' and '.join(sorted(worker.sections))}" if worker.sections else ""


def pace_s(policy: WatchdogPolicy) -> float:
    """For how long words may be gathered before they are read: a fiftieth of the shortest limit, and no eternity.

    Torch's timers come seldom, with limits that are not known before.
    """
    limits = [policy.after_s, policy.timeout_s, *policy.sections.values()]
    return min(1.0, max(0.1, min((limit for limit in limits if limit > 0), default=0.0) / 50))


class Watch:
    """The workers of one node in one round, by local rank."""

    def __init__(self, policy: WatchdogPolicy) -> None:
        self._policy = policy
        self._workers: dict[int, Watched] = {}

    # -- who is there

    def started(self, local_rank: int, now_s: float) -> None:
        """A worker runs."""
        self._workers[local_rank] = Watched(started_s=now_s)

    def ended(self, local_rank: int) -> tuple[str, ...]:
        """It has exited: it can no longer hang. Returns the sections that it was in."""
        gone = self._workers.pop(local_rank, None)
        return () if gone is None else tuple(sorted(gone.sections))

    def clear(self) -> None:
        """Nobody is watched any more: they are being stopped, or gone."""
        self._workers.clear()

    @property
    def watched(self) -> tuple[int, ...]:
        """The local ranks that are watched."""
        return tuple(self._workers)

    # -- what is learnt

    def hear(self, local_rank: int, word: Word, now_s: float, epoch_s: float) -> float | None:
        """A worker has said something; ``epoch_s`` is now on the clock on the wall, by which torch sets its timers.

        Returns when that worker counts as hung, which may be sooner than before: warm-up and sections end.
        """
        worker = self._workers.get(local_rank)
        if worker is None:
            return None
        self._take(worker, word, now_s, epoch_s)
        limit = limit_of(worker, self._policy)
        return None if limit is None else limit.at_s

    def _take(self, worker: Watched, word: Word, now_s: float, epoch_s: float) -> None:
        match word:
            case Beat():
                _alive(worker, now_s)
            case Step(number=number):
                if number != worker.step:
                    _alive(worker, now_s)
                worker.step = number
            case Enter(name=name):
                _alive(worker, now_s)
                if sum(map(len, worker.sections.values())) < OPEN_MAX:
                    worker.sections.setdefault(name, []).append(now_s)
            case Leave(name=name):
                _alive(worker, now_s)
                _leave(worker, name)
            case Timer():
                _set(worker, word, now_s, now_s + word.expires - epoch_s)
            case Release(pid=pid, scope=scope):
                worker.timers.pop((pid, scope), None)
            case _:
                pass  # where stacks are to be had says nothing of life

    def looked(self, local_rank: int, now_s: float, cpu_s: float, output: int) -> None:
        """What a worker's processes had computed, and written, by now."""
        worker = self._workers.get(local_rank)
        if worker is None:
            return
        since_s = now_s if worker.still_s is None else worker.still_s
        busy = not 0 <= cpu_s - worker.cpu_s <= IDLE_SHARE * (now_s - since_s)
        if worker.still_s is None or busy or output != worker.output:
            worker.still_s, worker.cpu_s, worker.output, worker.told = now_s, cpu_s, output, False

    def drop_timers(self, local_rank: int, pid: int) -> None:
        """A process is gone, and its timers with it."""
        worker = self._workers.get(local_rank)
        if worker is not None:
            worker.timers = {key: timer for key, timer in worker.timers.items() if key[0] != pid}

    def forgive(self, lag_s: float) -> None:
        """We were late by so much ourselves: everybody gets it on top."""
        for worker in self._workers.values():
            worker.shift(lag_s)

    def amnesty(self, now_s: float) -> None:
        """Words may be lost: nobody is judged by what was before now."""
        for worker in self._workers.values():
            worker.sections.clear()
            worker.timers.clear()
            _alive(worker, now_s)

    # -- what follows

    def due_s(self) -> float | None:
        """The first instant at which somebody may count as hung; None: nobody will."""
        limits = [limit_of(worker, self._policy) for worker in self._workers.values()]
        return min((limit.at_s for limit in limits if limit is not None), default=None)

    def overdue(self, now_s: float) -> list[tuple[int, int]]:
        """Whose timers have expired: local rank and pid, which may be gone without a word."""
        return [
            (local_rank, pid)
            for local_rank, worker in self._workers.items()
            for pid in {key[0] for key, timer in worker.timers.items() if timer.at_s <= now_s}
        ]

    def hung(self, now_s: float) -> list[Hang]:
        """Who has exceeded a limit, and was not told of before; whose limit was first, first."""
        found = []
        for local_rank, worker in list(self._workers.items()):
            limit = limit_of(worker, self._policy)
            if limit is None or limit.at_s > now_s:
                continue
            why = limit.what.format(now_s - limit.since_s)
            pid = None if limit.timer is None else limit.timer[0]
            found.append((limit.at_s, Hang(local_rank, why, limit.fails, pid, tuple(sorted(worker.sections)))))
            if limit.timer is not None:
                del worker.timers[limit.timer]
            if limit.fails:
                self.ended(local_rank)
            worker.told = True
        return [hang for _, hang in sorted(found, key=lambda one: one[0])]


def _alive(worker: Watched, now_s: float) -> None:
    worker.heard_s = now_s
    if worker.still_s is not None:
        worker.still_s, worker.told = now_s, False


def _leave(worker: Watched, name: str) -> None:
    """Of several sections of one name the oldest ends: who kills must err on the other side."""
    entered = worker.sections.get(name, [])
    if len(entered) > 1:
        del entered[0]
    else:
        worker.sections.pop(name, None)


def _set(worker: Watched, word: Timer, now_s: float, at_s: float) -> None:
    key = (word.pid, word.scope)
    if key in worker.timers or len(worker.timers) < TIMERS_MAX:
        scope = word.scope.replace("{", "{{").replace("}", "}}")
        what = f"its timer {scope} has expired after {{0:.1f}} s"
        worker.timers[key] = Limit(at_s, now_s, what, fails=word.signal > 0, timer=key)
