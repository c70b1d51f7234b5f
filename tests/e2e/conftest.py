"""Launches that are ended, and looked after for leftovers, when their test is over."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import FAST, Launch, external_server, marked, until
from tests.edge.servers import Server

Launcher = Callable[..., Launch]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    """Start agents; whatever each of them started carries a mark, and none of it may survive the agents by long."""
    mark = f"ORCHESTRATOR_TEST={uuid.uuid4().hex}"
    started: list[Launch] = []

    def start(*arguments: str, name: str = "", env: dict[str, str] | None = None, wrap: tuple[str, ...] = ()) -> Launch:
        key, _, value = mark.partition("=")
        directory = tmp_path / (name or f"node{len(started)}")
        launched = Launch(directory, arguments, {**(env or {}), key: value}, wrap)
        started.append(launched)
        return launched

    yield start
    for launched in started:
        launched.end()
    until(lambda: not marked(mark), "processes were left behind", 5)


class Nodes:
    """Starts agents of one run."""

    def __init__(self, launch: Launcher, url: str) -> None:
        self._launch = launch
        self._url = url

    def start(
        self,
        name: str,
        *arguments: str,
        directory: str = "",
        env: dict[str, str] | None = None,
        wrap: tuple[str, ...] = (),
    ) -> Launch:
        common = ("run_id=j1", f"rendezvous.url={self._url}", f"node.name={name}", *FAST)
        return self._launch(*common, *arguments, name=directory or name, env=env, wrap=wrap)


@pytest.fixture
def server() -> Iterator[Server]:
    with external_server() as running:
        yield running


@pytest.fixture
def nodes(launch: Launcher, server: Server) -> Nodes:
    return Nodes(launch, server.url)
