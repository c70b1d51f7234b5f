"""Python values as the commands of ``lua/`` take them: numbers without end bounded, texts cut to what they may hold.

Invariant: what leaves this module fits the limits that ``lua/`` checks, or a RendezvousError has said why it cannot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from orchestrator.core.failures import Failure
from orchestrator.core.learning import Gaps
from orchestrator.core.policies import Budget, RestartPolicy
from orchestrator.core.rendezvous import Bid, Seat
from orchestrator.errors import RendezvousError

NAME_LIMIT, REASON_LIMIT, CAUSE_LIMIT = 255, 1024, 65536  # bytes, as lua/ checks them
LIMITS_TOLD = 256  # of a watchdog
LONGEST_MS, MOST = 10**12, 10**15  # thirty years, and a number of restarts: what is beyond them has no bound in effect


def check_name(what: str, text: str) -> None:
    """Raise RendezvousError if ``text`` cannot name anything in a group; ``what`` is what it should name."""
    if not text or len(text.encode(errors="replace")) > NAME_LIMIT or any(ord(letter) < ord(" ") for letter in text):
        raise RendezvousError(f"{what} must have 1 to {NAME_LIMIT} bytes and no control characters, not {text!r:.80}")


def whole_ms(seconds: float) -> int:
    """Seconds as whole milliseconds, never below 0 nor without end."""
    return round(min(max(0.0, seconds * 1000), LONGEST_MS))


def budget_words(budget: Budget) -> tuple[int, int]:
    """A budget as lua/ counts it: at most so many (-1: no bound) within so many ms (0: the whole run)."""
    per_ms = 0 if budget.per_s is None else max(1, whole_ms(budget.per_s))
    return (-1 if budget.max is None else min(budget.max, MOST)), per_ms


def price_words(policy: RestartPolicy, rule: int | None) -> tuple[int, int, str, int, int]:
    """Which budget is charged for what this rule has decided, and what progress means to it."""
    own = None if rule is None else policy.rules[rule].budget
    whose = "" if own is None else str(rule)
    progress = policy.progress
    return (*budget_words(own or policy.budget), whose, int(progress.refill), progress.max_stalled or 0)


def seat_words(seat: Seat, bid: Bid) -> tuple[str | int, ...]:
    """What a forgetful server needs to know of our seat and of its round, see lua/restore.lua."""
    mine = (bid.nproc, bid.addr, bid.port, seat.base_rank)
    master = (seat.world_size, seat.master_addr, seat.master_port)
    return (*mine, *master, seat.charged, seat.consecutive, clip(seat.why))


def story_words(cause: Failure) -> tuple[str, str]:
    """What failed, in short and in full."""
    return clip(f"rank {cause.rank} on node {cause.node}: {cause.how()}"), cause_json(cause)


def gaps_text(known: Mapping[str, Gaps]) -> str:
    """What a watchdog knows, as rows; what is beyond the limits of lua/ stays untold."""
    rows = [
        f"{limit} {whole_ms(gaps.longest_s)} {whole_ms(gaps.second_s)} {gaps.count}" for limit, gaps in known.items()
    ]
    return "\n".join(rows[:LIMITS_TOLD])


def clip(text: str) -> str:
    """As much of a reason as a group remembers."""
    return text.encode(errors="replace")[:REASON_LIMIT].decode(errors="ignore")


def cause_json(cause: Failure) -> str:
    """The failure as JSON that fits: its texts are cut as far as needed, a traceback and last lines from the front."""
    limit = CAUSE_LIMIT
    while len(text := json.dumps(cause.to_dict())) > CAUSE_LIMIT:
        limit //= 2
        cause = replace(
            cause,
            message=cause.message[:limit],
            error_type=cause.error_type[:limit],
            log=cause.log[:limit],
            stacks=cause.stacks[:limit],
            traceback=cause.traceback[len(cause.traceback) - min(limit, len(cause.traceback)) :],
            last_lines=tuple(line[:limit] for line in cause.last_lines[-max(1, limit // 1000) :]),
        )
        if limit == 0:
            break  # what is left are names, which are short
    return text
