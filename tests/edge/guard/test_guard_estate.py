"""What a killed agent leaves in the file system, and what only looks like it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.edge.guard import estate


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        yield path, listener
    path.unlink(missing_ok=True)


def test_a_pipe_goes_if_nobody_reads_it(pipe: Path) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    estate.remove(str(pipe))
    assert pipe.is_fifo()
    os.close(reader)
    estate.remove(str(pipe))
    assert not pipe.exists()


def test_a_socket_goes_if_nobody_listens_on_it(bound: tuple[Path, socket.socket]) -> None:
    path, listener = bound
    listener.listen()
    estate.remove(str(path))
    assert path.is_socket()
    listener.close()
    estate.remove(str(path))
    assert not path.exists()


def test_nothing_else_is_touched(tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(pipe)
    for name in ("file", "link", "missing", "."):
        estate.remove(str(tmp_path / name))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "link", "pipe"]
