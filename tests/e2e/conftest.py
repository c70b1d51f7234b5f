"""Launches that are ended when their test is over, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.harness import FAST, Launch, external_server, marked, until
from tests.e2e.nodes import OURS, Node
from tests.edge.servers import Server
from tests.leaks import nothing_is_left

__all__ = ["Launcher", "Nodes", "Start", "launch", "nodes", "nothing_is_left", "server", "start"]

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


Start = Callable[..., Node]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start launchers by the name of their module and torchrun's words; nothing of them outlives the test."""
    mark = uuid.uuid4().hex
    nodes: list[Node] = []

    def begin(module: str, *words: str, env: Mapping[str, str] | None = None) -> Node:
        nodes.append(Node(tmp_path, len(nodes), module, words, {"TEST_MARK": mark, **(env or {})}))
        return nodes[-1]

    yield begin
    if nodes and all(node.ended and node.module == OURS for node in nodes):
        until(lambda: not marked(f"TEST_MARK={mark}"), "the guards of what has ended to be done")
    for pid in marked(f"TEST_MARK={mark}"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for node in nodes:
        node.process.wait(10)
