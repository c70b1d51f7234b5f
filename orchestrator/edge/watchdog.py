"""The watchdog of one agent: listens to its workers on a pipe, looks at them, and says which of them hang.

What counts as hanging is decided in `core/watchdog.py`; what follows from it by the machine. Invariant: before anybody
is said to hang, everything that has arrived is heard; and when we were late ourselves, everybody gets that time.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from orchestrator.core.beats import Stacks, Step, Word, parse
from orchestrator.core.learning import Learning
from orchestrator.core.policies import WatchdogKind, WatchdogPolicy
from orchestrator.core.watchdog import Hang, Watch
from orchestrator.core.watched import pace_s
from orchestrator.edge.fifo import Fifo, make_fifo
from orchestrator.edge.filework import FileThread
from orchestrator.edge.procfs import ancestor, cpu_s, lives
from orchestrator.edge.stacks import stacks_of
from orchestrator.edge.worker_files import Worker

TURN_S = 5.0  # it turns at least so often, whatever happens: by that it is seen to live
LATE_S = 0.5  # a turn that comes later than this is our own fault
MERCY_S = 1.0  # after that nobody is judged for so long
LOOKS = 4  # within `after_s`
TOLD_MAX = 8  # workers whose stacks are taken at once

Seen = tuple[Worker, float, int]  # processor time in s, bytes
OnHang = Callable[[Worker, str, str, tuple[str, ...]], None]


class Watchdog:
    """Watches the workers that it is told of.

    ``on_hang`` takes a worker that has failed by it, why, its stacks, and the sections that it was in; ``on_step`` the
    steps that workers say they are at. ``on_turn`` is called whenever it has judged, every few seconds at least.
    """

    def __init__(
        self, policy: WatchdogPolicy, log: Callable[..., None], on_step: Callable[[int], None] = lambda _: None
    ) -> None:
        self._policy = policy
        self._log = log
        self.on_hang: OnHang = lambda *_: None
        self._on_step = on_step
        self.on_turn: Callable[[], None] = lambda: None
        self._watch = Watch(policy)
        self._workers: dict[int, Worker] = {}  # by pid
        self._offers: dict[int, int] = {}  # pid: the signal on which it writes its stacks
        self._fifo: Fifo | None = None
        self._looking = FileThread("watchdog's looks")
        self._pace_s = pace_s(policy)
        self._seeing: asyncio.Future[list[Seen]] | None = None  # a look that is under way
        self._look_s = 0.0  # when to look next
        self._bell = asyncio.Event()
        self._until_s = float("inf")  # when this task turns next, at the latest
        self._late = False  # since the last judgement
        self._not_before_s = 0.0  # nobody is judged
        self._refused = False  # a line, which was told
        self.last_beat_s: float | None = None  # its last turn, of the monotonic clock; None before the first one

    # -- its own life

    @property
    def learning(self) -> Learning | None:
        """What it learns from the run; None: that is not wished."""
        return self._watch.learning

    @property
    def path(self) -> str | None:
        """Where workers say their words; None: nobody listens."""
        return None if self._fifo is None else self._fifo.path

    def open(self, directory: str) -> None:
        """Make the pipe, before anybody is started. Without one nobody can be heard, so nobody is judged."""
        if self._policy.kind is WatchdogKind.DISABLED:
            return
        try:
            self._fifo = make_fifo(self._policy.path, directory)
        except OSError as error:
            self._log("watchdog_off", reason=f"no pipe can be made in {directory}: {error.strerror}")
            return
        wished = self._policy.path
        if wished is not None and self._fifo.path != str(Path(wished).absolute()):
            self._log("watchdog_refused", reason=f"{wished} is in use; the pipe is {self._fifo.path}")

    def close(self) -> None:
        """Remove the pipe. Its task must have ended."""
        if self._fifo is not None:
            self._fifo.close()
            self._fifo = None
        self._looking.close(0.0)

    def alive(self) -> bool:
        """Whether it turns, as far as it has begun to."""
        return self.last_beat_s is None or time.monotonic() - self.last_beat_s < 3 * TURN_S

    def alive_at(self) -> float:
        """When it was alive last, in epoch seconds: now, unless it has missed its turns. From any thread."""
        return time.time() if self.alive() else time.time() - time.monotonic() + (self.last_beat_s or 0.0)

    # -- who is there

    def started(self, worker: Worker) -> None:
        """A worker runs."""
        if self._fifo is None or worker.pid is None:
            return
        self._workers[worker.pid] = worker
        self._watch.started(worker.place.local_rank, time.monotonic())
        self._bell.set()

    def ended(self, worker: Worker) -> tuple[str, ...]:
        """A worker has exited; what it had said is heard before. Returns the sections that it was in."""
        if self._workers.get(worker.pid or 0) is not worker:
            return ()
        self._listen()
        del self._workers[worker.pid or 0]
        return self._watch.ended(worker.place.local_rank)

    def rest(self) -> None:
        """The workers are being stopped, or are gone."""
        self._workers.clear()
        self._offers.clear()
        self._watch.clear()

    # -- turning

    async def run(self) -> None:
        """Watch for ever."""
        if self._fifo is None:
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fifo.fd, self._hear_some)
        try:
            while True:
                self.last_beat_s = now_s = time.monotonic()
                self._until_s = self._next_s(now_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._until_s - now_s)):
                        await self._bell.wait()
                self._bell.clear()
                self._listen()
                self._until_s = time.monotonic() + 2 * TURN_S  # what looks and stacks may take is no lateness
                await self._judge()
                self.on_turn()
        finally:
            self._until_s = float("inf")
            loop.remove_reader(self._fifo.fd)

    def _next_s(self, now_s: float) -> float:
        due_s = self._watch.due_s()
        next_s = now_s + TURN_S if due_s is None else min(due_s, now_s + TURN_S)
        return max(self._not_before_s, min(next_s, self._look_s) if self._looks else next_s)

    def _hear_some(self) -> None:
        """Something was said: listen, and not again for a moment."""
        loop = asyncio.get_running_loop()
        if self._fifo is not None:
            loop.remove_reader(self._fifo.fd)
            loop.call_later(self._pace_s, self._listen_on)
            self._listen()

    def _listen_on(self) -> None:
        if self._fifo is not None and self._until_s < float("inf"):
            asyncio.get_running_loop().add_reader(self._fifo.fd, self._hear_some)

    def _listen(self) -> None:
        """Hear everything that has arrived."""
        now_s = time.monotonic()
        self._mind_lateness(now_s)
        if self._fifo is None:
            return
        lost = self._fifo.overflows
        for line in self._fifo.lines():
            self._hear(line, now_s)
        if lost:
            self._watch.amnesty(now_s)

    def _mind_lateness(self, now_s: float) -> None:
        """Our own pause is nobody's silence. Who was paused with us has a moment to speak, but not for ever again."""
        if now_s <= self._until_s + LATE_S:
            return
        self._watch.forgive(now_s - self._until_s)
        self._until_s = now_s
        if not self._late:
            self._late, self._not_before_s = True, now_s + MERCY_S

    def _hear(self, line: bytes, now_s: float) -> None:
        word = parse(line)
        if word is None:
            self._refuse(line, "no word that it knows")
            return
        worker = self._workers.get(ancestor(word.pid, self._workers) or 0)
        if worker is None:
            if self._workers and lives(word.pid):  # else they are last words
                self._refuse(line, f"pid {word.pid} is none of this node's workers")
            return
        self._take(worker, word, now_s)

    def _take(self, worker: Worker, word: Word, now_s: float) -> None:
        if isinstance(word, Stacks):
            if signal.SIGRTMIN < word.signal <= signal.SIGRTMAX:
                self._offers[word.pid] = word.signal
            return
        if isinstance(word, Step):
            self._on_step(word.number)
        due_s = self._watch.hear(worker.place.local_rank, word, now_s, time.time())
        if due_s is not None and due_s < self._until_s:
            self._until_s = max(due_s, now_s)
            self._bell.set()

    def _refuse(self, line: bytes, why: str) -> None:
        """Say so once: a misspelt heartbeat would be hard to find."""
        if not self._refused:
            self._refused = True
            self._log("watchdog_refused", reason=f"{line[:80].decode(errors='replace')!r}: {why}")

    # -- judging

    @property
    def _looks(self) -> bool:
        return self._policy.kind is WatchdogKind.OBSERVE and bool(self._workers)

    async def _judge(self) -> None:
        now_s = time.monotonic()
        if now_s < self._not_before_s:
            return
        self._late = False
        due_s = self._watch.due_s()
        if self._looks and (now_s >= self._look_s or (due_s is not None and now_s >= due_s)):
            if not await self._look():
                return
            now_s = time.monotonic()
        for local_rank, pid in self._watch.overdue(now_s):
            if self._whose(pid) != local_rank:
                self._watch.drop_timers(local_rank, pid)
        hung = self._watch.hung(now_s)
        if hung:
            await self._tell(hung)

    def _whose(self, pid: int) -> int | None:
        worker = self._workers.get(ancestor(pid, self._workers) or 0)
        return None if worker is None else worker.place.local_rank

    async def _look(self) -> bool:
        """See what the workers have computed and written; False if a disk hangs: then nobody is judged."""
        if self._seeing is None:
            self._seeing = self._looking.ask(partial(_seen, list(self._workers.values())))
        await asyncio.wait([self._seeing], timeout=TURN_S)
        if not self._seeing.done():
            return False
        now_s = time.monotonic()
        self._look_s = now_s + self._policy.after_s / LOOKS
        for worker, cpu, output in self._seeing.result():
            if self._workers.get(worker.pid or 0) is worker:  # it may have been long ago
                self._watch.looked(worker.place.local_rank, now_s, cpu, output)
        self._seeing = None
        return True

    async def _tell(self, hung: list[Hang]) -> None:
        by_rank = {worker.place.local_rank: worker for worker in self._workers.values()}
        several = [(hang, by_rank[hang.local_rank]) for hang in hung if hang.local_rank in by_rank]
        stacks = await asyncio.gather(*[self._stacks(hang, worker) for hang, worker in several[:TOLD_MAX]])
        for at, (hang, worker) in enumerate(several):
            if self._workers.get(worker.pid or 0) is not worker:
                continue  # it has ended meanwhile, or is being stopped
            place, text = worker.place, stacks[at] if at < len(stacks) else ""
            who = {"rank": place.rank, "local_rank": place.local_rank, "pid": worker.pid}
            self._log("worker_hung", **who, reason=hang.why, fails=hang.fails, stacks=text)
            if hang.fails:
                self.on_hang(worker, hang.why, text, hang.sections)

    async def _stacks(self, hang: Hang, worker: Worker) -> str:
        return await stacks_of(*self.whom_to_ask(worker, hang.pid), worker.stacks_file)

    def whom_to_ask(self, worker: Worker, pid: int | None = None) -> tuple[int, int | None]:
        """The process of ``worker``'s, best ``pid``, that writes its stacks, and on which signal; None: it does not."""
        pid = pid or worker.pid or 0
        offered = next((one for one in (pid, *self._offers) if one in self._offers and self._is_of(one, worker)), pid)
        return offered, self._offers.get(offered)

    def _is_of(self, pid: int, worker: Worker) -> bool:
        return self._whose(pid) == worker.place.local_rank


def _seen(workers: list[Worker]) -> list[Seen]:
    """What each has computed and written. In a thread: disks may hang."""
    return [(worker, cpu_s(worker.pid), worker.written()) for worker in workers if worker.pid is not None]
