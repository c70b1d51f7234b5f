"""Which local workers hang, and why we think so. Pure: what was heard and seen goes in, with its instant.

All instants are seconds of one monotonic clock. Invariant: nobody is judged by what may have been said and not heard:
who listens late, or may have lost words, says so (`forgive`, `amnesty`) before he asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.beats import Beat, Enter, Leave, Release, Step, Timer, Word
from orchestrator.core.learning import SILENCE, Learning, configured, stay_in
from orchestrator.core.policies import WatchdogPolicy
from orchestrator.core.watched import Limit, Watched, limit_of

IDLE_SHARE = 0.001  # of a processor: threads that only wake up to look take less, and work takes more
OPEN_MAX = 64  # sections of a worker that are open at once; more are not kept in mind
TIMERS_MAX = 256  # timers of a worker, likewise


@dataclass(frozen=True, slots=True)
class Hang:
    """A worker that hangs. ``pid`` is that of the process whose timer it is; None: the worker itself."""

    local_rank: int
    why: str
    fails: bool
    pid: int | None = None
    sections: tuple[str, ...] = ()  # that it was in


class Watch:
    """The workers of one node in one round, by local rank. What is learnt from them outlasts the round."""

    def __init__(self, policy: WatchdogPolicy) -> None:
        self._policy = policy
        self.learning = None if policy.learn is None else Learning(policy.learn, configured(policy))
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
        if self.learning is not None:
            _teach(self.learning, local_rank, worker, word, now_s)
        self._take(worker, word, now_s, epoch_s)
        limit = self._limit_of(worker)
        return None if limit is None else limit.at_s

    def _limit_of(self, worker: Watched) -> Limit | None:
        return limit_of(worker, self._policy, self.learning)

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
        limits = [self._limit_of(worker) for worker in self._workers.values()]
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
            limit = self._limit_of(worker)
            if limit is None or limit.at_s > now_s:
                continue
            why = limit.what.format(now_s - limit.since_s)
            pid = None if limit.timer is None else limit.timer[0]
            found.append((limit.at_s, Hang(local_rank, why, limit.fails, pid, tuple(sorted(worker.sections)))))
            if limit.timer is not None:
                del worker.timers[limit.timer]
            if limit.learnt is not None and self.learning is not None:  # it may have been wrong: be slower next time
                self.learning.saw(limit.learnt, local_rank, now_s - limit.since_s)
            if limit.fails:
                self.ended(local_rank)
            worker.told = True
        return [hang for _, hang in sorted(found, key=lambda one: one[0])]


def _teach(learning: Learning, local_rank: int, worker: Watched, word: Word, now_s: float) -> None:
    """What a word says of how long a worker that is well may be silent, or stay in a section."""
    if isinstance(word, Leave) and word.name in worker.sections and learning.watches(stay_in(word.name)):
        _learn(learning, local_rank, worker, stay_in(word.name), now_s - worker.sections[word.name][0])
    lives = isinstance(word, Beat | Enter | Leave) or (isinstance(word, Step) and word.number != worker.step)
    elsewhere = any(learning.watches(stay_in(name)) for name in worker.sections)  # where silence has no limit
    if lives and not elsewhere and worker.heard_s is not None:
        _learn(learning, local_rank, worker, SILENCE, now_s - worker.heard_s)


def _learn(learning: Learning, local_rank: int, worker: Watched, limit: str, gap_s: float) -> None:
    if gap_s <= 0:
        return  # words that were read together say nothing
    if not worker.is_warm(limit):
        worker.warm[limit] = worker.warm.get(limit, 0) + 1
    else:
        learning.saw(limit, local_rank, gap_s)


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
