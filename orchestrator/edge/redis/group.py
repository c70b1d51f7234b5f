"""A worker group as its server keeps it: every step that agents take together, as a method with typed replies.

Each method is one Lua command of ``lua/``, executed atomically. Nothing is decided here and nothing is remembered but
the last bid and the place in the stream. Invariant: every method may be repeated, with the same effect and answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial

from orchestrator.core.failures import Failure
from orchestrator.core.learning import Gaps
from orchestrator.core.lease import OnAttempt
from orchestrator.core.policies import RestartKind, RestartPolicy, RuleAction
from orchestrator.core.publication import Publication
from orchestrator.core.rendezvous import (
    Bid,
    Claim,
    Closed,
    Drained,
    Fate,
    Held,
    JoinReply,
    Lapsed,
    Notice,
    Part,
    Refused,
    RenewReply,
    ReplaceReply,
    Restart,
    Seat,
    Standing,
    Verdict,
    Waiting,
)
from orchestrator.core.restart import delay_s as backoff_delay_s
from orchestrator.core.specs import RendezvousSpec
from orchestrator.core.words import Outcome
from orchestrator.edge.redis import replies
from orchestrator.edge.redis.arguments import (
    budget_words,
    cause_json,
    check_name,
    clip,
    gaps_text,
    price_words,
    seat_words,
    story_words,
    whole_ms,
)
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.publisher import Publisher
from orchestrator.edge.redis.scripts import EVENTS, group_keys, script
from orchestrator.edge.redis.streams import instant

HOUR_S = 3600.0


class GroupStore:
    """One agent's access to one group."""

    def __init__(
        self,
        connection: Connection,
        *,
        run_id: str,
        role: str,
        node: str,
        nonce: str,
        min_nodes: int,
        max_nodes: int,
        spare_nodes: int = 0,
        rendezvous: RendezvousSpec,
        restart: RestartPolicy,
        publication: Publication | None = None,
    ) -> None:
        for what, text in (("run_id", run_id), ("role", role), ("node.name", node), ("nonce", nonce)):
            check_name(what, text)
        self.connection = connection
        self.run_id = run_id
        self._keys = group_keys(run_id, role)
        self._who = (node, nonce)
        self._restart = restart
        self._publisher = Publisher(run_id, role, publication, restart, rendezvous.reopen)
        self._rules: tuple[int, ...] = (
            max(1, whole_ms(rendezvous.lease_s)),
            whole_ms(max(HOUR_S, 2 * rendezvous.server_grace_s)),
            min_nodes,
            max_nodes,
            whole_ms(rendezvous.last_call_s),
            whole_ms(rendezvous.scale_up_s),
            *budget_words(restart.free),
            spare_nodes,
        )
        self._bid: Bid | None = None
        self._held = False  # by another agent: our name, which we wait for
        self._cursor: str | None = None
        self._joined = asyncio.Event()

    async def join(self, bid: Bid, claim: Claim, *, on_attempt: OnAttempt | None = None) -> JoinReply:
        """Take part in the next round. Repeat it when `Held` says that the name will be free.

        ``on_attempt`` hears of every attempt, here as in what follows. ``within_s`` bounds each of them.
        """
        await self.publish(claim, on_attempt=on_attempt)
        self._bid = bid
        hint = -1 if bid.hint is None else bid.hint
        words = (bid.nproc, bid.addr, bid.port, hint, replies.ledger_text(claim.ledger))
        raw = await self._call("join", claim, *words, on_attempt=on_attempt)
        cursor, reply = replies.join_reply(raw)
        if self._cursor is None or instant(cursor) < instant(self._cursor):  # first, or the server began anew
            self._cursor = cursor
        self._joined.set()
        self._held = isinstance(reply, Held)
        return reply

    async def seat(self, claim: Claim, *, on_attempt: OnAttempt | None = None) -> JoinReply:
        """What has become of the join. A server that has forgotten it is told again."""
        reply = replies.seat_reply(await self._call("seat", claim, on_attempt=on_attempt))
        over = claim.slot >= 0 and claim.seat is None  # the round of our last seat, which this server may still have
        if isinstance(reply, Lapsed):
            self._publisher.forget()  # what the server has forgotten may be everything
        elif not (over and isinstance(reply, Seat) and reply.token == claim.token):
            return reply
        if self._bid is None:
            return Refused(reply.why) if isinstance(reply, Lapsed) else reply
        return await self.join(self._bid, claim, on_attempt=on_attempt)

    async def renew(
        self, claim: Claim, *, within_s: float | None = None, on_attempt: OnAttempt | None = None
    ) -> RenewReply:
        """Prolong our lease, and learn whether the claimed round stands. ``Waiting(0, …)``: ask for the seat now."""
        if self._held:  # there is no lease of ours yet, and that is no news
            return Waiting(max(1, self._rules[0] // 3), 0)
        raw = await self._call_seated("renew", claim, within_s=within_s, on_attempt=on_attempt)
        reply = replies.renew_reply(raw)
        if (
            isinstance(reply, Waiting) and claim.seat is not None
        ):  # as of before we had it, on a server that fell behind
            reply = Lapsed("the server takes this node for one that waits: it has fallen behind")
        if isinstance(reply, Lapsed):
            self._publisher.forget()
        if claim.succeeded and isinstance(reply, Standing):  # a server that fell behind may not have heard of it
            return await self.done(claim, within_s=within_s)
        return reply

    async def fail(
        self,
        claim: Claim,
        action: RuleAction,
        delay_s: float,
        consecutive: int,
        cause: Failure,
        *,
        rule: int | None = None,
    ) -> Verdict:
        """Report that the claimed round has failed here; the group decides once, by the most severe report.

        ``rule`` is the number of the one that has decided so, if one did.
        """
        words = (action.value, whole_ms(delay_s), consecutive, *price_words(self._restart, rule), *story_words(cause))
        return replies.verdict_reply(await self._call_seated("fail", claim, *words))

    async def replace(
        self, claim: Claim, part: Part, action: RuleAction, delay_s: float, cause: Failure, *, rule: int | None = None
    ) -> ReplaceReply:
        """Ask to start a part of our workers again within the round."""
        price = price_words(self._restart, rule)
        words = (str(part), part.incarnation, action.value, *price, whole_ms(delay_s), *story_words(cause))
        return replies.replace_reply(await self._call_seated("replace", claim, *words))

    async def done(self, claim: Claim, *, within_s: float | None = None) -> Verdict:
        """Report that all our workers of the claimed round succeeded; the last member to do so ends the run."""
        again = self._restart.kind is RestartKind.ALWAYS
        delay_s = backoff_delay_s(1, self._restart.backoff, random.random()) if again else 0.0
        words = (int(again), whole_ms(delay_s), *budget_words(self._restart.budget), claim.ignored)
        raw = await self._call_seated("done", claim, *words, within_s=within_s)
        return replies.verdict_reply(raw)

    async def up(self, claim: Claim, level: int) -> Verdict:
        """Report how far our workers of the claimed round have come, see `Up`; for roles that wait for this one."""
        return replies.verdict_reply(await self._call_seated("up", claim, level))

    async def gaps(self, claim: Claim, known: Mapping[str, Gaps]) -> Mapping[str, Gaps]:
        """Tell the run what our watchdog knows; returns what the whole run does."""
        return replies.gaps_reply(await self._call("gaps", claim, gaps_text(known)))

    async def wish_restart(self, nonce: str, why: str) -> None:
        """Have the round that stands end, uncharged; however many agents ask for it with the same ``nonce``, once."""
        words = (self._who[0], nonce, *self._caller(Claim())[2:])
        await self.connection.call(script("wish"), self._keys, (*words, "restart", "", clip(why)))

    async def verdict(self, claim: Claim) -> Fate:
        """The fate of the claimed round; `Refused` if our failure has excluded this node."""
        return replies.fate_reply(await self._call("verdict", claim))

    async def leave(self, claim: Claim, why: str) -> None:
        """Give up our place; a settled round that needs us is superseded at once."""
        await self._call("leave", claim, clip(why))

    async def close(self, claim: Claim, outcome: Outcome, exit_code: int, reason: str, cause: Failure | None) -> Closed:
        """End the run for everyone; returns how it really ended, should somebody have been faster."""
        text = cause_json(cause) if cause is not None else ""
        raw = await self._call("close", claim, outcome.value, exit_code, clip(reason), text)
        return replies.closed_reply(raw)

    async def notices(self) -> AsyncIterator[Notice]:
        """What happens to the group from our first join on, nothing left out; ends with `Closed`."""
        await self._joined.wait()
        while True:
            for entry, fields in await self.connection.read(self._keys[EVENTS], self._cursor or "0-0"):
                self._cursor = entry
                notice = replies.notice(fields)
                if isinstance(notice, Drained) and (notice.node, notice.nonce) != self._who:
                    continue
                if isinstance(notice, Restart) and notice.delay_ms > 0:
                    age_ms = await self.connection.server_ms() - instant(entry)[0]
                    notice = replace(notice, delay_ms=max(0, notice.delay_ms - max(0, age_ms)))
                yield notice
                if isinstance(notice, Closed):
                    return

    def will(self, why: str) -> tuple[str | int, ...]:
        """The command by which our guard says, once this process has died, that we have left."""
        leave = script("leave")
        return ("EVAL", leave.source, len(self._keys), *self._keys, *self._caller(Claim()), clip(why))

    async def publish(
        self, claim: Claim, *, within_s: float | None = None, on_attempt: OnAttempt | None = None
    ) -> None:
        """See `Publisher`."""
        call = partial(self._call, "publish", claim, within_s=within_s, on_attempt=on_attempt)
        await self._publisher.publish(self.connection.outages, call)

    async def _call_seated(
        self,
        command: str,
        claim: Claim,
        *args: str | int,
        within_s: float | None = None,
        on_attempt: OnAttempt | None = None,
    ) -> object:
        """Call a command that needs our seat; a server that has forgotten it is given it back before."""
        call = partial(self._call, within_s=within_s, on_attempt=on_attempt)
        raw = await call(command, claim, *args)
        if claim.seat is None or self._bid is None or not replies.is_forgetful(raw):
            return raw
        self._publisher.forget()  # what the server has forgotten is everything
        await call("restore", claim, *seat_words(claim.seat, self._bid), replies.ledger_text(claim.ledger))
        if claim.succeeded and command != "done":
            await self.done(replace(claim, seat=None))
        if claim.level and command != "up":
            await self.up(replace(claim, seat=None), claim.level)
        return await call(command, claim, *args)

    def _caller(self, claim: Claim) -> tuple[str | int, ...]:
        """ARGV[1] to ARGV[20] of every command, see lua/lib."""
        return (
            *self._who,
            claim.round,
            claim.token,
            claim.slot,
            claim.size,
            claim.members_hash,
            claim.charged,
            *self._rules,
            claim.ledger.forgiven,
            claim.ledger.apart,
            claim.step,
        )

    async def _call(
        self,
        command: str,
        claim: Claim,
        *args: str | int,
        within_s: float | None = None,
        on_attempt: OnAttempt | None = None,
    ) -> object:
        words = (*self._caller(claim), *args)
        return await self.connection.call(script(command), self._keys, words, within_s=within_s, on_attempt=on_attempt)
