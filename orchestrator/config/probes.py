"""``health.startup``, ``health.readiness`` and ``health.liveness``: how each worker is asked, and how often.

Invariant: a probe that was read asks in exactly one way, and can be asked as it stands but for its macros.
"""

# ruff: noqa: RUF009 - calls of section make dataclass fields, as field() does

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.command import command
from orchestrator.config.convert import convert, key, section
from orchestrator.config.readers import Reader, number, optional, text, whole
from orchestrator.config.report import INVALID, Report, join, show
from orchestrator.config.shape import any_of, object_of, or_null, shaped
from orchestrator.core.health import ProbeSpec, ProbeWay

_PORT = re.compile(r"(?:[0-9]|__[a-z_]+__)+")
_PORT_MAX = 65535
_PATH = re.compile(r"/[!-~]*")
_WAYS = tuple(str(way) for way in ProbeWay)
_EXAMPLES = {
    ProbeWay.EXEC: "exec: [./alive.sh, __rank__]",
    ProbeWay.HTTP: "http: {port: 8000, path: /healthz}",
    ProbeWay.TCP: "tcp: {port: 8000}",
    ProbeWay.FILE: "file: {path: /tmp/alive.__rank__, fresh_s: 60}",
}


@shaped(
    any_of({"type": "integer", "minimum": 1, "maximum": _PORT_MAX}, {"type": "string", "pattern": f"^{_PORT.pattern}$"})
)
def port_text(value: object, path: str, report: Report) -> object:
    """A port, or text that becomes one when its macros are filled in."""
    given = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if _PORT.fullmatch(given) and not (given.isdecimal() and not 1 <= int(given) <= _PORT_MAX):
        return given
    allowed = "allowed: 1 to 65535, or with macros, as in 80__local_rank__"
    return report.problem(path, f"{show(value)} is not a port", allowed)


@shaped({"type": "string", "pattern": f"^{_PATH.pattern}$"})
def http_path(value: object, path: str, report: Report) -> object:
    """What a server is asked for."""
    if isinstance(value, str) and _PATH.fullmatch(value):
        return value
    return report.problem(path, f"{show(value)} is not a path", "allowed: a path such as /healthz, without spaces")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """A server that answers with a status from 200 to 399."""

    port: str | None = key(port_text, default=None)
    path: str = key(http_path, default="/")
    host: str = key(text, default="127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpConfig:
    """A server that takes a connection."""

    port: str | None = key(port_text, default=None)
    host: str = key(text, default="127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileConfig:
    """A file that is there, and perhaps was written to of late."""

    path: str | None = key(text, default=None)
    fresh_s: float | None = key(optional(number(0.1, what="seconds")), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """One probe, in kubelet's words."""

    exec: tuple[str, ...] | None = key(command, default=None)
    http: HttpConfig = section(HttpConfig)
    tcp: TcpConfig = section(TcpConfig)
    file: FileConfig = section(FileConfig)
    initial_delay_s: float = key(number(0, what="seconds"), default=0.0)
    period_s: float = key(number(0.1, what="seconds"), default=10.0)
    timeout_s: float = key(number(0.1, what="seconds"), default=1.0)
    failure_threshold: int = key(whole(1), default=3)
    success_threshold: int = key(whole(1), default=1)


def probe(*, fatal: bool) -> Reader:
    """A probe, or null for none. ``fatal``: one that can fail a worker, which passes by a single success."""

    @shaped(lambda: or_null(object_of(ProbeConfig)))
    def read(value: object, path: str, report: Report) -> object:
        if value is None:
            return None
        config = convert(ProbeConfig, value, path, report)
        if not report.clean(path):
            return INVALID
        if fatal and config.success_threshold != 1:
            fact = f"{config.success_threshold} is too large"
            return report.problem(join(path, "success_threshold"), fact, "allowed: 1; only readiness can ask for more")
        return _spec(config, value, path, report)

    return read


def _spec(config: ProbeConfig, value: object, path: str, report: Report) -> object:
    given = [way for way in _WAYS if isinstance(value, Mapping) and way in value]
    if len(given) != 1:
        fact = f"asks by {' and by '.join(given)}" if given else "does not say how to ask"
        return report.problem(path, fact, f"allowed: one of {', '.join(_WAYS)}")
    way = ProbeWay(given[0])
    needs: dict[ProbeWay, tuple[str, object]] = {
        ProbeWay.EXEC: ("exec", config.exec),
        ProbeWay.HTTP: ("http.port", config.http.port),
        ProbeWay.TCP: ("tcp.port", config.tcp.port),
        ProbeWay.FILE: ("file.path", config.file.path),
    }
    name, needed = needs[way]
    if needed is None:
        return report.problem(join(path, name), "is missing", f"say what to ask: {_EXAMPLES[way]}")
    server = config.http if way is ProbeWay.HTTP else config.tcp
    return ProbeSpec(
        way=way,
        cmd=config.exec or (),
        host=server.host,
        port=server.port or "",
        path=(config.file.path or "") if way is ProbeWay.FILE else config.http.path,
        fresh_s=config.file.fresh_s,
        initial_delay_s=config.initial_delay_s,
        period_s=config.period_s,
        timeout_s=config.timeout_s,
        failure_threshold=config.failure_threshold,
        success_threshold=config.success_threshold,
    )
