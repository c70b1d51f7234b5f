"""Which processors each worker gets: shares, NUMA nodes, and how they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.process import cpu_list
from orchestrator.core.affinity import by_node, ranges, spread

CPUS = st.frozensets(st.integers(0, 300), min_size=1, max_size=64)
WORKERS = st.integers(1, 80)


@pytest.mark.parametrize(
    ("cpus", "workers", "shares"),
    [
        (range(8), 4, ["0-1", "2-3", "4-5", "6-7"]),
        (range(8), 3, ["0-1", "2-4", "5-7"]),
        ([0, 1, 8, 9], 2, ["0-1", "8-9"]),
        (range(2), 4, ["0", "0", "1", "1"]),
        ([5], 2, ["5", "5"]),
    ],
)
def test_processors_are_shared_out_in_order(cpus: list[int], workers: int, shares: list[str]) -> None:
    assert [ranges(share) for share in spread(cpus, workers)] == shares


@given(CPUS, WORKERS)
def test_shares_are_even_contiguous_and_use_everything(cpus: frozenset[int], workers: int) -> None:
    shares = spread(cpus, workers)
    ordered = sorted(cpus)
    assert len(shares) == workers
    assert frozenset().union(*shares) == cpus
    sizes = {len(share) for share in shares}
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    for share in shares:
        at = ordered.index(min(share))
        assert sorted(share) == ordered[at : at + len(share)]
    if workers <= len(cpus):
        assert sum(map(len, shares)) == len(cpus)


@pytest.mark.parametrize(
    ("nodes", "cpus", "workers", "shares"),
    [
        ([range(4), range(4, 8)], range(8), 4, ["0-3", "0-3", "4-7", "4-7"]),
        ([range(4), range(4, 8)], range(8), 3, ["0-3", "0-3", "4-7"]),
        ([range(4), range(4, 8)], range(8), 1, ["0-3"]),
        ([range(4), [], range(4, 8)], [2, 3, 4], 2, ["2-3", "4"]),  # a node of memory alone, and a cpuset
        ([range(4), range(4, 8)], [6, 7], 2, ["6-7", "6-7"]),
        ([], range(4), 2, ["0-3", "0-3"]),
    ],
)
def test_each_worker_has_one_node(nodes: list[list[int]], cpus: list[int], workers: int, shares: list[str]) -> None:
    assert [ranges(share) for share in by_node(nodes, cpus, workers)] == shares


@given(st.lists(CPUS, max_size=8), CPUS, WORKERS)
def test_nodes_are_taken_in_order_by_as_many_workers_each(
    nodes: list[frozenset[int]], cpus: frozenset[int], workers: int
) -> None:
    shares = by_node(nodes, cpus, workers)
    assert len(shares) == workers
    assert all(share and share <= cpus for share in shares)
    usable = [node & cpus for node in nodes if node & cpus]
    if usable and workers % len(usable) == 0:
        assert list(shares) == [node for node in usable for _ in range(workers // len(usable))]


@given(CPUS)
def test_ranges_are_what_the_kernel_writes(cpus: frozenset[int]) -> None:
    assert cpu_list(f"{ranges(cpus)}\n") == cpus
