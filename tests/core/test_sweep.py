"""A sweep as data: which job is best, what counts as done, and sweep.json both ways."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.sweep import Curve, JobState, Sweep, SweepJob, extended, from_dict, to_dict

TEXTS = st.text(max_size=8)
NUMBERS = st.none() | st.floats(allow_nan=False)
JOBS = st.builds(
    SweepJob,
    n=st.integers(0, 9),
    key=TEXTS,
    overrides=st.lists(TEXTS, max_size=2).map(tuple),
    params=st.dictionaries(TEXTS, st.none() | st.booleans() | st.integers() | TEXTS, max_size=2),
    state=st.sampled_from(JobState),
    value=NUMBERS,
    attempts=st.integers(0, 3),
    dir=TEXTS,
    started_at=st.none() | st.floats(0, 2e9),
    seconds=st.none() | st.floats(0, 1e6),
    message=TEXTS,
    run_id=TEXTS,
    curve=st.lists(st.tuples(st.integers(0, 99), st.floats(allow_nan=False)), max_size=3).map(tuple),
)
SWEEPS = st.builds(
    Sweep,
    name=TEXTS,
    jobs=st.lists(JOBS, max_size=4).map(tuple),
    objective=st.none() | TEXTS,
    direction=st.sampled_from(["minimize", "maximize"]),
    slots=st.integers(1, 9),
    expected=st.none() | st.integers(0, 9),
    started_at=st.none() | st.floats(0, 2e9),
    params=st.lists(TEXTS, max_size=3).map(tuple),
)


def job(n: int, state: JobState = JobState.SUCCEEDED, value: float | None = None) -> SweepJob:
    """A job with little to it."""
    return SweepJob(n=n, key=f"k{n}", overrides=(), params={}, state=state, value=value)


@given(SWEEPS)
def test_what_is_written_is_read_back_as_it_was(sweep: Sweep) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(sweep), allow_nan=False))) == sweep


def test_no_number_is_kept_as_that() -> None:
    back = from_dict(json.loads(json.dumps(to_dict(Sweep(name="s", jobs=(job(0, value=math.nan),))), allow_nan=False)))
    assert back.jobs[0].value is not None
    assert math.isnan(back.jobs[0].value)


def test_the_best_is_the_first_of_those_that_succeeded_with_the_best_value() -> None:
    jobs = (
        job(0, value=math.nan),
        job(1, value=3.0),
        job(2, JobState.PRUNED, 0.5),
        job(3, value=1.0),
        job(4, value=1.0),
        job(5, JobState.FAILED, 0.1),
        job(6),
    )
    least, most = Sweep(name="s", jobs=jobs), Sweep(name="s", jobs=jobs, direction="maximize")
    assert least.best == jobs[3]
    assert most.best == jobs[1]
    assert to_dict(least)["best"] == {"n": 3, "value": 1.0, "overrides": []}
    assert Sweep(name="s", jobs=(job(6),)).best is None


@pytest.mark.parametrize("state", JobState)
def test_only_success_and_pruning_count_as_done(state: JobState) -> None:
    sweep = Sweep(name="s", jobs=(job(0), job(1, state)))
    assert sweep.exit_code == (0 if state in (JobState.SUCCEEDED, JobState.PRUNED) else 1)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"jobs": None}, "sweep.json.jobs"),
        ({"jobs": [3]}, r"jobs\[0\]"),
        ({"name": 3}, "sweep.json.name"),
        ({"slots": True}, "sweep.json.slots"),
        ({"started_at": "soon"}, "sweep.json.started_at"),
        ({"jobs": [{**to_dict(Sweep(name="s", jobs=(job(0),)))["jobs"][0], "state": "odd"}]}, r"jobs\[0\].state"),
        ({"jobs": [{**to_dict(Sweep(name="s", jobs=(job(0),)))["jobs"][0], "params": []}]}, r"jobs\[0\].params"),
        ({"jobs": [{**to_dict(Sweep(name="s", jobs=(job(0),)))["jobs"][0], "curve": [[1]]}]}, r"jobs\[0\].curve"),
    ],
)
def test_what_is_no_sweep_is_refused_by_its_place(change: dict[str, object], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        from_dict({**to_dict(Sweep(name="s")), **change})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"sweep\.json\.jobs: is missing"):
        from_dict({"name": "s"})


def test_a_curve_rises_by_its_steps_and_stays_short() -> None:
    curve: Curve = ()
    for step in (1, 2, 2, 1, 5):
        curve = extended(curve, step, step / 10)
    assert curve == ((1, 0.1), (2, 0.2), (5, 0.5))
    assert extended(curve, True, 1.0) == extended(curve, "6", 1.0) == extended(curve, None, 1.0) == curve
    for step in range(6, 5000):
        curve = extended(curve, step, step / 10)
        assert len(curve) <= 400
        assert curve[-1] == (step, step / 10)
    assert [step for step, _ in curve] == sorted({step for step, _ in curve})
