"""What an agent shows of itself to whoever asks for its health: one immutable value, and its two spellings.

Made by the agent's loop and read by any thread. Invariant: whoever has a snapshot has all of it, of one moment; nobody
reaches from here into the agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.core.failures import Failure
from orchestrator.core.words import State, worker_state

Samples = Iterable[tuple[Mapping[str, str], float | None]]
Family = tuple[str, str, str, Samples]

_HAS_ROUND = frozenset({State.STARTING, State.HEALTHY, State.DRAINING, State.STOPPING, State.DECIDING, State.FINISHING})


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One local worker. ``pid`` is None until it was started."""

    rank: int
    local_rank: int
    pid: int | None
    running: bool
    ready: bool = True  # by its probes, if it has any


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One agent at one moment. Times are seconds of the epoch; what nobody knows is None."""

    run_id: str
    group: str
    node: str
    started: float  # when the agent's process took up the job
    since: float  # when it came into this state
    state: State = State.INIT
    round: int = 0  # the round that we are in; 0 while we are joining one
    rounds: int = 0  # so far
    nodes: int | None = None
    group_rank: int | None = None
    world_size: int | None = None
    workers: tuple[WorkerView, ...] = ()
    charged: int = 0
    remaining: int | None = None  # charged restarts that are left; None: no bound, or not known here
    failures: int = 0  # of local workers
    last_failure: Failure | None = None
    lease_lag_s: float | None = None
    journal_dropped: int = 0
    others: tuple[Snapshot, ...] = ()  # the same agent's other groups

    @property
    def groups(self) -> tuple[Snapshot, ...]:
        """All groups of the agent."""
        return (self, *self.others)

    @property
    def unready(self) -> str:
        """Why this agent's groups do not do their work now, as far as this node goes; empty if they do."""
        if not self.others:
            return _unready(self)
        at_work = [one for one in self.groups if one.state is not State.SUCCEEDED]  # what is done is no trouble
        return "; ".join(f"{one.group}: {why}" for one in at_work or self.groups if (why := _unready(one)))

    @property
    def running(self) -> int:
        """How many local workers run."""
        return sum(worker.running for worker in self.workers)

    def to_dict(self, now: float) -> dict[str, Any]:
        """The object of /status. Failures in short: the rest is in result.json.

        Several groups are in ``groups``; what stands beside that is of the first one.
        """
        groups = [_group_dict(one, now) for one in self.groups]
        if not self.others:
            return groups[0]
        return {**groups[0], "ready": not self.unready, "groups": groups}


def in_round(state: State) -> bool:
    """Whether a round's numbers mean something in this state."""
    return state in _HAS_ROUND


def _unready(shown: Snapshot) -> str:
    """Why one group does not do its work."""
    if shown.state is not State.HEALTHY:
        return f"the group is {shown.state}"
    ranks = [str(worker.rank) for worker in shown.workers if worker.running and not worker.ready]
    return f"rank {', '.join(ranks)} is not ready" if ranks else ""


def _group_dict(shown: Snapshot, now: float) -> dict[str, Any]:
    last = shown.last_failure
    return {
        "run_id": shown.run_id,
        "group": shown.group,
        "node": shown.node,
        "state": shown.state.value,
        "worker_state": worker_state(shown.state).value,
        "ready": not _unready(shown),
        "since": round(shown.since, 3),
        "uptime_s": round(now - shown.started, 3),
        "round": shown.round,
        "rounds": shown.rounds,
        "nodes": shown.nodes,
        "group_rank": shown.group_rank,
        "world_size": shown.world_size,
        "workers": [asdict(worker) for worker in shown.workers],
        "restarts": {"charged": shown.charged, "remaining": shown.remaining},
        "failures": {"count": shown.failures, "last": _brief(last) if last is not None else None},
        "lease_lag_s": shown.lease_lag_s,
        "journal_dropped": shown.journal_dropped,
    }


def _brief(failure: Failure) -> dict[str, Any]:
    names = ("kind", "node", "rank", "round", "pid", "exit_code", "signal", "error_type", "message", "at")
    return {name: getattr(failure, name) for name in names}


def metrics(shown: Snapshot, now: float, alive: bool) -> str:
    """The text of /metrics, in Prometheus' exposition format 0.0.4; what is not known has no sample."""
    of_each = [_families(one, now, alive) for one in shown.groups]
    lines: list[str] = []
    for same in zip(*of_each, strict=True):  # a family of each group: its samples stand together
        name, kind, meaning, _ = same[0]
        lines += _family(name, kind, meaning, [sample for _, _, _, samples in same for sample in samples])
    return "\n".join(lines) + "\n"


def _families(shown: Snapshot, now: float, alive: bool) -> list[Family]:
    own = {"group": shown.group}
    return [
        ("info", "gauge", "This agent.", [({"run_id": shown.run_id, "node": shown.node, **own}, 1)]),
        ("alive", "gauge", "Whether the agent's loop turns, as /livez tells it.", [(own, alive)]),
        ("ready", "gauge", "Whether the group does its work, as /readyz tells it.", [(own, not _unready(shown))]),
        (
            "state",
            "gauge",
            "Where the group is: 1 for that state, 0 for all others.",
            [({**own, "state": state.value}, state is shown.state) for state in State],
        ),
        ("round", "gauge", "The round that this agent is in; 0 between rounds.", [(own, shown.round)]),
        ("rounds_total", "counter", "Rounds that this agent was in.", [(own, shown.rounds)]),
        ("nodes", "gauge", "Nodes of the round.", [(own, shown.nodes)]),
        ("world_size", "gauge", "Workers of the round, on all nodes.", [(own, shown.world_size)]),
        ("workers_running", "gauge", "Workers that run on this node.", [(own, shown.running)]),
        (
            "worker_ready",
            "gauge",
            "Whether a worker does its work, by its probes.",
            [({**own, "rank": str(worker.rank)}, worker.ready) for worker in shown.workers],
        ),
        ("restarts_charged_total", "counter", "Restarts charged to the run.", [(own, shown.charged)]),
        ("restarts_remaining", "gauge", "Charged restarts that are left.", [(own, shown.remaining)]),
        ("failures_total", "counter", "Failures of this node's workers.", [(own, shown.failures)]),
        ("uptime_seconds", "gauge", "Since the agent took up the job.", [(own, max(0.0, now - shown.started))]),
        ("state_seconds", "gauge", "Since the group came into its state.", [(own, max(0.0, now - shown.since))]),
        ("lease_lag_seconds", "gauge", "By how much the agent's loop turns late.", [(own, shown.lease_lag_s)]),
        ("journal_dropped_total", "counter", "Records that the journal has lost.", [(own, shown.journal_dropped)]),
    ]


def _family(name: str, kind: str, meaning: str, samples: Samples) -> Iterable[str]:
    known = [(labels, value) for labels, value in samples if value is not None]
    if not known:
        return
    full = f"orchestrator_{name}"
    yield f"# HELP {full} {meaning}"
    yield f"# TYPE {full} {kind}"
    for labels, value in known:
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{full}{{{pairs}}} {float(value):g}" if isinstance(value, float) else f"{full}{{{pairs}}} {int(value)}"


def _escaped(text: str) -> str:
    """A label's value: backslash, quote and line feed are the characters that need it."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
