"""What one agent reports of its workers to the group, and what the group decides about them.

Invariant: whatever is decided is remembered before anybody acts on it, so that a server without memory learns it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import assert_never

from orchestrator.core.charges import rule_of
from orchestrator.core.failures import Failure
from orchestrator.core.memory import Memory
from orchestrator.core.rendezvous import (
    Claim,
    Closed,
    Lapsed,
    Part,
    Refused,
    Replacement,
    Restart,
    Restoring,
    Standing,
    Superseded,
    Verdict,
)
from orchestrator.core.restart import Judgement
from orchestrator.core.result import Ending
from orchestrator.core.words import Event, Outcome
from orchestrator.edge.messages import Message
from orchestrator.edge.redis.group import GroupStore
from orchestrator.errors import ExitCode


class Reporting:
    """Asks on behalf of `Membership`, whose ``memory`` it shares; ``heard`` takes what says more than was asked for."""

    def __init__(
        self,
        store: GroupStore,
        memory: Memory,
        log: Callable[..., None],
        *,
        heard: Callable[[Verdict], None],
        mourn: Callable[[Superseded], None],
        closed: Callable[[Closed], Message],
    ) -> None:
        self._store = store
        self._memory = memory
        self._log = log
        self._heard = heard
        self._mourn = mourn
        self._closed = closed
        self._backoff_ends = 0.0  # on our monotonic clock

    @property
    def _claim(self) -> Claim:
        return self._memory.claim(time.monotonic())

    async def failure(self, judgement: Judgement, delay_s: float, consecutive: int, failure: Failure) -> None:
        """Tell the group; what it decides is asked for by `decision`."""
        reply = ""  # the end of the run, which the reply would tell, may be heard before it
        try:
            verdict = await self._store.fail(
                self._claim, judgement.action, delay_s, consecutive, failure, rule=judgement.rule
            )
            reply = type(verdict).__name__.lower()
        finally:
            self._log("failure_reported", action=judgement.action, why=judgement.why, reply=reply)
        if isinstance(verdict, Restart):
            self._memory.restarting(verdict, time.monotonic())
        else:
            self._memory.round_over()

    async def success(self, ignored: int = 0) -> None:
        """Tell the group that all our workers succeeded; the last one to do so ends the run, for all."""
        self._memory.succeeded(ignored)
        self._heard(await self._store.done(self._claim))

    async def level(self, level: int) -> None:
        """Tell the group, and those who wait for it, how far our workers have come; see `Up`."""
        self._memory.up(level)
        await self._store.up(self._claim, level)

    async def replacement(
        self, judgement: Judgement, delay_s: float, part: Part, failure: Failure
    ) -> Replacement | None:
        """Ask to start a part of our workers again within the round; None: that one is over, which is heard."""
        reply = await self._store.replace(self._claim, part, judgement.action, delay_s, failure, rule=judgement.rule)
        if not isinstance(reply, Replacement):
            self._heard(reply)
            return None
        self._memory.replacing(reply, time.monotonic())
        return reply

    async def decision(self, visit: int) -> Message:
        """What became of our round. It has ended: who is asked last is the server, after all that was reported."""
        verdict = await self._store.verdict(self._claim)
        match verdict:
            case Restart():
                self._backoff_ends = time.monotonic() + verdict.delay_ms / 1000
                self._memory.restarting(verdict, time.monotonic())
                self._log_decision(verdict)
                return Message(event=Event.RESTART_DECIDED, reason=verdict.reason, visit=visit)
            case Superseded():
                self._mourn(verdict)
                return Message(event=Event.ROUND_SUPERSEDED, reason=verdict.why, visit=visit)
            case Lapsed():
                return Message(event=Event.LEASE_LOST, reason=verdict.why, visit=visit)
            case Standing() | Restoring():  # our workers are gone, so we have no round to go on with, or to give back
                reason = "the server has lost its memory, or a part of it, and what it had decided"
                return Message(event=Event.LEASE_LOST, reason=reason, visit=visit)
            case Refused():
                reason = f"restart.rules exclude this node: {verdict.why}"
                ending = Ending(outcome=Outcome.FAILED, exit_code=int(ExitCode.NODE_UNFIT), reason=reason)
                return Message(event=Event.NODE_UNFIT, reason=reason, visit=visit, ending=ending)
            case Closed():
                return self._closed(verdict)
            case _:
                assert_never(verdict)

    async def wait_backoff(self) -> None:
        """Wait until the decided delay is over."""
        await asyncio.sleep(max(0.0, self._backoff_ends - time.monotonic()))

    def _log_decision(self, verdict: Restart) -> None:
        self._log(
            "restart_decided",
            cause=verdict.cause,
            charged=verdict.charged,
            delay_s=verdict.delay_ms / 1000,
            remaining=verdict.remaining,
            rule=rule_of(verdict.id),
            reason=verdict.reason,
        )
