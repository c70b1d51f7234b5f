"""What a run teaches its watchdog: how long workers that are well are silent, or stay in a section, and what follows.

A limit is known by its key below ``watchdog``. Of each worker the longest and the second longest gap count, and how
many there were; of several workers, nodes and servers each of these is the largest that any has seen. So what is told
twice, late or in another order makes no difference, and one long gap counts as one although all ranks wait for it.

Invariant: while what was learnt holds, a limit is at least OUTLIER times the longest gap that anybody came out of, or
what was configured; and it never falls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.core.policies import LearnPolicy, WatchdogPolicy

SILENCE = "timeout_s"  # the limit of silence
WARM_UP = 3  # gaps of each limit after a worker's start that teach nothing: compilation, caches, the first batch
OUTLIER = 1.5  # times the longest gap: that may have been the only one of its kind, so it is not given the whole factor
NEWS = 1.1  # a gap that is longer by this factor is worth a message to the others


def stay_in(section: str) -> str:
    """The limit of stays in ``section``."""
    return f"sections.{section}.timeout_s"


def configured(policy: WatchdogPolicy) -> dict[str, float]:
    """The limits of a policy, in seconds."""
    return {SILENCE: policy.timeout_s, **{stay_in(section): s for section, s in policy.sections.items()}}


@dataclass(frozen=True, slots=True)
class Gaps:
    """The longest and the second longest gap, in seconds, and how many there were."""

    longest_s: float = 0.0
    second_s: float = 0.0
    count: int = 0

    def seen(self, gap_s: float) -> Gaps:
        """And one more, of the same worker."""
        second_s = max(self.second_s, min(gap_s, self.longest_s))
        return Gaps(max(self.longest_s, gap_s), second_s, self.count + 1)

    def united(self, other: Gaps) -> Gaps:
        """And those of another worker."""
        return Gaps(
            max(self.longest_s, other.longest_s), max(self.second_s, other.second_s), max(self.count, other.count)
        )

    def is_news_to(self, known: Gaps, after: int) -> bool:
        """Whether who knows of ``known`` would judge otherwise, by much, if he knew of these."""
        enough = self.count >= after > known.count
        longer = self.longest_s > NEWS * known.longest_s or self.second_s > NEWS * known.second_s
        return enough or longer


def limit_s(gaps: Gaps, policy: LearnPolicy, configured_s: float) -> float:
    """The limit that these gaps teach: at most, and until there are enough of them, what was configured."""
    if gaps.count < policy.after:
        return configured_s
    return min(configured_s, max(policy.floor_s, policy.factor * gaps.second_s, OUTLIER * gaps.longest_s))


class Learning:
    """What one agent knows of its run's gaps. ``limits`` as they were configured, in seconds; others are not learnt."""

    def __init__(self, policy: LearnPolicy, limits: Mapping[str, float]) -> None:
        self._policy = policy
        self._configured = limits
        self._own: dict[tuple[str, int], Gaps] = {}  # by limit and local rank
        self._told: dict[str, Gaps] = {}  # what the others know of
        self._known = dict.fromkeys(limits, Gaps())
        self._limits = dict(limits)

    def watches(self, limit: str) -> bool:
        """Whether there is such a limit."""
        return limit in self._configured

    @property
    def limits(self) -> Mapping[str, float]:
        """How long each is now, in seconds."""
        return self._limits

    def learnt_s(self, limit: str) -> float | None:
        """How long it is now, if that is shorter than it was configured."""
        found = self._limits[limit]
        return found if found < self._configured[limit] else None

    @property
    def known(self) -> Mapping[str, Gaps]:
        """All that is known of the run."""
        return self._known

    def saw(self, limit: str, local_rank: int, gap_s: float) -> None:
        """A worker of ours has gone on after ``gap_s``, or was stopped although it might have."""
        key = limit, local_rank
        self._own[key] = self._own.get(key, Gaps()).seen(gap_s)
        self._unite(limit, self._own[key])

    def hear(self, told: Mapping[str, Gaps]) -> None:
        """What the others know of, as their server has it: what is not there is known to nobody else any more."""
        self._told = {limit: gaps for limit, gaps in told.items() if limit in self._configured}
        for limit, gaps in self._told.items():
            self._unite(limit, gaps)

    def news(self) -> bool:
        """Whether the others should be told of what is known here."""
        return any(
            gaps.is_news_to(self._told.get(limit, Gaps()), self._policy.after) for limit, gaps in self._known.items()
        )

    def _unite(self, limit: str, gaps: Gaps) -> None:
        self._known[limit] = self._known[limit].united(gaps)
        self._limits[limit] = limit_s(self._known[limit], self._policy, self._configured[limit])
