"""Containment by cgroup v2: a fresh leaf for every process tree, which no fork leaves and one write kills.

Who is killed when is decided elsewhere. Invariant: a leaf holds one tree only and is never used again, because what is
born into a cgroup whose ``cgroup.kill`` was ever written dies at once.

A guard's leaves stand in a directory of its own, ``orchestrator.<namespaces>.<pid>.<start>``, beside nothing but the
processes that were in its cgroup already. Its name tells whoever finds it whether that guard still lives.
"""

from __future__ import annotations

import os
import signal
from errno import EMFILE, ENFILE

from orchestrator.edge.guard import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "orchestrator."
_PASSES = 20  # looks at a cgroup that forks while its processes are killed one by one


def own_directory() -> str | None:
    """Where the cgroup of this process is; None where there is no cgroup2, or not ours."""
    return directory(_text("/proc/self/cgroup"), _text("/proc/self/mountinfo"))


def directory(own: str, mounts: str) -> str | None:
    """The same from the two files of /proc in which the kernel tells it."""
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::")), None)
    if path is None or path.startswith("/.."):  # outside of what we see
        return None
    for line in mounts.splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):  # on hybrid machines it is one of many
            root, point = (field.replace("\\040", " ") for field in mount.split()[3:5])
            root = root.rstrip("/")
            if f"{path}/".startswith(f"{root}/"):
                return point + path[len(root) :].rstrip("/")
    return None


def name_of(pid: int) -> str:
    """What the directory of the guard ``pid`` is called."""
    return f"{PREFIX}{tree.namespace()}.{pid}.{tree.started(pid)}"


class Cgroups:
    """A guard's own directory, and the leaves that it makes in it."""

    __slots__ = ("_count", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._count = 0

    @classmethod
    def open(cls) -> Cgroups | None:
        """Make the directory; None where that is not possible, or would be of no use."""
        above = own_directory()
        if above is None or not os.access(f"{above}/cgroup.procs", os.W_OK):  # whoever moves a process needs both ends
            return None
        path = f"{above}/{name_of(os.getpid())}"
        try:
            os.mkdir(path)
        except OSError:
            return None
        if _text(f"{path}/cgroup.type").strip() == "domain":
            return cls(path)
        os.rmdir(path)  # below a threaded cgroup, which takes threads and no processes
        return None

    def leaf(self, run_id: str) -> Leaf:
        """A new one. Raises OSError where no more are allowed."""
        self._count += 1
        path = f"{self.path}/{self._count}.{plain(run_id)}"
        os.mkdir(path)
        return Leaf(path)

    def home_of(self, pid: int) -> str | None:
        """The leaf of ours in which a process is, also if it is dead and the leaf was removed."""
        found = leaf_of(pid, os.path.basename(self.path))
        return None if found is None else f"{self.path}/{found}"

    def close(self) -> None:
        """Remove the directory, and what is empty in it."""
        remove(self.path)


class Leaf:
    """The cgroup of one process tree."""

    __slots__ = ("_events_fd", "_killed", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._events_fd = -1
        self._killed = False

    def events_fd(self) -> int:
        """A descriptor with an urgent condition (EPOLLPRI) whenever `populated` has changed since it was last asked.

        -1 until that was asked, and if no descriptor was left for it.
        """
        return self._events_fd

    def populated(self) -> bool:
        """Whether a process lives in it; zombies do not."""
        try:
            if self._events_fd < 0:
                self._events_fd = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            return b"populated 1" in os.pread(self._events_fd, 4096, 0)
        except OSError as problem:  # else removed by somebody else, which needs an empty one
            return problem.errno in (EMFILE, ENFILE)

    def pids(self) -> list[int]:
        """The processes in it, also in cgroups that they have made below it."""
        found = []
        for path in _below(self.path):
            found += [int(pid) for pid in _text(f"{path}/cgroup.procs").split()]
        return [pid for pid in found if pid]  # 0 is one of a namespace that we do not see

    def kill(self) -> None:
        """SIGKILL all that is in it. Where the kernel cannot do that at once, call this as long as it is populated."""
        if self._killed:
            return
        try:
            _write(f"{self.path}/cgroup.kill", b"1")
            self._killed = True
        except OSError:  # before Linux 5.14
            self.kill_each()

    def kill_each(self) -> None:
        """SIGKILL one after the other, frozen so that none forks meanwhile. The dead thaw by themselves."""
        _freeze(self.path)
        found: set[int] = set()
        for _ in range(_PASSES):
            new = set(self.pids()) - found
            if not new:
                return
            found |= new
            for pid in new:
                self._kill_one(pid)

    def _kill_one(self, pid: int) -> None:
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return  # gone
        try:
            if f"/{os.path.basename(self.path)}/" in f"{membership(pid)}/":
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except OSError:
            return  # gone between the look and the signal
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Let go of it, and remove it if it is empty."""
        if self._events_fd >= 0:
            os.close(self._events_fd)
            self._events_fd = -1
        remove(self.path)


def plain(run_id: str) -> str:
    """A run's id as a part of a leaf's name."""
    return "".join(letter for letter in run_id if letter.isalnum() or letter in "._-")


def membership(pid: int) -> str:
    """The path of a process's cgroup; also a zombie's, and also when that was removed."""
    path = next((line[3:] for line in _text(f"/proc/{pid}/cgroup").splitlines() if line.startswith("0::")), "")
    return path.removesuffix(" (deleted)")


def leaf_of(pid: int, guard: str) -> str | None:
    """The name of the leaf in which a process is, below the directory called ``guard``."""
    _, found, leaf = f"{membership(pid)}/".partition(f"/{guard}/")
    return leaf.partition("/")[0] if found and leaf else None


def homes(above: str) -> list[str]:
    """The directories of guards in a cgroup of this user's."""
    try:
        found = [entry for entry in os.scandir(above) if entry.name.startswith(PREFIX)]
        return [entry.path for entry in found if entry.stat().st_uid == os.geteuid()]
    except OSError:
        return []


def leaves(path: str) -> list[Leaf]:
    """What a guard has left in its directory."""
    try:
        return [Leaf(entry.path) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def remove(path: str) -> None:
    """Remove a cgroup with those below it, as far as they are empty."""
    for one in reversed(list(_below(path))):
        try:
            os.rmdir(one)
        except OSError:
            continue  # populated, by what the kernel does not let die; or gone


def _below(path: str) -> Iterator[str]:
    """The cgroup at ``path`` and all below it, parents first."""
    queue = [path]
    for one in queue:
        yield one
        try:
            queue += [entry.path for entry in os.scandir(one) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue


def _freeze(path: str) -> None:
    try:
        _write(f"{path}/cgroup.freeze", b"1")
    except OSError:
        return  # before Linux 5.2: looking several times must do


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _text(path: str) -> str:
    return tree.read(path).decode(errors="replace")
