"""The agent's side of the guard: requests go out, typed events come in, on the agent's asyncio loop.

Decides nothing; the handles are the agent's own numbers for workers, never used twice. Invariant: events arrive in the
order in which the guard saw them, and `GuardLost` at most once, as the last of all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.edge.guard.events import (
    Exited,
    Fenced,
    GhostsKilled,
    GuardEvent,
    GuardLost,
    GuardStarted,
    ServerDied,
    ServerStarted,
    Spawned,
    SpawnFailed,
    Stopped,
    ZygoteFailed,
    event_of,
)
from orchestrator.edge.guard.launch import Helper
from orchestrator.edge.guard.libc import become_subreaper
from orchestrator.edge.guard.orphans import sweep_orphans
from orchestrator.edge.guard.protocol import Channel, ProtocolError

__all__ = [
    "Exited",
    "Fenced",
    "GhostsKilled",
    "GuardClient",
    "GuardEvent",
    "GuardLost",
    "GuardStarted",
    "ServerDied",
    "ServerStarted",
    "SpawnFailed",
    "Spawned",
    "Stopped",
    "ZygoteFailed",
    "become_subreaper",
    "sweep_orphans",
]


def _absolute(path: str | None) -> str | None:
    """As the agent means it now: it may have changed its directory since the guard was launched."""
    return path if path is None or path.startswith("/") else str(Path(path).absolute())


def _program(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: str | None,
    stdout: str | None,
    stderr: str | None,
    umask: int | None,
    limits: Mapping[str, tuple[int | None, int | None]] | None,
    cpus: Iterable[int],
) -> dict[str, Any]:
    """What a process is to be, as the guard is told."""
    return {
        "argv": list(argv),
        "env": dict(env),
        "cwd": _absolute(cwd),
        "stdout": _absolute(stdout),
        "stderr": _absolute(stderr),
        "umask": umask,
        "limits": dict(limits or {}),
        "cpus": list(cpus),
    }


class GuardClient:
    """One launched guard. Requests may be made at once; events are delivered from `attach` on."""

    def __init__(self, process: Helper, on_event: Callable[[GuardEvent], None]) -> None:
        self.pid = process.pid
        self._sock = process.sock
        self._channel = Channel(process.sock.fileno())
        self._pidfd = os.pidfd_open(process.pid)
        self._on_event = on_event
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._quitting = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver events on this loop, from its next turn on."""
        self._loop = loop
        self._ended = loop.create_future()
        loop.add_reader(self._channel.fd, self._readable)
        loop.add_reader(self._pidfd, self._guard_ended)
        self._flush()

    # --- requests

    def spawn(
        self,
        handle: int,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        cwd: str | None = None,
        stdout: str | None = None,
        stderr: str | None = None,
        umask: int | None = None,
        limits: Mapping[str, tuple[int | None, int | None]] | None = None,
        cpus: Iterable[int] = (),
        zygote: int | None = None,
    ) -> None:
        """Start a worker; answered by Spawned or SpawnFailed.

        ``env`` is the whole environment, to which the guard adds its marker. ``cwd`` None is the directory in which
        the guard was launched; ``stdout`` and ``stderr`` are appended to, None inherits the launcher's. ``limits`` are
        (soft, hard) by setrlimit's name in lower case, None is unlimited; ``cpus`` those it may use, none are as given.
        ``zygote`` is the handle of one that it may be forked from.
        """
        program = _program(argv, env, cwd=cwd, stdout=stdout, stderr=stderr, umask=umask, limits=limits, cpus=cpus)
        self._send("spawn", id=handle, zygote=zygote, **program)

    def zygote(
        self,
        handle: int,
        python: Sequence[str],
        env: Mapping[str, str],
        *,
        runs: Sequence[str],
        preload: Sequence[str],
        log: str | None = None,
        cwd: str | None = None,
        umask: int | None = None,
        limits: Mapping[str, tuple[int | None, int | None]] | None = None,
        cpus: Iterable[int] = (),
    ) -> None:
        """Have a Python import ``preload``, from which workers are forked whose argv is ``python``, ``runs`` and more.

        ``runs`` is a script, or -m and a module. ZygoteFailed tells that this is over; the rest is as in `spawn`.
        """
        program = _program(python, env, cwd=cwd, stdout=log, stderr=log, umask=umask, limits=limits, cpus=cpus)
        self._send("zygote", id=handle, words=[",".join(preload), *runs], **program)

    def dismiss(self, handle: int) -> None:
        """No worker will be forked from that zygote any more."""
        self._send("dismiss", id=handle)

    def stop(self, handles: Iterable[int], *, signal: int, grace_s: float, kill_wait_s: float, ticket: int) -> None:
        """Stop workers together: answered by one Stopped when their whole trees are gone, or cannot be killed."""
        self._send(
            "stop",
            ids=list(handles),
            ticket=ticket,
            signal=int(signal),
            grace_s=float(grace_s),
            kill_wait_s=float(kill_wait_s),
        )

    def kill(self, handles: Iterable[int]) -> None:
        """SIGKILL whole trees at once; a stop that waits for them need not wait on."""
        self._send("kill", ids=list(handles))

    def signal(self, handles: Iterable[int], signum: int) -> None:
        """Forward a signal to the workers' main processes."""
        self._send("signal", ids=list(handles), signal=int(signum))

    def serve(
        self,
        handle: int,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        log: str | None,
        cleanup: Sequence[str] = (),
        restart: bool = True,
        stop_signal: int = signals.SIGTERM,
    ) -> None:
        """Start a helper server that lives as long as the guard; ``cleanup`` paths are removed, in order, at the end.

        A directory among them loses the files right in it, never a subdirectory. Stopping the handle ends restarts.
        """
        paths = [str(Path(path).absolute()) for path in cleanup]
        self._send(
            "serve",
            id=handle,
            argv=list(argv),
            env=dict(env),
            log=_absolute(log),
            cleanup=paths,
            restart=restart,
            signal=int(stop_signal),
        )

    def will(self, addr: Mapping[str, Any] | None, payloads: Sequence[bytes] = ()) -> None:
        """Replace what the guard tells the rendezvous server if this process dies; None takes it back.

        ``addr`` is {"unix": path} or {"host": .., "port": .., "tls": bool or {"ca", "cert", "key", "verify"}};
        each payload is one RESP command.
        """
        self._send("will", addr=dict(addr) if addr else None, payloads=[bytes(payload) for payload in payloads])

    def inherit(self, paths: Iterable[str]) -> None:
        """Replace what the guard removes at its end: of these pipes and sockets those that nobody serves any more."""
        self._send("inherit", paths=[str(Path(path).absolute()) for path in paths])

    def fence(self, at_s: float | None) -> None:
        """Have all workers killed at this moment of CLOCK_BOOTTIME unless a later one is set in time; None: never.

        Answered by Fenced when it happens; then no worker is started before a moment to come is set. It does not need
        this process to be awake: that is its purpose.
        """
        self._send("fence", at=None if at_s is None else float(at_s))

    def lay_ghosts(self, run_id: str) -> None:
        """Kill what an earlier guard, killed together with its agent, has left of this run on this host.

        Done before any process that is asked for later starts; answered by GhostsKilled if there was something.
        """
        self._send("ghosts", run_id=run_id)

    async def quit(self, limit_s: float = 10.0) -> None:
        """Have the guard end: it kills what is left, stops its servers, cleans up. Returns when it is gone."""
        if self._ended is None:
            raise RuntimeError("attach the client to a loop before quitting")
        if not self._ended.done():
            self._quitting = True
            self._send("quit")
            await asyncio.wait([self._ended], timeout=limit_s)
        if not self._ended.done():
            self._kill_guard()
            await self._ended

    # --- the wire

    def _send(self, op: str, **fields: object) -> None:
        if self._sock.fileno() >= 0:  # else the guard is lost, which has been told
            self._channel.send({"op": op, **fields})
            self._flush()

    def _flush(self) -> None:
        self._channel.flush()
        if self._loop is not None:
            if self._channel.pending:
                self._loop.add_writer(self._channel.fd, self._flush)
            else:
                self._loop.remove_writer(self._channel.fd)

    def _readable(self) -> None:
        """Deliver what has arrived. A guard that cannot be understood, or has hung up, is none: it is put to an end."""
        try:
            for message in self._channel.receive():
                self._on_event(event_of(message))
        except (EOFError, ProtocolError):
            if self._loop is not None:
                self._loop.remove_reader(self._channel.fd)
            if not self._quitting:
                self._kill_guard()

    def _kill_guard(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signals.pidfd_send_signal(self._pidfd, signals.SIGKILL)

    def _guard_ended(self) -> None:
        """The guard's exit, by pidfd: deliver its last words, reap it, and say so unless it was asked to go."""
        if self._loop is None or self._ended is None:
            return
        for message in self._channel.drain():
            self._on_event(event_of(message))
        self._loop.remove_reader(self._channel.fd)
        self._loop.remove_writer(self._channel.fd)
        self._loop.remove_reader(self._pidfd)
        self._sock.close()
        exit_code, signum = self._reap()
        os.close(self._pidfd)
        self._ended.set_result(None)
        if not self._quitting:
            self._on_event(GuardLost(self.pid, exit_code, signum))

    def _reap(self) -> tuple[int | None, int | None]:
        try:
            info = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:  # somebody reaps everything: it is gone all the same
            return None, None
        if info is None:
            return None, None
        return (info.si_status, None) if info.si_code == os.CLD_EXITED else (None, info.si_status)
