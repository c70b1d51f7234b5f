"""An agent's stores, one for each group of its job in which it takes part, and their common last will.

What a store does is `group`'s. Invariant: all stores of an agent have one connection and one nonce.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.core.publication import Publication
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.group import GroupStore
from orchestrator.edge.redis.resp import encode

Will = tuple[dict[str, object], Sequence[bytes]]


def store_of(
    job: JobSpec, group: GroupSpec, connection: Connection, nonce: str, publication: Publication | None = None
) -> GroupStore:
    """The store of one group. ``nonce`` tells this agent process from all others."""
    return GroupStore(
        connection,
        run_id=job.run_id,
        role=group.role,
        node=job.node.name,
        nonce=nonce,
        min_nodes=group.min_nodes,
        max_nodes=group.max_nodes,
        spare_nodes=group.spare_nodes,
        rendezvous=job.rendezvous,
        restart=group.restart,
        publication=publication,
    )


def last_will(stores: Iterable[GroupStore], why: str) -> Will:
    """What the guard of an agent with these groups should send once it has died, and where to."""
    several = list(stores)
    connection = several[0].connection
    words = (*connection.address.greeting(), *(store.will(why) for store in several))
    return connection.will_address(), tuple(encode(*command) for command in words)
