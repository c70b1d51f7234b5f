"""Which processors each local worker may use. Numbers go in and come out; nobody is asked, and nothing is set.

Invariant: there is one set for each worker, none is empty, and none holds a processor that was not given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

Cpus = frozenset[int]


def spread(cpus: Collection[int], workers: int) -> tuple[Cpus, ...]:
    """Each worker's share: neighbours, in order, as evenly as possible. Where there are too few, workers share one."""
    ordered = sorted(cpus)
    count = len(ordered)
    bounds = [(rank * count // workers, (rank + 1) * count // workers) for rank in range(workers)]
    return tuple(frozenset(ordered[low : max(high, low + 1)]) for low, high in bounds)


def by_node(nodes: Sequence[Collection[int]], cpus: Collection[int], workers: int) -> tuple[Cpus, ...]:
    """Each worker gets all processors of one NUMA node, neighbouring workers the same one or the next.

    ``nodes`` are the machine's; what of them is not in ``cpus`` is not used. Without any, there is one node.
    """
    usable = [found for node in nodes if (found := frozenset(node) & frozenset(cpus))] or [frozenset(cpus)]
    return tuple(usable[rank * len(usable) // workers] for rank in range(workers))


def ranges(cpus: Collection[int]) -> str:
    """As people and the kernel write it: ``0-3,8``."""
    ordered = sorted(cpus)
    starts = [cpu for cpu in ordered if cpu - 1 not in cpus]
    ends = [cpu for cpu in ordered if cpu + 1 not in cpus]
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in zip(starts, ends, strict=True))
