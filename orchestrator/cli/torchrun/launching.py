"""`orchestrator.launch`: run a function or a command in a group of workers, from Python, as ``elastic_launch`` does.

The launcher is a process of its own, so that nothing of the caller's is changed: not its signals, its event loop, its
logging or its Hydra. Invariant: it ends when the caller does, whatever ends the caller.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from orchestrator.cli.resolvers import drop_locks
from orchestrator.cli.saying import say
from orchestrator.cli.torchrun.command import brings_server
from orchestrator.cli.torchrun.compiled import Compiled
from orchestrator.cli.torchrun.options import Given, all_options, destination
from orchestrator.cli.torchrun.settings import compiled
from orchestrator.core.failures import Failure
from orchestrator.entrypoint import PICKLED, RETURNED
from orchestrator.errors import ConfigError, ExitCode, InternalError, NodeError, Problem, RendezvousError, WorkersFailed

Entrypoint = Callable[..., Any] | str
PROBLEMS = "problems.json"
RECIPE = "job.yaml"
_IGNORED = ("metrics_cfg", "rdzv_timeout", "logs_specs", "numa_options")  # torch's own objects, which are not read here


@dataclass(kw_only=True)
class LaunchConfig:
    """What torchelastic's LaunchConfig says, with its names and defaults; and ``overrides``, by keys of ours."""

    min_nodes: int = 1
    max_nodes: int = 1
    nproc_per_node: int | str = 1
    run_id: str = ""
    role: str = "default_role"
    rdzv_endpoint: str = ""
    rdzv_backend: str = "c10d"
    rdzv_configs: Mapping[str, Any] = field(default_factory=dict)
    max_restarts: int = 3
    monitor_interval: float = 0.1
    start_method: str = "spawn"
    log_line_prefix_template: str | None = None
    local_addr: str | None = None
    event_log_handler: str = "null"
    signals_to_handle: str = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
    duplicate_stdout_filters: Sequence[str] = ()
    duplicate_stderr_filters: Sequence[str] = ()
    virtual_local_rank: bool = False
    shutdown_timeout: int | None = None
    log_dir: str | None = None  # None: a directory that is gone after success
    redirects: str = "0"
    tee: str = "0"
    local_ranks_filter: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)  # such as {"watchdog": "heartbeat"}


def launch(config: LaunchConfig | Mapping[str, Any], entrypoint: Entrypoint, *args: object) -> dict[int, Any]:
    """Run ``entrypoint`` in this node's workers; returns what it returned, by global rank (None for a command).

    ``entrypoint`` is a function that can be pickled, ``package.module:function``, or a program, whose ``args`` are
    words. ``config`` may be torch's own LaunchConfig, too. Blocks until all is over. Raises WorkersFailed (with the
    failures, by rank), ConfigError, RendezvousError or NodeError.
    """
    known = _config(config)
    directory = Path(tempfile.mkdtemp(prefix="orchestrate_"))
    job = compiled(_given(known, entrypoint), os.environ, brings_server)
    job.settings = [one for one in job.settings if one.key not in ("worker.cmd", "logs.dir")]
    job.set("worker.cmd", _command(entrypoint, args, directory))
    if known.log_line_prefix_template is not None:
        job.set("logs.prefix", known.log_line_prefix_template)
    _override(known.overrides, job)
    if job.problems:
        raise ConfigError(job.problems)
    for note in job.notes:
        say(f"note: {note}")
    run_dir = Path(tempfile.mkdtemp(dir=_made(known.log_dir), prefix="run_")) if known.log_dir else directory / "run"
    (directory / RECIPE).write_text(job.recipe("launched", _name(entrypoint)))
    try:
        code = _run(directory, run_dir)
    finally:
        drop_locks()  # of a port, if this node had one; another launch may need it
    try:
        return _results(code, directory, run_dir)
    finally:
        if code == ExitCode.SUCCEEDED:
            shutil.rmtree(directory, ignore_errors=True)


def _config(config: object) -> LaunchConfig:
    """A LaunchConfig of a mapping's, or of torch's."""
    if isinstance(config, LaunchConfig):
        return config
    names = [one.name for one in fields(LaunchConfig)]
    if isinstance(config, Mapping):
        if unknown := sorted(map(str, set(config) - {*names, *_IGNORED})):
            raise ConfigError([Problem("launch", f"unknown: {', '.join(unknown)}", f"known: {', '.join(names)}")])
        return LaunchConfig(**{name: value for name, value in config.items() if name in names})
    return LaunchConfig(**{name: getattr(config, name) for name in names if hasattr(config, name)})


def _given(config: LaunchConfig, entrypoint: Entrypoint) -> Given:
    """The same as options of torchrun's."""
    values = {destination(option): option.default for option in all_options()}
    said = asdict(config) if is_dataclass(config) else {}
    names = {name: said[name] for name in values.keys() & said.keys()}
    values |= names | {
        "nnodes": f"{config.min_nodes}:{config.max_nodes}",
        "nproc_per_node": str(config.nproc_per_node),
        "rdzv_id": config.run_id or "none",
        "rdzv_conf": ",".join(f"{name}={value}" for name, value in config.rdzv_configs.items()),
        "node_rank": int(config.rdzv_configs.get("rank", 0)),
        "duplicate_stdout_filters": list(config.duplicate_stdout_filters or ()),
        "duplicate_stderr_filters": list(config.duplicate_stderr_filters or ()),
    }
    words = Namespace(**values, training_script=_name(entrypoint), training_script_args=[])
    usual = {one.name: one.default for one in fields(LaunchConfig)}
    given = {name: value for name, value in names.items() if value != usual[name]}
    return Given(words, {name: f"{name}={value}" for name, value in given.items()})


def _name(entrypoint: Entrypoint) -> str:
    return entrypoint if isinstance(entrypoint, str) else getattr(entrypoint, "__name__", repr(entrypoint))


def _command(entrypoint: Entrypoint, args: Sequence[object], directory: Path) -> list[str]:
    """What each worker runs."""
    call = [sys.executable, "-u", "-m", "orchestrator.entrypoint"]
    if isinstance(entrypoint, str):
        return _named(entrypoint, args, call) or [entrypoint, *map(str, args)]
    from multiprocessing import spawn  # noqa: PLC0415 - for functions only

    path = directory / "call.pickle"
    with path.open("wb") as file:
        main = spawn.get_preparation_data("worker")
        main.pop("authkey", None)  # a secret of this process, which multiprocessing lets nobody pickle
        pickle.dump(main, file)
        pickle.dump((entrypoint, args), file)
    return [*call, PICKLED, str(path)]


def _named(name: str, args: Sequence[object], call: Sequence[str]) -> list[str]:
    """How to call a function by its name; nothing if it is none, but a program's."""
    module, colon, path = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        return []
    return [*call, name, json.dumps([args, {}]).replace("$", "\\u0024")]  # a dollar would be filled in


def _override(overrides: Mapping[str, Any], job: Compiled) -> None:
    """Lay keys of ours over the job; what was set below one of them is gone."""
    for key, value in overrides.items():
        job.settings = [one for one in job.settings if not f"{one.key}.".startswith(f"{key.removesuffix('.kind')}.")]
        job.set(key, value, key)


def _made(directory: str | None) -> str | None:
    if directory is not None:
        Path(directory).mkdir(parents=True, exist_ok=True)
    return directory


def _run(directory: Path, run_dir: Path) -> int:
    """Run the launcher until it ends. Ctrl-C is passed on to it, and waited for."""
    command = [sys.executable, "-m", "orchestrator.cli.torchrun.launched", str(directory / RECIPE), str(run_dir)]
    with subprocess.Popen(  # noqa: S603 - ourselves
        command, stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        while True:
            with _passed_on(process):
                return process.wait()


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)


def _results(code: int, directory: Path, run_dir: Path) -> dict[int, Any]:
    problems = directory / PROBLEMS
    if problems.is_file():
        raise ConfigError([Problem(**one) for one in json.loads(problems.read_text())])
    try:
        result = json.loads((run_dir / "result.json").read_text())
    except (OSError, ValueError):
        raise InternalError(f"the launcher has ended with exit code {code}, and left no result in {run_dir}") from None
    reason = str(result.get("reason") or result.get("state"))
    if code == ExitCode.SUCCEEDED:
        return _returned(run_dir)
    if code in (ExitCode.RENDEZVOUS, ExitCode.NODE_UNFIT):
        raise (RendezvousError if code == ExitCode.RENDEZVOUS else NodeError)(reason)
    failures = [Failure.from_dict(one) for one in [result.get("root_cause"), *result.get("failures", [])] if one]
    by_rank: dict[int, Failure] = {}
    for failure in failures:
        by_rank.setdefault(failure.rank, failure)
    raise WorkersFailed(reason, by_rank)


def _returned(run_dir: Path) -> dict[int, Any]:
    """What this node's workers of the last round have returned, by rank."""
    found: dict[int, Any] = {}
    records = (json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines())
    started = [record for record in records if record["event"] == "worker_started"]
    last = max((record["round"] for record in started), default=0)
    for record in started:
        if record["round"] == last:
            path = run_dir / "logs" / str(record["group"]) / str(last) / str(record["rank"]) / RETURNED
            found[record["rank"]] = pickle.loads(path.read_bytes()) if path.is_file() else None  # noqa: S301 - our own worker's
    return dict(sorted(found.items()))
