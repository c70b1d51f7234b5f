"""Has the job of a run on its server, for whoever joins by it or asks; a run that has another job will not have us.

What a publication holds is `core.publication`'s. Invariant: nothing is sent unless the server may not have it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orchestrator.core.policies import RestartPolicy
from orchestrator.core.publication import Publication, other_job
from orchestrator.edge.redis import replies
from orchestrator.edge.redis.arguments import budget_words

Send = Callable[..., Awaitable[object]]  # the command ``publish`` with these words


@dataclass(slots=True)
class Publisher:
    """One agent's, for one role. ``reopens``: until it has been published, it continues a run that has ended."""

    run_id: str
    role: str
    publication: Publication | None
    restart: RestartPolicy
    reopens: bool
    _published: int | None = None  # before the outage of this number

    def forget(self) -> None:
        """The server may have forgotten everything."""
        self._published = None

    async def publish(self, outages: int, send: Send) -> None:
        """Publish it, unless that was done after so many outages of the server."""
        if self.publication is None or self._published == outages:
            return
        ours, budget = self.publication, budget_words(self.restart.budget)
        for text in ("", ours.text):  # it is long, and nearly always there already
            raw = await send(self.role, ours.digest, text, *budget, int(self.reopens))
            known, theirs = replies.publish_reply(raw)
            if theirs is not None:
                raise other_job(self.run_id, ours, theirs)
            if known:
                self._published, self.reopens = outages, False
                return
