"""What one agent remembers of its group, so that the group survives a server that remembers nothing.

From what the agent hears it keeps its claim: the newest round, the seat in it, the charges. Pure: instants are
arguments, seconds of one monotonic clock. Invariant: a claim never goes back.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.charges import Ledger
from orchestrator.core.rendezvous import Claim, Replacement, Restart, Seat, Waiting


class Memory:
    """One agent's memory of one group."""

    def __init__(self) -> None:
        self._claim = Claim()
        self._heard_s = 0.0  # when the ledger was true
        self._step = 0
        self.seat: Seat | None = None

    @property
    def charged(self) -> int:
        """Restarts charged to the run, as far as we have heard."""
        return self._claim.charged

    @property
    def spent(self) -> int:
        """Of these, those that count against restart.budget."""
        ledger = self._claim.ledger
        return max(0, self._claim.charged - ledger.forgiven - ledger.apart)

    def claim(self, now_s: float) -> Claim:
        """What to send with a command now."""
        ledger = self._claim.ledger.older(round((now_s - self._heard_s) * 1000))
        return replace(self._claim, ledger=ledger, step=max(self._step, ledger.paid))

    def got_to(self, step: int) -> None:
        """A worker has said to which step it got, from 0."""
        self._step = max(self._step, step + 1)

    def seated(self, seat: Seat, now_s: float) -> None:
        """We have a seat in a new round."""
        ledger = self.claim(now_s).ledger.united(seat.ledger)
        charged = max(seat.charged, self._claim.charged, ledger.forgiven + len(ledger.charges))
        self.seat, self._heard_s = seat, now_s
        self._claim = replace(seat.claim(), charged=charged, ledger=ledger)

    def waiting(self, waiting: Waiting) -> None:
        """We wait, and hear of the last round that was settled."""
        if waiting.round > self._claim.round and waiting.token > self._claim.token:
            self._claim = replace(
                self._claim,
                round=waiting.round,
                token=waiting.token,
                slot=-1,
                size=waiting.size,
                members_hash=waiting.members_hash,
                seat=None,
            )

    def succeeded(self, ignored: int = 0) -> None:
        """All our workers of the round have succeeded, or have failed in a way that is ignored."""
        self._claim = replace(self._claim, succeeded=True, ignored=ignored)

    def up(self, level: int) -> None:
        """So far our workers of the round have come."""
        self._claim = replace(self._claim, level=level)

    def round_over(self, round_: int | None = None) -> None:
        """Our round has ended: there is nothing to give back any more. Late word of an older ``round_`` is no news."""
        if round_ is None or round_ == self._claim.round:
            self._claim = replace(self._claim, seat=None)

    def restarting(self, restart: Restart, now_s: float) -> None:
        """Our round has ended by a restart; a charge for it is counted once, however often it is heard of."""
        self.round_over(restart.round)
        if not restart.charged or restart.round != self._claim.round:
            return
        self._charge(restart.id or str(restart.round), restart.head, now_s)

    def replacing(self, replacement: Replacement, now_s: float) -> None:
        """Some of our workers are started again; the same holds for its charge."""
        if replacement.charged:
            self._charge(replacement.id, replacement.head, now_s)

    def _charge(self, id_: str, head: Ledger, now_s: float) -> None:
        before = self.claim(now_s).ledger
        charged = self._claim.charged + (not before.knows(id_))
        self._claim, self._heard_s = replace(self._claim, ledger=before.charged(id_, head), charged=charged), now_s

    def closed(self, charged: int) -> None:
        """The run is over."""
        self._claim = replace(self._claim, charged=max(self._claim.charged, charged))
