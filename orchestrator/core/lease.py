"""When a lease must be given up: the fence, and what extends it. Pure: instants of one boot-time clock, and verdicts.

A lease is prolonged by the server. Whoever cannot have it prolonged must have ended its workers before the others may
start in their place, and the guard sees to that at the fence. Invariant: the fence lies before the instant at which the
server lets the lease lapse, because it counts from *before* the renewal was sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from orchestrator.core.specs import OnIsolation

MARGIN_S = 0.5  # what killing all trees may take; half of a lease that is shorter than twice this


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


def fence_s(sent_s: float, lease_s: float) -> float:
    """The latest instant at which workers may run on a lease whose prolongation was sent at ``sent_s``."""
    return sent_s + max(lease_s - MARGIN_S, lease_s / 2)


def extends(contact: Contact, on_isolation: OnIsolation) -> bool:
    """Whether workers may run for another lease after an attempt that did not reach the server."""
    return contact is Contact.AWAY or (contact is Contact.SILENT and on_isolation is OnIsolation.RUN)
