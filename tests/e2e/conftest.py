"""Launches that are ended, and looked after for leftovers, when their test is over."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Launch, marked, until

Launcher = Callable[..., Launch]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    """Start agents; whatever each of them started carries a mark, and none of it may survive the agents by long."""
    mark = f"ORCHESTRATOR_TEST={uuid.uuid4().hex}"
    started: list[Launch] = []

    def start(*arguments: str, name: str = "", env: dict[str, str] | None = None) -> Launch:
        key, _, value = mark.partition("=")
        launched = Launch(tmp_path / (name or f"node{len(started)}"), arguments, {**(env or {}), key: value})
        started.append(launched)
        return launched

    yield start
    for launched in started:
        launched.end()
    until(lambda: not marked(mark), "processes were left behind", 5)
