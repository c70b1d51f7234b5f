"""A terminal that remembers what it was told, and records to tell it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.cli.terminal import Terminal
from orchestrator.core.policies import StopPolicy
from orchestrator.core.specs import GroupSpec, JobSpec, LogsKind, LogsSpec, NodeSpec, RendezvousKind, RendezvousSpec
from tests.core.specs import group


def job(spec: GroupSpec) -> JobSpec:
    return JobSpec(
        run_id="j1",
        run_dir="runs/j1/a",
        node=NodeSpec(name="a"),
        groups=(spec,),
        rendezvous=RendezvousSpec(
            kind=RendezvousKind.EMBEDDED,
            join_timeout_s=600,
            last_call_s=1,
            lease_s=5,
            scale_up_s=10,
            server_grace_s=600,
        ),
        stop=StopPolicy(signal=15, grace_s=30, kill_wait_s=10),
        logs=LogsSpec(kind=LogsKind.TEE, dir="logs", prefix="[{role}{rank}] "),
    )


class Told:
    """A terminal that remembers what it was told, as text and as (text, style)."""

    def __init__(
        self, spec: GroupSpec | None = None, *, colour: bool = False, level: str | int = "INFO", url: str | None = None,
        logs: LogsKind = LogsKind.TEE, console: frozenset[int] | None = None, stop: StopPolicy | None = None,
    ) -> None:  # fmt: skip
        whole = job(spec or group())
        whole = replace(
            whole,
            rendezvous=replace(whole.rendezvous, url=url),
            logs=replace(whole.logs, kind=logs, console=console),
            stop=stop or whole.stop,
        )
        self.styled: list[tuple[str, str | None]] = []
        self.statuses: list[str | None] = []
        self.terminal = Terminal(self, colour=colour, job=whole, level=level)

    def say(self, text: str, style: str | None = None, *, masked: bool = True) -> None:
        self.styled.append((text, style))

    def status(self, text: str | None) -> None:
        self.statuses.append(text)

    def hear(self, event: str, *, number: int = 1, **fields: object) -> list[str]:
        before = len(self.styled)
        self.terminal({"ts": 1.0, "mono": 1.0, "run_id": "j1", "group": "default", "node": "a", "round": number,
                       "event": event, **fields})  # fmt: skip
        return [text for text, _ in self.styled[before:]]

    @property
    def text(self) -> list[str]:
        return [text for text, _ in self.styled]


def settled(**given: object) -> dict[str, Any]:
    return {"world_size": 8, "nodes": 2, "group_rank": 0, "base_rank": 0, "charged": 0, "why": "first", **given}


def transition(before: str, after: str, on: str, reason: str) -> dict[str, Any]:
    return {"from": before, "to": after, "on": on, "reason": reason}
