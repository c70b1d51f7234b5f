"""torchrun's rendezvous options, as ours: who brings the server, where it is, and what lets others in.

Where torchrun's store would stand stands a server of ours, on the same host and port. Its password is made of the run's
id, so that whoever has the same command line gets in, as with torchrun, and nobody else. Invariant: nothing is opened
here but, to see whether it is free, a port.
"""

from __future__ import annotations

import hashlib
import re
import socket
from argparse import Namespace
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from urllib.parse import quote

from orchestrator.cli.torchrun.compiled import Compiled, Open
from orchestrator.cli.torchrun.options import Given
from orchestrator.errors import Problem

Hosting = Callable[[str, int], bool]
"""Whether this node brings the server of an endpoint."""

_PORTS = {"c10d": 29400, "static": 29500, "orchestrator": 6379}
_SECONDS = {"join_timeout": "join_timeout_s", "last_call_timeout": "last_call_s", "lease": "lease_s"}
_CREDENTIALS = ("username", "password", "db", "tls")
_NOTHING_WAITS = ("read_timeout", "close_timeout", "heartbeat_timeout", "protocol")
_TRUE, _FALSE = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n")
_UNKNOWN_BACKENDS = {
    "etcd": "etcd is not spoken here; write c10d, or orchestrator with a Redis server",
    "etcd-v2": "etcd is not spoken here; write c10d, or orchestrator with a Redis server",
}


def meeting(
    given: Given, environ: Mapping[str, str], nodes: tuple[int, int], to: Compiled, hosting: Hosting
) -> str | None:
    """Set how the nodes of the job meet; returns the run's id, None if it may be made up."""
    values, said = given
    conf = _conf(values.rdzv_conf, to)
    _durations(conf, values.rdzv_backend, nodes, to)
    if values.standalone:
        if nodes[1] > 1:
            to.notes.append(f"--standalone: --nnodes={values.nnodes} is one node")
            to.set("nodes", 1, "--standalone")
        to.set("rendezvous.kind", "embedded", "--standalone")
        return None
    backend, run_id = values.rdzv_backend, values.rdzv_id if values.rdzv_id != "none" else None
    if backend not in _PORTS:
        why = _UNKNOWN_BACKENDS.get(backend, "plug-ins of torch's are not loaded; allowed: c10d, static, orchestrator")
        to.problems.append(Problem("--rdzv-backend", f"{backend!r} is not to be had", why))
        return run_id
    if backend == "orchestrator" or "://" in values.rdzv_endpoint:
        _own_server(values, conf, environ, to)
        if run_id is None:
            fact = "is not given, and a server remembers a run for a day"
            to.problems.append(Problem("--rdzv-id", fact, "give this run an id of its own"))
        return run_id
    if nodes[1] == 1:
        to.set("rendezvous.kind", "embedded")
        return run_id
    _embedded(values, said, conf, to, hosting)
    if run_id is None:
        to.notes.append("--rdzv-id is not given: whoever reaches the endpoint can take part; give the job an id")
    return run_id or "none"


def password(run_id: str) -> str:
    """What lets in whoever knows the run's id."""
    return hashlib.sha256(f"orchestrate-torchrun {run_id}".encode()).hexdigest()[:32]


def _own_server(values: Namespace, conf: Mapping[str, str], environ: Mapping[str, str], to: Compiled) -> None:
    """A Redis server of the user's, by URL or as host and port."""
    to.set("rendezvous.kind", "redis", "--rdzv-endpoint")
    url = values.rdzv_endpoint
    if "://" not in url:
        host, port = endpoint(url, _PORTS["orchestrator"], to)
        secret = _secret(conf, environ, to)
        login = f"{quote(conf.get('username', ''), safe='')}:{secret}@" if secret else ""
        scheme = "rediss" if conf.get("tls", "no").lower() in _TRUE else "redis"
        url = f"{scheme}://{login}{_in_url(host)}:{port}/{conf.get('db', '0')}"
    to.set("rendezvous.url", Open(url), "--rdzv-endpoint")


def _secret(conf: Mapping[str, str], environ: Mapping[str, str], to: Compiled) -> str:
    """The server's password as a URL spells it; one from the environment stays there, if it can."""
    if "password" in conf:
        return quote(conf["password"], safe="")
    known = environ.get("REDIS_PASSWORD", "")
    if quote(known, safe="") == known:
        return "${oc.env:REDIS_PASSWORD}" if known else ""
    to.notes.append("REDIS_PASSWORD holds what a URL spells otherwise, so a printed recipe has it in plain text")
    return quote(known, safe="")


def _embedded(
    values: Namespace, said: Mapping[str, str], conf: Mapping[str, str], to: Compiled, hosting: Hosting
) -> None:
    """A server that one of the nodes brings along: the one that torchrun would have had host its store."""
    static = values.rdzv_backend == "static"
    where, how = values.rdzv_endpoint, "--rdzv-endpoint"
    if static and not where:
        where, how = f"{values.master_addr}:{values.master_port or _PORTS['static']}", "--master-addr, --master-port"
    host, port = endpoint(where, _PORTS[values.rdzv_backend], to)
    if port == 0:
        to.problems.append(Problem(how, "port 0 is known to nobody else", "give the port at which all nodes meet"))
        return
    if static:
        hosts = values.node_rank == 0
    else:
        hosts = _flag(conf["is_host"], to) if "is_host" in conf else hosting(host, port)
    if static or "node_rank" in said:
        to.set("node.rank", values.node_rank, said.get("node_rank", "torchrun's default"))
    secret = password(values.rdzv_id)
    if hosts:
        to.set("rendezvous.kind", "embedded", how)
        to.set("rendezvous.listen", f"{_in_url(_listen_on(host))}:{port}", how)
        to.set("rendezvous.password", secret, "--rdzv-id")
        if values.local_addr is None and (address := own_address(host)) is not None:
            to.set("node.addr", address, how)  # known to be of the network that the nodes meet in
    else:
        to.set("rendezvous.kind", "redis", how)
        to.set("rendezvous.url", f"redis://:{secret}@{_in_url(_reached_at(host))}:{port}/0", how)


def endpoint(text: str, default_port: int, to: Compiled) -> tuple[str, int]:
    """``host``, ``host:port``, ``[v6]`` or ``[v6]:port``; nothing means this host."""
    text = text.strip()
    found = re.fullmatch(r"(?:(?:\[([\w.:%]+)\]|([\w.-]+))(?::(\d{1,5}))?)?", text)
    if found is None or int(found[3] or 0) > 65535:  # noqa: PLR2004 - the last port
        to.problems.append(Problem("--rdzv-endpoint", f"{text!r} is not HOST:PORT", "allowed: such as node1:29400"))
        return "localhost", default_port
    return found[1] or found[2] or "localhost", int(found[3]) if found[3] else default_port


def _conf(text: str, to: Compiled) -> dict[str, str]:
    found = {}
    for part in filter(None, text.strip().split(",")):
        key, _, value = (word.strip() for word in part.partition("="))
        if key and value:
            found[key] = value
        else:
            to.problems.append(Problem("--rdzv-conf", f"{part!r} is not allowed", "allowed: key=value,key=value"))
    return found


def _durations(conf: Mapping[str, str], backend: str, nodes: tuple[int, int], to: Compiled) -> None:
    """Set what of ``--rdzv-conf`` is about time, and tell what of it has no equal."""
    seconds = {ours: _seconds(name, conf, to) for name, ours in _SECONDS.items() if name in conf}
    if backend == "static" and "timeout" in conf:
        seconds["join_timeout_s"] = _seconds("timeout", conf, to)
    beats = [name for name in ("keep_alive_interval", "keep_alive_max_attempt") if name in conf]
    if beats:
        every, times = (
            _seconds(name, {name: default} | dict(conf), to)
            for name, default in zip(("keep_alive_interval", "keep_alive_max_attempt"), ("5", "3"), strict=True)
        )
        seconds["lease_s"] = max(1.0, every * times)
    if nodes[0] < nodes[1]:
        seconds["scale_up_s"] = seconds.get("last_call_s", 1.0)  # torchrun lets newcomers in at once
    for name, value in seconds.items():
        to.set(f"rendezvous.{name}", value, "--rdzv-conf")
    if conf.get("store_type", "tcp") != "tcp":
        fact = f"store_type={conf['store_type']} is a file that nodes share"
        to.problems.append(Problem("--rdzv-conf", fact, "leave it out: nodes meet at the endpoint"))
    known = {*_SECONDS, *beats, *_CREDENTIALS, "is_host", "timeout", "store_type", "rank"}
    for name in conf:
        if name in _NOTHING_WAITS:
            to.notes.append(f"--rdzv-conf: {name} has no effect: nothing waits by it here")
        elif name not in known:
            to.notes.append(f"--rdzv-conf: {name} is not known, and has no effect")


def _seconds(name: str, conf: Mapping[str, str], to: Compiled) -> float:
    try:
        found = float(conf[name])
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        to.problems.append(Problem("--rdzv-conf", f"{name}={conf[name]} is no number of seconds", "allowed: from 0"))
        return 1.0
    return found


def _flag(text: str, to: Compiled) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        to.problems.append(Problem("--rdzv-conf", f"is_host={text} is neither true nor false", "write is_host=true"))
    return text.lower() in _TRUE


def is_this_host(host: str) -> bool:
    """Whether ``host`` is a name or an address of this machine, as torchrun finds out; it may not know all of them."""
    if _is_loopback(host) or host == socket.gethostname():
        return True
    own = _resolved(socket.gethostname())
    return bool({host} & own) or bool(_resolved(host) & own)


def _resolved(host: str) -> set[str]:
    """The addresses and the canonical names of ``host``."""
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP, flags=socket.AI_CANONNAME)
    except (OSError, UnicodeError):
        return set()
    return {str(address[0]) for *_, address in found} | {name for _, _, _, name, _ in found if name}


def own_address(host: str) -> str | None:
    """The address of this machine, other than the loopback's, that ``host`` leads to; None if it leads elsewhere."""
    for address in sorted(_resolved(host)):
        try:
            known = ip_address(address)
            with socket.socket(socket.AF_INET6 if known.version == 6 else socket.AF_INET) as probe:  # noqa: PLR2004 - IPv6
                probe.bind((address, 0))
        except (OSError, ValueError):
            continue
        if not known.is_loopback:
            return address
    return None


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    where = _listen_on(host)
    with socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((where, port))
        except OSError:
            return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen_on(host: str) -> str:
    """Only this machine's own connections where they are meant, else any interface, as torch's store."""
    if _is_loopback(host):
        return _reached_at(host)
    return "::" if ":" in host else "0.0.0.0"  # noqa: S104 - behind a password


def _reached_at(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
