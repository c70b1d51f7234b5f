"""Specs for tests of the core, with everything that a test does not care about filled in."""

from __future__ import annotations

from orchestrator.core.specs import (
    Backoff,
    Budget,
    GroupSpec,
    RestartKind,
    RestartPolicy,
    Rule,
    WatchdogKind,
    WatchdogPolicy,
    WorkerSpec,
)

BACKOFF = Backoff(initial_s=1, factor=2, max_s=60, jitter=0.1, reset_after_s=300)
AT_ONCE = Backoff(initial_s=0, factor=1, max_s=0, jitter=0, reset_after_s=0)


def policy(
    kind: RestartKind = RestartKind.ON_FAILURE,
    *,
    backoff: Backoff = BACKOFF,
    budget: int | None = 3,
    rules: tuple[Rule, ...] = (),
) -> RestartPolicy:
    return RestartPolicy(
        kind=kind, budget=Budget(max=budget), free=Budget(max=100, per_s=3600), backoff=backoff, rules=rules
    )


def group(
    kind: RestartKind = RestartKind.ON_FAILURE,
    *,
    nodes: tuple[int, int] = (1, 1),
    backoff: Backoff = BACKOFF,
    budget: int | None = 3,
    spares: int = 0,
    watchdog: WatchdogKind = WatchdogKind.DISABLED,
) -> GroupSpec:
    return GroupSpec(
        role="default",
        min_nodes=nodes[0],
        max_nodes=nodes[1],
        worker=WorkerSpec(cmd=("true",), nproc=2),
        restart=policy(kind, backoff=backoff, budget=budget),
        spare_nodes=spares,
        watchdog=WatchdogPolicy(kind=watchdog, timeout_s=30, warmup_s=120),
    )
