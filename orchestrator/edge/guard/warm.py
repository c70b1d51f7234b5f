"""A zygote: imports what workers want, then forks one for each request of the guard. Runs in the workers' Python.

A worker is a grandchild, so that it becomes the guard's own child when the one in between has ended: only `os.fork`
leaves Python and the C library sound in a process that lives on, and it can make children of nobody else. Invariant: a
process that leaves `main` as a worker is the guard's child, which knows it; no thread and no descriptor is shared.
"""

from __future__ import annotations

import _socket
import gc
import importlib
import marshal
import os
import select
import signal
import sys

from orchestrator.edge.guard import libc, script, spawn, surface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PACKET = 65536
_FD_BYTES = 4
_ADOPTED = signal.SIGURG  # told to a child whose parent has ended; whose default action is none


class Unfit(Exception):
    """No process can be forked from this one as if it were new. The message says why."""


def main(own_path: bool) -> None:
    """Serve the guard on stdin; in a worker, run its program to its end. ``own_path``: Python looks beside a script."""
    control = os.dup(0)
    spawn.put(os.open(os.devnull, os.O_RDONLY), 0)
    words, head = sys.argv[1:-1], len(sys.orig_argv) - len(sys.argv)
    surface.show(["orchestrator-zygote", *words])
    try:
        if own_path:
            sys.path.insert(0, script.folder(words[1:]))
        script.check(words[1:])
        load([name for name in words[0].split(",") if name])
    except (Unfit, script.NotOurs) as problem:
        os.write(control, str(problem).encode()[:_PACKET])
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # or every worker had it, too
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    reaping = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps those in between
    gc.collect()
    gc.freeze()  # what is here now is never looked at again, so that workers share its memory
    os.write(control, b"ready")
    message = serve(_socket.socket(fileno=control))
    signal.signal(signal.SIGCHLD, reaping or signal.SIG_DFL)
    script.run(message["argv"][head:])


def load(modules: list[str]) -> None:
    """Import them. Raises Unfit if one cannot be imported, or leaves what must not be shared."""
    here = _descriptors()
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as problem:
            raise Unfit(f"importing {name}: {type(problem).__name__}: {problem}") from None
        threads = len(os.listdir("/proc/self/task")) - 1
        if threads > 0:
            how = "OMP_NUM_THREADS=1 in worker.env keeps most libraries from it"
            raise Unfit(f"importing {name} started {threads} thread{'s' * (threads > 1)}; {how}")
        opened = _descriptors() - here
        if opened:
            raise Unfit(f"importing {name} left {_target(min(opened))} open")


def _descriptors() -> set[int]:
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    return {fd for fd in found if _target(fd)}  # but for the one that has listed them


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def serve(control: _socket.socket) -> dict[str, Any]:
    """Fork for each request, until the guard hangs up. Returns in workers only, with what each was asked for."""
    while True:
        packet, ancillary, _, _ = control.recvmsg(_PACKET, _socket.CMSG_SPACE(2 * _FD_BYTES))
        if not packet:
            os._exit(0)
        rights = ancillary[0][2]
        report, memory = (int.from_bytes(rights[at : at + _FD_BYTES], sys.byteorder) for at in (0, _FD_BYTES))
        try:
            between, moves = spawn.fork(marshal.loads(packet))  # noqa: S302 - the guard is ourselves
        except OSError:  # the guard sees it by our end of the socket, and hears why from its own attempt
            between, moves = -1, None
        if between == 0:
            parent = os.getpid()
            if _fork_and_leave(report):
                control.close()
                return _grow_up(report, memory, parent, moves)
        os.close(report)
        os.close(memory)


def _fork_and_leave(report: int) -> bool:
    """True in a child; its parent ends when the guard has said something to the child, or hung up."""
    try:
        if os.fork() == 0:
            return True
        poll = select.poll()
        poll.register(report, select.POLLIN)
        poll.poll()
    except OSError:
        os._exit(1)
    os._exit(0)


def _grow_up(report: int, memory: int, parent: int, cgroup: str | None) -> dict[str, Any]:
    """Become a child of the guard, and all that a worker is before it runs its program."""
    try:
        os.setsid()
        os.write(report, f"born {os.getpid()}".encode())
        libc.await_adoption(parent, _ADOPTED)
        if os.read(report, 16) != b"go":
            os._exit(1)
        message: dict[str, Any] = marshal.loads(os.pread(memory, os.fstat(memory).st_size, 0))  # noqa: S302 - as above
        os.close(memory)
        names = ("argv", "env", "stdout", "stderr", "umask", "cwd", "cpus")
        program = spawn.Program(**{name: message[name] for name in names})
        program.limits = message["limits"]
        spawn.prepare(program, message["guard"], cgroup)
        _appear(message)
        os.close(report)
    except spawn.SpawnError as failure:
        spawn.fail(report, failure.step, failure.errno)
    except OSError as problem:
        spawn.fail(report, "zygote", problem.errno or 0)
    return message


def _appear(message: dict[str, Any]) -> None:
    """As what a new process would: its environment, its name, its streams, and no random numbers that siblings have."""
    surface.mark(message["id"])
    surface.show(message["argv"])
    os.environ.clear()
    os.environ.update(message["env"])
    sys.orig_argv = message["argv"]
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and hasattr(stream, "reconfigure") and not getattr(stream, "write_through", False):
            stream.reconfigure(line_buffering=stream is sys.__stderr__ or stream.isatty())
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:  # Python's own `random` does this by itself
        numpy.seed()
