"""``health``: the server that tells how the agent is, and what may be said about it.

Relations between its keys are judged here too, by `check_health`. Invariant: a class is judged by its name only;
nothing of the user's is imported before the job begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from orchestrator.config.convert import key
from orchestrator.config.readers import optional, whole
from orchestrator.config.report import Report, show
from orchestrator.core.specs import HealthSpec

_PORT_MAX = 65535
_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,253}")


def class_name(value: object, path: str, report: Report) -> object:
    """``package.module:Class``, as a name."""
    if isinstance(value, str) and _CLASS.fullmatch(value):
        return value
    return report.problem(path, f"{show(value)} is not a class's name", "allowed: package.module:Class")


def listen_host(value: object, path: str, report: Report) -> object:
    """A name or an address to listen on."""
    if isinstance(value, str) and _HOST.fullmatch(value):
        return value
    return report.problem(path, f"{show(value)} is not a host", "allowed: a name or an address, such as 127.0.0.1")


def bearer(value: object, path: str, report: Report) -> object:
    """What a client can send in a header. It is not quoted here: it is a secret."""
    if isinstance(value, str | int) and not isinstance(value, bool) and re.fullmatch(r"[!-~]+", str(value)):
        return str(value)
    return report.problem(path, "is no token", "allowed: visible ASCII characters without spaces")


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
    timeout_s: int = key(whole(2), default=60)
    server: str | None = key(optional(class_name), default=None)


def check_health(health: HealthDisabled | HealthHttp, report: Report) -> None:
    """Report what is wrong between keys."""
    if not isinstance(health, HealthHttp) or not report.clean("health.host", "health.token"):
        return
    if health.token is None and not is_loopback(health.host):
        fact = f"{health.host!r} can be reached from outside, and health.token is not given"
        report.problem("health.host", fact, "give health.token, or listen on 127.0.0.1")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
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
