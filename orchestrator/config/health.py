"""``health``: the server that tells how the agent is, and what may be said about it.

Relations between its keys are judged here too, by `check_health`. Invariant: a class is judged by its name only;
nothing of the user's is imported before the job begins.
"""

# ruff: noqa: RUF009 - calls of section make dataclass fields, as field() does

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from orchestrator.config.command import command
from orchestrator.config.convert import convert, key, section
from orchestrator.config.probes import probe
from orchestrator.config.readers import number, optional, text, whole
from orchestrator.config.report import UNRESOLVED, Report, join, show
from orchestrator.config.shape import any_of, object_of, shaped
from orchestrator.core.health import Check, CheckKind, PreflightPolicy, ProbeSpec, ProbesPolicy
from orchestrator.core.specs import UNIX, HealthSpec

_PORT_MAX = 65535
_PATH_BYTES = 107  # of sun_path, see unix(7)
_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,253}")


@shaped({"type": "string", "pattern": r"^[^\s:]+:[^\s:]+$"})
def class_name(value: object, path: str, report: Report) -> object:
    """``package.module:Class``, as a name."""
    if isinstance(value, str) and _CLASS.fullmatch(value):
        return value
    return report.problem(path, f"{show(value)} is not a class's name", "allowed: package.module:Class")


@shaped({"type": "string", "pattern": rf"^({_HOST.pattern}|{UNIX}.+)$"})
def listen_host(value: object, path: str, report: Report) -> object:
    """A name or an address to listen on, or ``unix:PATH``."""
    if isinstance(value, str) and value.startswith(UNIX):
        return _socket_path(value, path, report)
    if isinstance(value, str) and _HOST.fullmatch(value):
        return value
    allowed = "allowed: a name or an address, such as 127.0.0.1, or unix:PATH"
    return report.problem(path, f"{show(value)} is not a host", allowed)


def _socket_path(value: str, path: str, report: Report) -> object:
    size = len(value.removeprefix(UNIX).encode(errors="replace"))
    if not 0 < size <= _PATH_BYTES or "\0" in value:
        fact = f"{show(value)} is not a path of a socket"
        return report.problem(path, fact, f"allowed: unix:PATH, PATH with 1 to {_PATH_BYTES} bytes")
    return value


@shaped(any_of({"type": "integer"}, {"type": "string", "pattern": "^[!-~]+$"}))
def bearer(value: object, path: str, report: Report) -> object:
    """What a client can send in a header. It is not quoted here: it is a secret."""
    if isinstance(value, str | int) and not isinstance(value, bool) and re.fullmatch(r"[!-~]+", str(value)):
        return str(value)
    return report.problem(path, "is no token", "allowed: visible ASCII characters without spaces")


CHECKS = tuple(str(kind) for kind in CheckKind)
_FDS_MOST = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskConfig:
    """How much must be free on the disk of a path."""

    path: str | None = key(text, default=None)
    free_mb: int | None = key(whole(1), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """How much memory must be available."""

    free_mb: int | None = key(whole(1), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """One line of ``health.preflight``: exactly one check, and its time limit."""

    exec: tuple[str, ...] | None = key(command, default=None)
    disk: DiskConfig = section(DiskConfig)
    memory: MemoryConfig = section(MemoryConfig)
    fds: int | None = key(whole(1, _FDS_MOST), default=None)
    clock_skew_s: float | None = key(number(0.001, what="seconds"), default=None)
    timeout_s: float = key(number(0.1, what="seconds"), default=30.0)


@shaped(lambda: {"type": "array", "items": object_of(CheckConfig)})
def preflight(value: object, path: str, report: Report) -> object:
    """The list of checks. Keeps what can be read, so that one bad line does not hide another."""
    if not isinstance(value, list):
        return report.problem(path, f"{show(value)} is not a list", "write a list of checks, or [] for none")
    found = []
    for at, item in enumerate(value):
        if item is not UNRESOLVED:
            check = _check(item, f"{path}[{at}]", report)
            if check is not None:
                found.append(check)
    return tuple(found)


def _check(item: object, path: str, report: Report) -> Check | None:
    config = convert(CheckConfig, item, path, report)
    given = [kind for kind in CHECKS if isinstance(item, Mapping) and kind in item]
    if not report.clean(path):
        return None
    if len(given) != 1:
        fact = f"has {' and '.join(given)}" if given else "has no check"
        report.problem(path, fact, f"allowed: one of {', '.join(CHECKS)} in each entry")
        return None
    kind = CheckKind(given[0])
    wanted_by: dict[CheckKind, dict[str, object]] = {
        CheckKind.EXEC: {"exec": config.exec},
        CheckKind.DISK: {"disk.path": config.disk.path, "disk.free_mb": config.disk.free_mb},
        CheckKind.MEMORY: {"memory.free_mb": config.memory.free_mb},
        CheckKind.FDS: {"fds": config.fds},
        CheckKind.CLOCK_SKEW: {"clock_skew_s": config.clock_skew_s},
    }
    needed = wanted_by[kind]
    for name, wanted in needed.items():
        if wanted is None:
            report.problem(join(path, name), "is missing", f"say what is needed: {_EXAMPLES[kind]}")
            return None
    bounds = [float(value) for value in needed.values() if isinstance(value, int | float)]
    return Check(
        kind=kind,
        timeout_s=config.timeout_s,
        cmd=config.exec or (),
        path=config.disk.path or "",
        bound=bounds[0] if bounds else 0.0,
    )


_EXAMPLES = {
    CheckKind.EXEC: "exec: [./check.sh]",
    CheckKind.DISK: "disk: {path: /data, free_mb: 1000}",
    CheckKind.MEMORY: "memory: {free_mb: 1000}",
    CheckKind.FDS: "fds: 4096",
    CheckKind.CLOCK_SKEW: "clock_skew_s: 1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthDisabled:
    """health=disabled."""

    kind: str = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthHttp:
    """health=http."""

    kind: str = "http"
    port: int = key(whole(0, _PORT_MAX), default=0)
    host: str = key(listen_host, default="127.0.0.1")
    token: str | None = key(optional(bearer), default=None)
    timeout_s: int = key(whole(3), default=60)
    server: str | None = key(optional(class_name), default=None)
    startup: ProbeSpec | None = key(probe(fatal=True), default=None)
    readiness: ProbeSpec | None = key(probe(fatal=False), default=None)
    liveness: ProbeSpec | None = key(probe(fatal=True), default=None)
    preflight: tuple[Check, ...] = key(preflight, default=())
    preflight_attempts: int = key(whole(1), default=5)
    preflight_cooldown_s: float = key(number(0.01, what="seconds"), default=10.0)


def preflight_policy(health: HealthDisabled | HealthHttp) -> PreflightPolicy | None:
    """What this node is looked at for before each join, if for anything."""
    if isinstance(health, HealthDisabled) or not health.preflight:
        return None
    return PreflightPolicy(
        checks=health.preflight, attempts=health.preflight_attempts, cooldown_s=health.preflight_cooldown_s
    )


def probes_policy(health: HealthDisabled | HealthHttp) -> ProbesPolicy | None:
    """What each worker is asked, if anything."""
    if isinstance(health, HealthDisabled):
        return None
    policy = ProbesPolicy(startup=health.startup, readiness=health.readiness, liveness=health.liveness)
    return None if policy == ProbesPolicy() else policy


def check_health(health: HealthDisabled | HealthHttp, report: Report) -> None:
    """Report what is wrong between keys."""
    if not isinstance(health, HealthHttp) or not report.clean("health.host", "health.token"):
        return
    if health.token is None and not is_loopback(health.host):
        fact = f"{health.host!r} can be reached from outside, and health.token is not given"
        report.problem("health.host", fact, "give health.token, or listen on 127.0.0.1 or unix:PATH")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there; of a path, only its owner."""
    if host.startswith(UNIX):
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def health_spec(health: HealthDisabled | HealthHttp) -> HealthSpec | None:
    """What the agent needs to know of it."""
    if isinstance(health, HealthDisabled):
        return None
    return HealthSpec(
        host=health.host, port=health.port, timeout_s=health.timeout_s, token=health.token, server=health.server
    )
