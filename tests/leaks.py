"""What no test may leave behind: processes, descriptors, cgroups, FIFOs, sockets and keys that would stay for ever.

Directories of tests take part by having `nothing_is_left` in their conftest. Only what this pytest process has started
is judged, however many of them run on the machine: it is the subreaper of its processes, whatever sessions,
environments and parents they have had, and it has a cgroup and a directory for temporary files of its own. Invariant:
a test is judged by what was there before it, never by its name.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from orchestrator.edge.guard import tree
from orchestrator.edge.guard.libc import become_subreaper
from tests.edge.guard.layers import enter, own_cgroup
from tests.edge.servers import Server

PATIENCE_S = 5.0  # within which that which ends by itself, after its test, must have ended
SERVERS = "orch-*"  # the private directories of servers, among the temporary files

Thing = tuple[str, str]  # its kind, and which it is


@dataclass(frozen=True, slots=True)
class Place:
    """Where what this pytest process starts is found: its own cgroup, if it may have one, and its temporary files."""

    cgroup: Path | None
    temporary: Path


@contextlib.contextmanager
def own_place() -> Iterator[Place]:
    """This process in a place of its own, in which nobody else leaves anything."""
    become_subreaper()
    above, before = own_cgroup(), os.environ.get("TMPDIR")
    with contextlib.ExitStack() as undo:
        temporary = tempfile.mkdtemp(prefix="ot-")  # short: sockets are made below it
        undo.callback(shutil.rmtree, temporary)
        undo.callback(_use_temporary, before)
        _use_temporary(temporary)
        group = None
        if above is not None:
            group = above / f"orchestrator-tests.{os.getpid()}"
            group.mkdir()
            undo.callback(group.rmdir)
            undo.callback(_move, group, above)
            enter(group)
        yield Place(group, Path(temporary))


def _use_temporary(directory: str | None) -> None:
    if directory is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = directory
    tempfile.tempdir = None  # it is looked up again


def _move(source: Path, target: Path) -> None:
    """What outlives the tests, such as the helpers of Python's own modules, goes with this process."""
    for pid in (source / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (target / "cgroup.procs").write_text(pid)


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest, own_place_of_tests: Place) -> Iterator[None]:
    """Set up before all else that a test has, and judges when all of that has been torn down."""
    before = look(own_place_of_tests)
    yield
    left = leaks(before, own_place_of_tests, request.node.funcargs.get("tmp_path"))
    assert not left, f"{request.node.nodeid} has left behind:\n" + "\n".join(left)


def leaks(before: set[Thing], place: Place, directory: Path | None = None, patience_s: float = PATIENCE_S) -> list[str]:
    """What is there and was not, once it had time to go; processes among it are killed, so that no other test has them.

    ``directory`` is the test's own, where there was nothing before.
    """
    _reap(before)
    deadline = time.monotonic() + patience_s
    while left := look(place, directory) - before:
        if time.monotonic() > deadline:
            break
        gc.collect()  # a descriptor in a cycle of objects is closed by and by
        time.sleep(0.01)
    described = sorted(_describe(thing) for thing in left)
    for kind, name in left:
        if kind == "process":
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(name), signal.SIGKILL)
    return described


def look(place: Place, directory: Path | None = None) -> set[Thing]:
    """All that there is. What a test may have is found together with what pytest itself has."""
    found = {("process", str(pid)) for pid, _ in tree.descendants(os.getpid()) if _lives(pid)}
    found |= {("descriptor", name) for name in _descriptors()}
    found |= {("key without TTL", key) for server in Server.running for key in _eternal(server)}
    if place.cgroup is not None:
        found |= {("cgroup", entry.path) for entry in os.scandir(place.cgroup) if entry.is_dir()}
    found |= {("server's directory", str(path)) for path in place.temporary.glob(SERVERS)}
    for root in filter(None, (place.temporary, directory)):
        found |= set(_special(root))
    return found


def _lives(pid: int) -> bool:
    process = tree.look(pid)
    return process is not None and process.alive


def _descriptors() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - cheap, as it is done twice for every test
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            yield f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}"  # noqa: PTH115


def _special(root: Path) -> Iterator[Thing]:
    """The FIFOs and sockets below a directory."""
    queue = [str(root)]
    for directory in queue:
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue  # it goes away under our eyes
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                queue.append(entry.path)
            elif not (entry.is_symlink() or entry.is_file(follow_symlinks=False)):
                path = Path(entry.path)
                if path.is_fifo() or path.is_socket():
                    yield ("FIFO" if path.is_fifo() else "socket"), entry.path


def _eternal(server: Server) -> Iterator[str]:
    """The keys of a running server that would never go away."""
    for line in server.say("INFO", "keyspace").decode().splitlines():
        database, _, fields = line.partition(":")
        if not fields:
            continue
        counts = dict(field.split("=") for field in fields.split(","))
        if counts["keys"] != counts["expires"]:
            with redis.Redis.from_url(server.local_url, db=int(database.removeprefix("db"))) as client:
                for key in client.scan_iter(count=1000):
                    if client.pttl(key) == -1:
                        yield f"{key.decode(errors='replace')} in {database} of {server.local_url}"


def _reap(before: set[Thing]) -> None:
    """Collect those who have died as orphans: init would have done it, had they not come to us."""
    for pid in tree.children(os.getpid()):
        if ("process", str(pid)) not in before and not _lives(pid):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _describe(thing: Thing) -> str:
    kind, name = thing
    if kind != "process":
        return f"{kind}: {name}"
    command = tree.read(f"/proc/{name}/cmdline").replace(b"\0", b" ").decode(errors="replace")
    return f"{kind}: {name}: {command[:200].strip() or 'without a command'}"
