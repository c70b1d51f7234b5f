"""What agents are told, judged by what they knew before, and by the rounds that the oracle has seen."""

from __future__ import annotations

from orchestrator.core.rendezvous import Claim, Replacement, Restart, Seat, Standing, Waiting
from tests.model.agent import Agent
from tests.model.oracle import Oracle
from tests.model.seen import Seen


class Hearsay:
    """Listens to all agents of a run."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.knew: dict[str, tuple[int, int, int, set[str]]] = {}  # nonce -> round, token, forgiven, rounds charged
        self.clock_set = False  # ever, by anybody

    def told(self, agent: Agent, said: object, now: Seen) -> None:
        """An agent hears something."""
        claim = agent.claim
        self._remembers(agent.nonce, claim)
        of_ours = isinstance(said, Replacement) or (isinstance(said, Restart) and said.round == claim.round)
        if isinstance(said, Restart | Replacement) and of_ours and said.charged and "#" not in said.id:
            anew = said.head.forgiven > claim.ledger.forgiven
            before = () if anew else claim.ledger.charges
            others = [charge.age_ms for charge in before if charge.id != said.id and not charge.is_apart]
            self._within_budget([*others, 0])
        if isinstance(said, Seat):
            known = self._oracle.book.get((said.token, said.members_hash))
            self._oracle.must(known, f"a seat in a round that never was: {said}")
            if known:
                facts = (said.round, said.size, said.world_size, said.members_hash, said.master_addr)
                self._oracle.must(
                    facts == (known.number, known.size, known.world, known.hash, known.addr), f"{said} of {known}"
                )
                self._oracle.must(known.seats.get(agent.name) == (said.slot, said.base_rank), f"{said} of {known}")
            self._oracle.must(
                (said.round, said.token) == (claim.round, claim.token)
                or (said.round > claim.round and said.token > claim.token),
                f"{agent.name} was in {claim.round}/{claim.token}, and is given {said.round}/{said.token}",
            )
            known_to_all = self._oracle.history.whole
            self._oracle.must(
                said.charged >= claim.charged or not known_to_all, f"{agent.name} knew of {claim.charged} charges"
            )
        elif isinstance(said, Waiting):
            self._oracle.must(said.due_ms >= 0, "due is in the future")
        elif isinstance(said, Standing) and now.state == "settled":
            self._oracle.must((now.round, now.token) == (claim.round, claim.token), "what stands is what was claimed")

    def _remembers(self, nonce: str, claim: Claim) -> None:
        """What an agent knows never goes back: rounds, tokens, and charges that were not forgiven."""
        ours = {charge.id for charge in claim.ledger.charges}
        number, token, forgiven, charges = self.knew.get(nonce, (0, 0, 0, set()))
        self._oracle.must(claim.round >= number and claim.token >= token, f"{nonce} knew {number}/{token}, now {claim}")
        self._oracle.must(claim.ledger.forgiven != forgiven or charges <= ours, f"{nonce} knew {charges}, now {ours}")
        self.knew[nonce] = claim.round, claim.token, claim.ledger.forgiven, ours

    def _within_budget(self, ages_ms: list[int]) -> None:
        """Nobody hears of a charge that is one too many by all that it knows; on clocks that nobody has set."""
        most, per_s = self._oracle.rules.budget.max, self._oracle.rules.budget.per_s
        if most is not None and per_s is not None and not self.clock_set:
            recent = [age_ms for age_ms in ages_ms if age_ms < per_s * 1000 - 1000]
            self._oracle.must(len(recent) <= most, f"{len(recent)} charges within {per_s} s")
