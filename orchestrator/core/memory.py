"""What one agent remembers of its group, so that the group survives a server that remembers nothing.

From what the agent hears it keeps its claim: the newest round, the seat in it, the charges. Pure: instants are
arguments, seconds of one monotonic clock. Invariant: a claim never goes back.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.rendezvous import Claim, Restart, Seat, Waiting


class Memory:
    """One agent's memory of one group."""

    def __init__(self) -> None:
        self._claim = Claim()
        self._heard_s = 0.0  # when the ledger was true
        self.seat: Seat | None = None

    @property
    def charged(self) -> int:
        """Restarts charged to the run, as far as we have heard."""
        return self._claim.charged

    def claim(self, now_s: float) -> Claim:
        """What to send with a command now."""
        return replace(self._claim, ledger=self._claim.ledger.older(round((now_s - self._heard_s) * 1000)))

    def seated(self, seat: Seat, now_s: float) -> None:
        """We have a seat in a new round."""
        known = self.claim(now_s).ledger
        self.seat, self._heard_s = seat, now_s
        self._claim = replace(
            seat.claim(), charged=max(seat.charged, self._claim.charged), ledger=known.united(seat.ledger)
        )

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

    def succeeded(self) -> None:
        """All our workers of the round have succeeded."""
        self._claim = replace(self._claim, succeeded=True)

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
        before = self.claim(now_s).ledger
        after = before.charged(restart.round)
        if after != before:
            self._claim = replace(self._claim, ledger=after, charged=self._claim.charged + 1)
            self._heard_s = now_s

    def closed(self, charged: int) -> None:
        """The run is over."""
        self._claim = replace(self._claim, charged=max(self._claim.charged, charged))
