"""What torchrun's options mean in our configuration; how nodes meet is `meeting`'s, what is shown `output`'s.

Invariant: an option that changes nothing here says so, and why, when somebody gives it.
"""

from __future__ import annotations

import hashlib
import re
import signal
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from orchestrator.cli.torchrun.compiled import Compiled
from orchestrator.cli.torchrun.meeting import Hosting, meeting
from orchestrator.cli.torchrun.options import Given
from orchestrator.cli.torchrun.output import logs
from orchestrator.errors import Problem

_STOPS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
_SHUTDOWN_S = "30"
_WITHOUT_EFFECT = {
    "monitor_interval": "nothing is polled here",
    "start_method": "workers are programs here, never forks of the launcher",
    "event_log_handler": "all events are in events.jsonl",
}
_NUMA = {"node": "numa", "exclusive": "spread"}
_UNSHARED = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # the worker of rank 0 is to host the store
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def compiled(given: Given, environ: Mapping[str, str], hosting: Hosting) -> Compiled:
    """The job of a command line. ``hosting`` decides whether this node brings the server, where that is not said."""
    values, said, to = given.values, given.said, Compiled()
    nodes = _nodes(values.nnodes, said, to)
    run_id = meeting(given, environ, nodes, to, hosting)
    if run_id is not None:
        to.set("run_id", named(run_id, "--rdzv-id", to), said.get("rdzv_id", "torchrun's default"))
    to.set("role", named(values.role, "--role", to), said.get("role", "torchrun's default"))
    to.set("worker.cmd", _cmd(values, environ, to), "SCRIPT")
    to.set("worker.macros", "torchrun")
    to.set("worker.nproc", _nproc(values.nproc_per_node, to), said.get("nproc_per_node", "torchrun's default"))
    if values.virtual_local_rank:
        to.set("worker.virtual_local_rank", True, said["virtual_local_rank"])
    if environ.get(_UNSHARED) == "1" and (values.standalone or values.rdzv_backend != "static"):
        to.set("worker.store", "worker", _UNSHARED)
    _numa(values.numa_binding, said, to)
    if values.local_addr is not None:
        to.set("node.addr", values.local_addr, said["local_addr"])
    _restart(values, said, to)
    _stop(values, said, environ, to)
    logs(values, said, environ, to)
    to.notes += [f"{said[name]} has no effect: {why}" for name, why in _WITHOUT_EFFECT.items() if name in said]
    return to


def named(text: str, option: str, to: Compiled) -> str:
    """``text`` as a name of ours, which may become part of a file's name."""
    if _NAME.fullmatch(text) and text.strip("."):
        return text
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:48]
    name = f"{short or 'x'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    to.notes.append(f"{option}: {text!r} is called {name} here: a name may hold A-Z a-z 0-9 . _ -")
    return name


def _nodes(text: str, said: Mapping[str, str], to: Compiled) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < low <= high:
        to.problems.append(Problem("--nnodes", f"{text!r} is not allowed", "allowed: N or MIN:MAX, from 1, as in 2:4"))
        low = high = 1
    to.set("nodes", low if low == high else f"{low}:{high}", said.get("nnodes", "torchrun's default"))
    return low, high


def _nproc(text: str, to: Compiled) -> int | str:
    if text in ("auto", "cpu", "gpu"):
        return text
    if re.fullmatch(r"\d+", text) and int(text) > 0:
        return int(text)
    why = "only torch can count them; give a number" if text.isalpha() else "allowed: a number from 1, auto, cpu, gpu"
    to.problems.append(Problem("--nproc-per-node", f"{text!r} is not allowed", why))
    return 1


def _cmd(values: Namespace, environ: Mapping[str, str], to: Compiled) -> list[str]:
    script, arguments = values.training_script, list(values.training_script_args)
    if values.no_python and not values.run_path:
        if values.module:
            to.problems.append(Problem("--no-python", "is given with --module", "remove one of them"))
        return [script, *arguments]
    module = ["-m"] if values.module and not values.run_path else []
    return [environ.get("PYTHON_EXEC") or "__python__", "-u", *module, script, *arguments]


def _numa(mode: str | None, said: Mapping[str, str], to: Compiled) -> None:
    if mode is None:
        return
    if mode not in _NUMA:
        to.notes.append(f"{said['numa_binding']} is not honoured: only node and exclusive are; workers are not bound")
        return
    to.set("worker.affinity", _NUMA[mode], said["numa_binding"])
    to.notes.append(f"{said['numa_binding']}: workers are bound in the order of local ranks; GPUs are not looked up")


def _restart(values: Namespace, said: Mapping[str, str], to: Compiled) -> None:
    if values.max_restarts < 0:
        to.problems.append(Problem("--max-restarts", f"{values.max_restarts} is negative", "allowed: from 0"))
    to.set("restart.kind", "on_failure")
    to.set("restart.budget.max", max(0, values.max_restarts), said.get("max_restarts", "torchrun's default"))
    to.set("restart.backoff", {"initial_s": 0, "max_s": 0, "reset_after_s": 0})


def _stop(values: Namespace, said: Mapping[str, str], environ: Mapping[str, str], to: Compiled) -> None:
    grace: Any = values.shutdown_timeout
    if grace is None:
        grace = environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SHUTDOWN_S)
    if not re.fullmatch(r"\d+", str(grace)):
        to.problems.append(Problem("--shutdown-timeout", f"{grace} is not allowed", "allowed: whole seconds from 0"))
        grace = _SHUTDOWN_S
    to.set("stop.relay", True)
    to.set("stop.grace_s", int(grace), said.get("shutdown_timeout", "torchrun's default"))
    names = [name.strip().upper() for name in values.signals_to_handle.split(",") if name.strip()]
    known = [name for name in dict.fromkeys(names) if name in signal.Signals.__members__]
    to.notes += [f"--signals-to-handle: {name} is no signal here" for name in names if name not in known]
    kept = [name for name in known if name in ("SIGKILL", "SIGSTOP")]
    to.notes += [f"--signals-to-handle: {name} cannot be caught" for name in kept]
    more = [name.removeprefix("SIG") for name in known if name not in (*_STOPS, *kept)]
    if more:
        to.set("stop.preempt_signals", more, said.get("signals_to_handle", ""))
    missing = [name for name in _STOPS if name not in known]
    if missing and "signals_to_handle" in said:
        to.notes.append(f"--signals-to-handle: {', '.join(missing)} stop the job in any case")
