"""What is posted to an agent's inbox, by whoever learns something: watchers, timers, effects, signal handlers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.core.rendezvous import Seat
from orchestrator.core.result import Ending
from orchestrator.core.words import Event, Outcome
from orchestrator.errors import RendezvousError


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An event with what the agent needs to take it, and two stamps by which a stale one is told at the door.

    ``round``: the round that it is about (None: about the agent itself). ``visit``: the stay in a state whose effect it
    completes (None: valid in any).
    """

    event: Event
    reason: str = ""
    round: int | None = None
    visit: int | None = None
    seat: Seat | None = None
    ending: Ending | None = None


def rendezvous_failed(error: RendezvousError) -> Message:
    """That the group cannot be dealt with any more, and how our part in it ends then."""
    ending = Ending(outcome=Outcome.FAILED, exit_code=int(error.exit_code), reason=str(error))
    return Message(event=Event.RENDEZVOUS_FAILED, reason=str(error), ending=ending)


Post = Callable[[Message], None]
