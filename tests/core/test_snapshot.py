"""What an agent shows of itself, in JSON and in Prometheus' text."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from orchestrator.core.failures import Failure
from orchestrator.core.snapshot import Snapshot, WorkerView, metrics
from orchestrator.core.words import State

AT = Snapshot(run_id="j1", group="default", node="a", started=100.0, since=150.0)
BUSY = replace(
    AT,
    state=State.HEALTHY,
    round=3,
    rounds=2,
    nodes=2,
    group_rank=1,
    world_size=4,
    workers=(WorkerView(2, 0, 11, True), WorkerView(3, 1, None, False)),
    charged=1,
    remaining=2,
    failures=1,
    last_failure=Failure(kind="exited", group="default", node="a", rank=2, local_rank=0, round=2, exit_code=3),
    lease_lag_s=0.25,
)
_SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\} (-?[0-9.e+]+)')


def samples(text: str) -> dict[tuple[str, str], float]:
    """Every sample, by its name and labels; a line that is neither a sample nor a comment does not pass."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("# "):
            match = _SAMPLE.fullmatch(line)
            assert match, line
            found[match[1], match[2]] = float(match[3])
    return found


@pytest.mark.parametrize("state", State)
def test_only_a_healthy_group_is_ready(state: State) -> None:
    assert (replace(AT, state=state).unready == "") is (state is State.HEALTHY)


def test_a_running_worker_that_is_not_ready_makes_the_group_so() -> None:
    assert replace(BUSY, workers=(WorkerView(2, 0, 11, True, False),)).unready == "rank 2 is not ready"
    assert replace(BUSY, workers=(WorkerView(2, 0, 11, False, False),)).unready == "", "it has succeeded before others"


def test_metrics_show_each_state_once_and_exactly_one_is_set() -> None:
    found = samples(metrics(BUSY, 200.0, alive=True))
    states = {labels: value for (name, labels), value in found.items() if name == "orchestrator_state"}
    assert len(states) == len(State)
    assert sum(states.values()) == 1
    assert states['group="default",state="HEALTHY"'] == 1


def test_metrics_hold_what_is_known_and_nothing_else() -> None:
    found = samples(metrics(BUSY, 200.0, alive=True))
    own = 'group="default"'
    assert found["orchestrator_round", own] == 3
    assert found["orchestrator_world_size", own] == 4
    assert found["orchestrator_workers_running", own] == 1
    assert found["orchestrator_restarts_charged_total", own] == 1
    assert found["orchestrator_restarts_remaining", own] == 2
    assert found["orchestrator_uptime_seconds", own] == 100
    assert found["orchestrator_lease_lag_seconds", own] == 0.25
    unknown = {name for name, _ in samples(metrics(AT, 200.0, alive=False))}
    assert not unknown & {
        "orchestrator_world_size",
        "orchestrator_restarts_remaining",
        "orchestrator_lease_lag_seconds",
    }


def test_each_family_has_its_help_and_type_before_its_samples() -> None:
    lines = metrics(BUSY, 200.0, alive=True).splitlines()
    described: set[str] = set()
    for at, line in enumerate(lines):
        if line.startswith("# TYPE "):
            assert lines[at - 1].startswith(f"# HELP {line.split()[2]} ")
            described.add(line.split()[2])
        elif not line.startswith("#"):
            assert line.partition("{")[0] in described


def test_labels_are_escaped() -> None:
    odd = replace(AT, node='a"b\\c\nd')
    assert r'node="a\"b\\c\nd"' in metrics(odd, 200.0, alive=True)
    assert samples(metrics(odd, 200.0, alive=True))


def test_the_status_has_the_round_the_workers_and_the_last_failure_in_short() -> None:
    told = BUSY.to_dict(200.0)
    assert (told["state"], told["worker_state"], told["round"], told["ready"]) == ("HEALTHY", "HEALTHY", 3, True)
    assert told["workers"][0] == {"rank": 2, "local_rank": 0, "pid": 11, "running": True, "ready": True}
    assert told["restarts"] == {"charged": 1, "remaining": 2}
    assert (told["failures"]["count"], told["failures"]["last"]["exit_code"]) == (1, 3)
    assert "last_lines" not in told["failures"]["last"]
    assert (told["since"], told["uptime_s"]) == (150.0, 100.0)
