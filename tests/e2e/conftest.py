"""Launches that are ended when their test is over, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import FAST, Launch, external_server
from tests.edge.servers import Server
from tests.leaks import nothing_is_left

__all__ = ["Launcher", "Nodes", "launch", "nodes", "nothing_is_left", "server"]

Launcher = Callable[..., Launch]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    """Start agents."""
    started: list[Launch] = []

    def start(*arguments: str, name: str = "", env: dict[str, str] | None = None, wrap: tuple[str, ...] = ()) -> Launch:
        directory = tmp_path / (name or f"node{len(started)}")
        launched = Launch(directory, arguments, env, wrap)
        started.append(launched)
        return launched

    yield start
    for launched in started:
        launched.end()


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
