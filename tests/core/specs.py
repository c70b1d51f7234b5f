"""Specs for tests of the core, with everything that a test does not care about filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.core.health import Check, CheckKind, PreflightPolicy, ProbeSpec, ProbesPolicy, ProbeWay
from orchestrator.core.policies import (
    Backoff,
    Budget,
    RestartKind,
    RestartPolicy,
    Rule,
    Scope,
    WatchdogKind,
    WatchdogPolicy,
)
from orchestrator.core.rendezvous import Seat
from orchestrator.core.specs import GroupSpec, Need, WorkerSpec

BACKOFF = Backoff(initial_s=1, factor=2, max_s=60, jitter=0.1, reset_after_s=300)
AT_ONCE = Backoff(initial_s=0, factor=1, max_s=0, jitter=0, reset_after_s=0)

PREFLIGHT = PreflightPolicy(checks=(Check(kind=CheckKind.FDS, timeout_s=30, bound=10),), attempts=3, cooldown_s=10)

PROBES = ProbesPolicy(liveness=ProbeSpec(way=ProbeWay.TCP, port="1"))


def policy(
    kind: RestartKind = RestartKind.ON_FAILURE,
    *,
    backoff: Backoff = BACKOFF,
    budget: int | None = 3,
    rules: tuple[Rule, ...] = (),
    scope: Scope = Scope.GROUP,
) -> RestartPolicy:
    return RestartPolicy(
        kind=kind,
        budget=Budget(max=budget),
        free=Budget(max=100, per_s=3600),
        backoff=backoff,
        rules=rules,
        scope=scope,
    )


def group(
    kind: RestartKind = RestartKind.ON_FAILURE,
    *,
    nodes: tuple[int, int] = (1, 1),
    backoff: Backoff = BACKOFF,
    budget: int | None = 3,
    spares: int = 0,
    preflight: bool = False,
    probes: bool = False,
    watchdog: WatchdogKind = WatchdogKind.DISABLED,
    role: str = "default",
    on: tuple[str, ...] = (),
    depends_on: Mapping[str, Need] | None = None,
    needed: bool = False,
    cascade: bool = False,
    scope: Scope = Scope.GROUP,
    rules: tuple[Rule, ...] = (),
) -> GroupSpec:
    return GroupSpec(
        role=role,
        min_nodes=nodes[0],
        max_nodes=nodes[1],
        worker=WorkerSpec(cmd=("true",), nproc=2),
        restart=policy(kind, backoff=backoff, budget=budget, scope=scope, rules=rules),
        spare_nodes=spares,
        probes=PROBES if probes else None,
        preflight=PREFLIGHT if preflight else None,
        watchdog=WatchdogPolicy(kind=watchdog, timeout_s=30, warmup_s=120),
        on=on,
        depends_on=depends_on or {},
        needed=needed,
        cascade=cascade,
    )


ALONE = Seat(
    round=1,
    token=1,
    slot=0,
    size=1,
    base_rank=0,
    world_size=1,
    members_hash="",
    master_addr="127.0.0.1",
    master_port=1,
    charged=0,
    consecutive=0,
)


def seat(**changes: Any) -> Seat:  # noqa: ANN401 - as `replace` has it
    """The seat of the only member of a first round, but for ``changes``."""
    return replace(ALONE, **changes)
