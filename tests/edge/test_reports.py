"""What workers report while they run is heard, however they write it, and no longer than it is wished."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.edge.reports import Reports
from orchestrator.worker import report

PATIENCE_S = 10.0


async def until(what: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_S):
        while not what():  # noqa: ASYNC110 - of what other threads and the kernel do
            await asyncio.sleep(0.005)


def test_what_is_reported_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_RESULT_FILE", str(tmp_path / "result.json"))
    heard: list[Mapping[str, Any]] = []

    async def follow() -> None:
        report(loss=4)
        reports = Reports()
        number = reports.follow(tmp_path, heard.append)
        await until(lambda: heard == [{"loss": 4}])
        report(loss=3, step=1)  # by a file that takes the other's place
        await until(lambda: heard[-1] == {"loss": 3, "step": 1})
        (tmp_path / "result.json").write_text('{"loss": 2}')  # as a shell would
        await until(lambda: heard[-1] == {"loss": 2})
        (tmp_path / "result.json").write_text("{")  # no report, and no harm
        (tmp_path / "stdout.log").write_text("x")
        report(loss=1)
        reports.leave(number)
        assert heard[-1] == {"loss": 1}, "the last one is never missed"
        count = len(heard)
        report(loss=0)
        reports.leave(number)
        reports.close()
        assert len(heard) == count

    asyncio.run(follow())


def test_a_worker_that_reports_all_the_time_is_heard_now_and_then(tmp_path: Path) -> None:
    heard: list[int] = []

    async def follow() -> None:
        reports = Reports()
        number = reports.follow(tmp_path, lambda values: heard.append(values["step"]))
        for step in range(500):
            (tmp_path / "result.json").write_text(json.dumps({"step": step}))
            await asyncio.sleep(0)
        await until(lambda: bool(heard) and heard[-1] == 499)
        reports.leave(number)
        reports.close()

    asyncio.run(follow())
    assert heard == sorted(heard)
    assert len(heard) < 250


def test_one_that_leaves_because_of_another_is_not_heard(tmp_path: Path) -> None:
    heard: list[str] = []

    async def follow() -> None:
        reports = Reports()
        numbers: dict[str, int] = {}

        def hear(name: str, other: str, _values: Mapping[str, Any]) -> None:
            heard.append(name)
            if other in numbers:
                reports.leave(numbers.pop(other))

        for name, other in (("a", "b"), ("b", "a")):
            (tmp_path / name).mkdir()
            numbers[name] = reports.follow(tmp_path / name, partial(hear, name, other))
        for name in ("a", "b"):
            (tmp_path / name / "result.json").write_text("{}")
        await until(lambda: len(heard) >= 2)
        reports.close()

    asyncio.run(follow())
    assert sorted(set(heard)) == ["a", "b"], "each had a last look at most"


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    async def follow() -> None:
        reports = Reports()
        with pytest.raises(OSError, match="No such file"):
            reports.follow(tmp_path / "none", lambda _: None)
        reports.close()

    asyncio.run(follow())
