"""From fork to exec: how one worker, or the embedded server, comes to life.

Knows nothing of what is kept about it afterwards. Invariant: every descriptor of the guard is close-on-exec, so a
program starts with exactly 0, 1 and 2; and it starts with all signals unblocked and at their default.
"""

from __future__ import annotations

import os
import resource
import signal
from errno import E2BIG, EINVAL, ENOSYS, EPERM

from orchestrator.edge.guard.libc import die_with_parent, fork_into, unblock_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

_LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_SPAWN_FAILED = 127
_NO_CLONE3 = (ENOSYS, EPERM, E2BIG, EINVAL)  # an old kernel, or a container that forbids what it cannot look into

_SPARE = 4  # descriptors that no worker may take from the guard: it must always be able to look and to kill

_given: list[tuple[int, int]] = []  # the descriptor limit before the guard raised its own; workers get it back


def raise_descriptor_limit() -> None:
    """Let the guard hold a pidfd for each of very many workers. They themselves see the limit that it had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return  # some containers forbid it: then spawning reports EMFILE when there are too many
    _given.append((soft, hard))


class SpawnError(Exception):
    """The process could not be made. ``step`` says at which point, ``errno`` why."""

    def __init__(self, step: str, errno: int) -> None:
        super().__init__(f"{step}: {os.strerror(errno)}")
        self.step = step
        self.errno = errno


class Program:
    """What to run. ``env`` is complete; paths of None are inherited from the guard, as is the umask.

    ``stdin`` is a descriptor of the guard's; None is its own stdin, which is /dev/null.
    """

    __slots__ = ("argv", "cpus", "cwd", "env", "limits", "stderr", "stdin", "stdout", "umask")

    def __init__(
        self,
        argv: list[str],
        env: Mapping[str, str],
        *,
        cwd: str | None = None,
        stdout: str | None = None,
        stderr: str | None = None,
        umask: int | None = None,
        limits: Mapping[str, tuple[int | None, int | None]] | None = None,
        cpus: list[int] | None = None,
    ) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.stdout = stdout
        self.stderr = stderr
        self.umask = umask
        self.limits = [("limits", resource.RLIMIT_NOFILE, given) for given in _given]
        self.limits += [_limit(name, bounds) for name, bounds in (limits or {}).items()]
        self.cpus = cpus
        self.stdin: int | None = None


def _limit(name: str, bounds: tuple[int | None, int | None]) -> tuple[str, int, tuple[int, int]]:
    """A limit as a step and what setrlimit takes."""
    soft, hard = (resource.RLIM_INFINITY if bound is None else bound for bound in bounds)
    return f"limits.{name}", getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard)


def candidates(program: Program) -> list[str]:
    """The files that may be meant by ``argv[0]``, looked up along the PATH of the worker, not along ours.

    Those that are not there are left out: a look costs less here than an execve in the child. Relative folders are
    meant from where the worker starts, so there they stay.
    """
    name = program.argv[0]
    if "/" in name:
        return [name]
    path = program.env.get("PATH", os.defpath)
    files = [f"{folder or '.'}/{name}" for folder in path.split(":")]
    return [file for file in files if not _is_missing(file)] or files[:1]


def _is_missing(file: str) -> bool:
    if file[0] != "/":
        return False
    try:
        os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may be there, and why it cannot be run is for execve to say
        return False
    return False


def start(program: Program, cgroup: str | None = None) -> tuple[int, int, int]:
    """Fork, into a cgroup. Returns (pid, pidfd, error pipe).

    The pipe ends empty on exec, or with what `read_failure` reads.
    """
    step = "pipe"
    fds: list[int] = []
    try:
        fds += with_spare(lambda: os.pipe2(os.O_CLOEXEC))
        files = candidates(program)  # before the fork: the child does as little as it can
        guard = os.getpid()
        step = "fork"
        pid, moves = fork(cgroup)
        if pid == 0:
            _become(program, files, guard, fds[1], moves)
        os.close(fds.pop())
        try:
            return pid, os.pidfd_open(pid), fds[0]
        except OSError:
            step = "pidfd"
            os.kill(pid, signal.SIGKILL)  # a child of ours that nobody has reaped: the number is its own
            os.waitpid(pid, 0)
            raise
    except OSError as problem:
        for fd in fds:
            os.close(fd)
        raise SpawnError(step, problem.errno or 0) from None


def with_spare(make: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Descriptors such as a pipe's, while there are so many that some are left for killing."""
    spare: list[int] = []
    try:
        spare += (os.dup(0) for _ in range(_SPARE))
        return make()
    finally:
        for fd in spare:
            os.close(fd)


def fork(cgroup: str | None) -> tuple[int, str | None]:
    """The child's pid, or 0 in the child; and the cgroup that the child has yet to move to."""
    if cgroup is None:
        return os.fork(), None
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return fork_into(fd), None
    except OSError as problem:
        if problem.errno not in _NO_CLONE3:
            raise
    finally:
        os.close(fd)
    return os.fork(), cgroup


def read_failure(error_fd: int) -> SpawnError | None:
    """What the child said before exec; None if exec went well (or if it was killed before: its exit tells)."""
    try:
        words = os.read(error_fd, 256).decode().split()
    except (BlockingIOError, ConnectionResetError):  # nothing: others could still say something; it did not hear us
        return None
    return SpawnError(words[0], int(words[1])) if words else None


def _become(program: Program, files: list[str], guard: int, error_fd: int, cgroup: str | None) -> NoReturn:
    """In the child: turn into the program, or say which step failed, and end."""
    step = "setsid"
    errno = 0
    try:
        os.setsid()
        prepare(program, guard, cgroup)
        step = "exec"
        errno = _exec(files, program)
    except SpawnError as failure:
        step, errno = failure.step, failure.errno
    except OSError as problem:
        errno = problem.errno or 0
    except BaseException:  # a NUL in an argument, say; and nothing may escape into a second guard
        errno = EINVAL
    fail(error_fd, step, errno)


def fail(error_fd: int, step: str, errno: int) -> NoReturn:
    """In the child: tell the guard why there will be no program, and end."""
    try:
        os.write(error_fd, f"{step} {errno}".encode())
    finally:
        os._exit(_SPAWN_FAILED)


def prepare(program: Program, guard: int, cgroup: str | None) -> None:
    """In a child that leads its session: all that is to be done before the program runs. Raises SpawnError."""
    step = "cgroup"
    try:
        if cgroup is not None:
            fd = os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, b"0")
            os.close(fd)
        step = "open_stdin"
        if program.stdin is not None:
            put(program.stdin, 0)
        _log("open_stdout", program.stdout, 1)
        _log("open_stderr", program.stderr, 2)
        step = "umask"  # after the logs were opened: theirs is the launcher's
        if program.umask is not None:
            os.umask(program.umask)
        step = "chdir"
        if program.cwd is not None:
            os.chdir(program.cwd)
        for name, number, bounds in program.limits:
            step = name
            resource.setrlimit(number, bounds)
        step = "affinity"
        if program.cpus:
            os.sched_setaffinity(0, program.cpus)
        step = "pdeathsig"
        die_with_parent(guard)
        step = "signals"  # a stop that came since the fork is pending, and ends us here
        unblock_signals()
    except OSError as problem:
        raise SpawnError(step, problem.errno or 0) from None
    except SpawnError:
        raise
    except Exception:  # a NUL in a path, say
        raise SpawnError(step, EINVAL) from None


def _log(step: str, path: str | None, number: int) -> None:
    try:
        if path is not None:
            put(os.open(path, _LOG_FLAGS, 0o666), number)
    except OSError as problem:
        raise SpawnError(step, problem.errno or 0) from None
    except ValueError:  # a NUL in the path
        raise SpawnError(step, EINVAL) from None


def put(fd: int, number: int) -> None:
    """Give a descriptor a standard number; nothing else is left of it, for not every child execs."""
    os.dup2(fd, number)
    os.close(fd)


def _exec(files: list[str], program: Program) -> int:
    """Try the files in turn; returns only when none can be run, with the errno that says most about why."""
    worst = 0
    for file in files:
        try:
            os.execve(file, program.argv, program.env)  # noqa: S606 - running programs without a shell is the purpose
        except (FileNotFoundError, NotADirectoryError) as problem:
            worst = worst or problem.errno or 0
        except PermissionError as problem:  # as in execvp(3): remember it, but look further along PATH
            worst = problem.errno or 0
    return worst
