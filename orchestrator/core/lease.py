"""When a lease must be given up: the fence, what extends it, and whose fault it was. Pure: instants and verdicts.

A lease is prolonged by the server. Whoever cannot have it prolonged must have ended its workers before the others may
start in their place, and the guard sees to that at the fence. Invariant: the fence lies before the instant at which the
server lets the lease lapse, because it counts from *before* the renewal was sent. All instants are of one boot-time
clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from orchestrator.core.specs import OnIsolation

MARGIN_S = 0.5  # what killing all trees may take; a fifth of a lease where that is less


class Contact(Enum):
    """What one attempt to speak with the server has shown."""

    ANSWERED = auto()
    AWAY = auto()  # evidence that the server itself is away: nobody else is served either
    SILENT = auto()  # no evidence: it may be we who are cut off


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: the instant before it was sent (s of CLOCK_BOOTTIME), and what it has shown."""

    at_s: float
    contact: Contact


OnAttempt = Callable[[Attempt], None]


def fence_s(sent_s: float, lease_s: float) -> float:
    """The latest instant at which workers may run on a lease whose prolongation was sent at ``sent_s``."""
    return sent_s + max(lease_s - MARGIN_S, 0.8 * lease_s)


def renewal_s(lease_s: float) -> float:
    """How long after a prolongation was sent the next one is."""
    return lease_s / 3


def patience_s(lease_s: float) -> float:
    """How long one attempt to prolong a lease waits for its reply; on a slow fresh connection twice as long.

    Two attempts fit between a renewal's turn and the fence: where the first one went into a connection that is dead,
    the second one, on a fresh connection, prolongs the lease or shows that the server is away.
    """
    return 0.45 * (fence_s(0.0, lease_s) - renewal_s(lease_s))


def extended_s(attempt: Attempt, now_s: float, lease_s: float, on_isolation: OnIsolation) -> float | None:
    """How long workers may run after an attempt, over at ``now_s``, that did not reach the server; None: no longer.

    A lease from when it has shown what it shows; at the latest from when it should have, lest a pause of ours counts.
    """
    if attempt.contact is Contact.AWAY or (attempt.contact is Contact.SILENT and on_isolation is OnIsolation.RUN):
        return fence_s(min(now_s, attempt.at_s + 2 * patience_s(lease_s)), lease_s)
    return None


def tolerance_s(lease_s: float) -> float:
    """By how much an agent may turn late without a word; a machine with much to do delays everyone by a little."""
    return max(lease_s / 10, 0.2)


def lateness(lag_s: float, busy_s: float) -> str:
    """What has kept an agent: its lag, and how much of that it was computing.

    Who is paused computes nothing; who is busy may have to share the processor with many.
    """
    return f"this agent was {'busy' if busy_s > lag_s / 10 else 'paused'} for {lag_s:.1f} s"


def is_at_fault(lag_s: float, lease_s: float) -> bool:
    """Whether an agent that has lost its lease had missed a renewal's turn by itself."""
    return lag_s > renewal_s(lease_s)
