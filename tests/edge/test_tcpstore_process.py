"""The store's process, when whoever has started it ends."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.edge.tcpstore import process
from tests.edge.procs import GENEROUS_S

Started = tuple["subprocess.Popen[bytes]", socket.socket]


@pytest.fixture
def store() -> Iterator[Started]:
    """The process, and the agent's end of its control socket."""
    ours, theirs = socket.socketpair()
    main = str(Path(process.__file__).with_name("__main__.py"))
    words = [sys.executable, "-I", "-S", main, str(theirs.fileno())]
    with ours, subprocess.Popen(words, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as started:
        theirs.close()
        yield started, ours
        started.kill()


def ends_quietly(started: subprocess.Popen[bytes]) -> bool:
    _, said = started.communicate(timeout=GENEROUS_S)
    return (started.returncode, said) == (0, b"")


def test_it_ends_without_a_word_when_the_agent_does_before_it_has_said_anything(store: Started) -> None:
    started, ours = store
    ours.close()
    assert ends_quietly(started)


def test_it_ends_without_a_word_when_nobody_reads_its_complaints_any_more(store: Started) -> None:
    started, ours = store
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.send_fds(ours, [b"!"], [listener.fileno()])
        with socket.create_connection(listener.getsockname()) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            ours.recv(1, socket.MSG_PEEK)  # it has complained
    ours.close()
    assert ends_quietly(started)
