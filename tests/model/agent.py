"""One agent as the rendezvous sees it: what `edge.membership` and `core.table` have it say next, on virtual time.

Its store and its memory are the real ones. It has two hands: `lane` does what its phase asks for, `keeper` renews the
lease. Each holds at most one coroutine, which stands before a command until the world lets it go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum, auto
from inspect import CORO_CREATED, CORO_SUSPENDED, getcoroutinestate
from typing import Any

from orchestrator.core.failures import Failure
from orchestrator.core.memory import Memory
from orchestrator.core.policies import RuleAction
from orchestrator.core.rendezvous import (
    Bid,
    Claim,
    Closed,
    Drained,
    Emptied,
    Held,
    JoinReply,
    Lapsed,
    Notice,
    Part,
    Place,
    Refused,
    RenewReply,
    Replacement,
    Restart,
    Restoring,
    Seat,
    Settled,
    Standing,
    Superseded,
    Verdict,
    Waiting,
)
from orchestrator.edge.joining import GRAIN_S
from orchestrator.edge.redis.group import GroupStore
from tests.model.virtual import Fate, QuietError

Task = Coroutine[None, Fate | None, Any]
NEVER = float("inf")


def _waits(task: Task) -> bool:
    """Whether it is not this task itself that asks."""
    return getcoroutinestate(task) in (CORO_CREATED, CORO_SUSPENDED)


class Phase(Enum):
    """Where the agent's machine is."""

    JOINING = auto()
    WAITING = auto()
    STANDBY = auto()
    RUNNING = auto()
    FINISHING = auto()
    STOPPING = auto()  # reports a failure
    DECIDING = auto()
    BACKOFF = auto()
    LEAVING = auto()
    OVER = auto()


COUNTS_AS_IN = (Phase.RUNNING, Phase.FINISHING)


@dataclass(eq=False)
class Agent:
    """One process."""

    name: str
    nonce: str
    store: GroupStore
    bid: Bid
    lease_s: float
    now_s: Callable[[], float]
    told: Callable[[Agent, object], None]  # the oracle hears what the agent hears
    listens: bool = True
    memory: Memory = field(default_factory=Memory)
    phase: Phase = Phase.JOINING
    awake: bool = True
    lane: Task | None = None
    keeper: Task | None = None
    lane_due: float = 0.0
    keeper_due: float = NEVER
    end: str = ""
    stops_in_s: float = 0.0  # what its workers take when they are stopped next
    _round: int = 0  # messages about another one are stale; 0 while joining
    _incarnation: int = 0
    _outwaits: bool = False
    _full_since: float | None = None
    _prolonged: tuple[float, int] | None = None  # when the holder's lease would end, and how often it was prolonged

    @property
    def claim(self) -> Claim:
        return self.memory.claim(self.now_s())

    def next_due(self) -> tuple[float, str]:
        """When it will do something by itself, and with which hand."""
        lane = self.now_s() if self.lane else self.lane_due
        keeper = self.now_s() if self.keeper else self.keeper_due
        return (lane, "lane") if lane <= keeper else (keeper, "keeper")

    def start(self, hand: str) -> Task | None:
        """Begin what this hand has to do next, if anything."""
        if hand == "keeper":
            if self.keeper is None and self.keeper_due < NEVER:
                self.keeper = self._renew()
            return self.keeper
        if self.lane is None and self.lane_due < NEVER:
            self.lane = self._next()
        return self.lane

    def enter(self, phase: Phase, due: float = NEVER) -> None:
        """Move; what the lane still does for the old phase is cancelled."""
        if phase is not self.phase and self.lane is not None and _waits(self.lane):
            self.lane.close()
            self.lane = None
        self.phase, self.lane_due = phase, due
        if phase is Phase.JOINING:
            self._round, self.lane_due = 0, self.now_s() + self.stops_in_s
            self.stops_in_s = 0.0
            self._outwaits, self._full_since, self._prolonged = False, None, None
        if phase is Phase.DECIDING:
            self.lane_due = self.now_s()
        elif phase is Phase.OVER:
            self.keeper_due = NEVER

    def stop(self) -> None:
        """The process is gone."""
        for task in (self.lane, self.keeper):
            if task is not None:
                task.close()

    def leave(self, why: str) -> None:
        """Begin to say the last word."""
        if self.phase in (Phase.LEAVING, Phase.OVER):
            return
        self.end = self.end or why
        self.enter(Phase.LEAVING, self.now_s())
        if self.keeper is not None and _waits(self.keeper):
            self.keeper.close()
        self.keeper, self.keeper_due = None, NEVER

    def fail(self, action: RuleAction, then: RuleAction | None, delay_s: float, rule: int | None = None) -> None:
        """A worker fails, and while the others are stopped perhaps another one."""
        self.enter(Phase.STOPPING, self.now_s())
        self.lane = self._report(action, then, delay_s, rule)

    def fail_in_part(self, action: RuleAction, rule: int | None) -> None:
        """A worker fails that may be replaced alone."""
        if self.lane is None:
            self._incarnation += 1
            self.lane = self._replace(Part(0, self._incarnation), action, rule)

    def succeed(self) -> None:
        """All workers have ended well."""
        self.enter(Phase.FINISHING)
        self.lane = self._succeed()

    async def listen(self) -> None:
        """Hear what stands in the stream."""
        if not self.store._joined.is_set() or self.phase is Phase.OVER:
            return
        with contextlib.suppress(QuietError):
            async for notice in self.store.notices():
                self._hear(notice)

    # -- the lane

    def _next(self) -> Task:
        match self.phase:
            case Phase.WAITING | Phase.STANDBY if not self._outwaits:
                return self._ask()
            case Phase.DECIDING:
                return self._decide()
            case Phase.LEAVING:
                return self._leave()
            case Phase.BACKOFF:
                self.enter(Phase.JOINING)
        return self._join()

    async def _join(self) -> None:
        if not self._outwaits:
            self.memory.round_over()
        self.keeper_due = min(self.keeper_due, self.now_s() + self.lease_s / 3)
        self._placed(await self.store.join(self.bid, self.claim))

    async def _ask(self) -> None:
        self._placed(await self.store.seat(self.claim))

    def _placed(self, reply: JoinReply) -> None:
        self.told(self, reply)
        self._outwaits = isinstance(reply, Held)
        match reply:
            case Seat():
                self.memory.seated(reply, self.now_s())
                self._round = reply.round
                self.enter(Phase.RUNNING)
                self.keeper_due = self.now_s()
            case Waiting() if reply.place is Place.STANDBY and self.phase is not Phase.STANDBY:
                self.memory.waiting(reply)
                self.enter(Phase.STANDBY, self.now_s())
            case Waiting():
                self._full_since = (self._full_since or self.now_s()) if reply.place is Place.FULL else None
                if self.phase is not Phase.STANDBY:
                    if self._full_since is not None and self.now_s() - self._full_since >= self.lease_s:
                        self.leave("refused: full")
                        return
                    self.phase = Phase.WAITING
                self.lane_due = self.now_s() + reply.due_ms / 1000
            case Held():
                ends, count = self._prolonged or (NEVER, 0)
                now_ends = self.now_s() + reply.ms_left / 1000
                self._prolonged = (now_ends, count + (now_ends > ends + GRAIN_S))
                if self._prolonged[1] > 1:
                    self.leave("refused: held")
                    return
                self.lane_due = self.now_s() + min(reply.ms_left / 1000 + GRAIN_S, self.lease_s / 3)
            case Closed():
                self._hear(reply)
            case Refused():
                self.leave("refused: excluded")

    def _cause(self) -> Failure:
        return Failure(kind="exited", group="r", node=self.name, rank=0, local_rank=0, round=self._round, exit_code=3)

    async def _replace(self, part: Part, action: RuleAction, rule: int | None) -> None:
        reply = await self.store.replace(self.claim, part, action, 0.5, self._cause(), rule=rule)
        if isinstance(reply, Replacement):
            self.told(self, reply)
            self.memory.replacing(reply, self.now_s())
        else:
            self._hear(reply)

    async def _report(self, action: RuleAction, then: RuleAction | None, delay_s: float, rule: int | None) -> None:
        for each in (action, then):
            if each is None:
                break
            consecutive = self.memory.seat.consecutive + 1 if self.memory.seat else 1
            verdict = await self.store.fail(self.claim, each, delay_s, consecutive, self._cause(), rule=rule)
            self.told(self, verdict)
            if isinstance(verdict, Restart):
                self.memory.restarting(verdict, self.now_s())
            else:
                self.memory.round_over()
        self.enter(Phase.DECIDING)

    async def _succeed(self) -> None:
        self.memory.succeeded()
        self._hear(await self.store.done(self.claim))

    async def _decide(self) -> None:
        verdict = await self.store.verdict(self.claim)
        self.told(self, verdict)
        match verdict:
            case Restart():
                self.memory.restarting(verdict, self.now_s())
                self.enter(Phase.BACKOFF, self.now_s() + verdict.delay_ms / 1000)
            case Standing() | Superseded() | Lapsed() | Restoring():
                self.enter(Phase.JOINING)
            case Closed():
                self._hear(verdict)
            case Refused():
                self.leave("excluded")

    async def _leave(self) -> None:
        await self.store.leave(self.claim, self.end)
        self.enter(Phase.OVER)

    # -- the keeper

    async def _renew(self) -> None:
        asked = self.claim
        reply = await self.store.renew(asked)
        wait_s = self.lease_s / 3
        if isinstance(reply, Standing | Waiting) and reply.due_ms:
            wait_s = min(wait_s, reply.due_ms / 1000)
        self.keeper_due = self.now_s() + wait_s
        if isinstance(reply, Waiting) and not reply.due_ms:
            self._seat_is_ready()
        now = self.claim
        if (asked.round, asked.token, asked.slot) == (now.round, now.token, now.slot):
            self._hear(reply)

    def _seat_is_ready(self) -> None:
        if self.phase in (Phase.WAITING, Phase.STANDBY):
            self.lane_due = self.now_s()

    def _hear(self, said: Notice | RenewReply | Verdict) -> None:
        self.told(self, said)
        match said:
            case Waiting():
                self.memory.waiting(said)
            case Settled():
                self._seat_is_ready()
            case Superseded():
                self.memory.round_over(said.round)
                self._interrupt(Phase.JOINING, *COUNTS_AS_IN, Phase.DECIDING, about=said.round)
            case Restart():
                self.memory.restarting(said, self.now_s())
                if said.cause is None or said.cause.get("node") != self.name:
                    self._interrupt(Phase.DECIDING, *COUNTS_AS_IN, about=said.round)
            case Lapsed():
                self.memory.round_over()
                self._interrupt(Phase.JOINING, *set(Phase) - {Phase.STOPPING, Phase.BACKOFF, Phase.LEAVING, Phase.OVER})
            case Closed():
                self.memory.closed(said.charged)
                self.leave(f"closed: {said.outcome}")
            case Drained() | Emptied():
                self.leave("drained")

    def _interrupt(self, target: Phase, *phases: Phase, about: int | None = None) -> None:
        """Go elsewhere from any of these phases, unless the news are stale."""
        if self.phase in phases and about in (None, self._round):
            self.enter(target)
