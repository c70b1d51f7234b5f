"""``orchestratectl doctor``: what this node is able to do for a run, found out by doing it.

Everything is tried for real: a job of one worker, and with a URL the server itself. Invariant: nothing is changed, and
nothing that was started is left.
"""
# ruff: noqa: PLC0415 - what is heavy is imported where it is needed

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.cli.saying import write
from orchestrator.errors import ExitCode, OrchestratorError

MIB, GIB = 1 << 20, 1 << 30
FILES_WANTED = 4096
JOB_WITHIN_S = 60.0
GPUS_WITHIN_S = 20.0
SKEW_TOLERATED_S = 1.0
LATENCY_TOLERATED_S = 0.05
SAMPLES = 20
_OPTIONAL = {
    "torch": "recipe=ddp, and whatever trains with it",
    "matplotlib": "a sweep's results as a picture",
    "hydra-optuna-sweeper": "sweeps that search",
}


class Mark(Enum):
    """How good a finding is."""

    OK = "ok"
    NOTE = "note"  # works, with less
    BAD = "bad"


class Finding(NamedTuple):
    """One thing that was looked at; ``remedy`` where it could be better."""

    mark: Mark
    what: str
    fact: str
    remedy: str = ""


def doctor(words: Sequence[str]) -> int:
    """Try out what this node can do for a run; with REDIS_URL also its way to that server. 4: it is unfit."""
    parser = argparse.ArgumentParser(prog="orchestratectl doctor", usage="%(prog)s [--json] [REDIS_URL]")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("url", nargs="?", metavar="REDIS_URL")
    given = parser.parse_args(list(words))
    found = []
    for finding in _findings(given.url):
        found.append(finding)
        if not given.json:
            _show(finding)
    if given.json:
        rows = [{**one._asdict(), "mark": one.mark.value} for one in found]
        write(json.dumps(rows, indent=2) + "\n")
    return ExitCode.NODE_UNFIT if any(one.mark is Mark.BAD for one in found) else ExitCode.SUCCEEDED


def _findings(url: str | None) -> Iterator[Finding]:
    looks: tuple[Callable[[], Finding], ...] = (_python, _kernel, _server_binary, _files, _room, _gpus, _stacks)
    for look in looks:
        yield look()
    yield from _packages()
    yield from _job()
    if url is not None:
        yield from _server(url)


def _show(finding: Finding) -> None:
    from orchestrator.cli.terminal_text import safe_secrets

    text = f"{finding.fact}; {finding.remedy}" if finding.remedy else finding.fact
    write(safe_secrets().mask(f"{finding.mark.value:5}{finding.what:22}{text}") + "\n")


def _python() -> Finding:
    return Finding(Mark.OK, "python", f"{platform.python_version()}, {sys.executable}")


def _kernel() -> Finding:
    what = f"Linux {platform.release()}"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        return Finding(Mark.BAD, "kernel", f"{what} has no pidfd_open ({error})", "5.3 or newer is needed")
    return Finding(Mark.OK, "kernel", what)


def _server_binary() -> Finding:
    from orchestrator.edge.embedded import find_server

    try:
        return Finding(Mark.OK, "server", f"rendezvous=embedded runs {find_server()}")
    except OrchestratorError as error:
        return Finding(Mark.NOTE, "server", str(error))


def _files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fact = f"a process may open {'any number of' if soft == resource.RLIM_INFINITY else soft} files"
    if soft == resource.RLIM_INFINITY or soft >= FILES_WANTED:
        return Finding(Mark.OK, "files", fact)
    most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    return Finding(Mark.NOTE, "files", fact, f"data loaders may need more: ulimit -n, up to {most}; or worker.limits")


def _room() -> Finding:
    free = {name: shutil.disk_usage(name).free for name in (str(Path.cwd()), tempfile.gettempdir())}
    fact = ", ".join(f"{size // MIB:,} MiB free in {name}" for name, size in free.items())
    if min(free.values()) < GIB:
        return Finding(Mark.NOTE, "disk", fact, "a full disk costs logs: make room, or choose hydra.run.dir")
    return Finding(Mark.OK, "disk", fact)


def _gpus() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding(Mark.OK, "gpus", "none: there is no nvidia-smi")
    command = ["nvidia-smi", "-L"]
    try:
        asked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
    except OSError as error:
        return Finding(Mark.BAD, "gpus", f"nvidia-smi cannot be run: {error.strerror}")
    try:
        said = asked.communicate(timeout=GPUS_WITHIN_S)[0].strip().splitlines()
    except subprocess.TimeoutExpired:
        asked.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver that is stuck does not let go of it
            asked.wait(1.0)
        if asked.stdout is not None:
            asked.stdout.close()
        fact = f"nvidia-smi has not answered after {GPUS_WITHIN_S:g} s"
        return Finding(Mark.BAD, "gpus", fact, "a GPU or its driver hangs: see dmesg")
    if asked.returncode != 0:
        return Finding(Mark.BAD, "gpus", f"nvidia-smi fails: {said[0] if said else asked.returncode}", "see dmesg")
    return Finding(Mark.OK, "gpus", str(len(said)))


def _stacks() -> Finding:
    if shutil.which("py-spy"):
        return Finding(Mark.OK, "py-spy", "shows the stacks of any Python worker that hangs")
    fact = "not installed: stacks of a worker that hangs are Python's only where it uses orchestrator.worker"
    return Finding(Mark.OK, "py-spy", fact)


def _packages() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    for name in ("hydra-core", "omegaconf", "transitions", "redis"):
        yield Finding(Mark.OK, name, version(name))
    for name, use in _OPTIONAL.items():
        try:
            yield Finding(Mark.OK, name, version(name))
        except PackageNotFoundError:
            yield Finding(Mark.OK, name, f"not installed; it is for {use}")


def _job() -> Iterator[Finding]:
    """A whole job, in a directory of its own: guard, server, worker, and what contains it."""
    with tempfile.TemporaryDirectory(prefix="orch-doctor-") as place:
        command = [sys.executable, "-m", "orchestrator", "logs=files", "hydra.run.dir=run", "--", "true"]
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TORCHELASTIC_"))
        }
        began = time.monotonic()
        try:
            done = subprocess.run(  # noqa: S603 - our own words
                command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=JOB_WITHIN_S
            )
        except subprocess.TimeoutExpired:
            yield Finding(
                Mark.BAD, "a job", f"has not ended after {JOB_WITHIN_S:g} s", "orchestrate -- true hangs here"
            )
            return
        took_s = time.monotonic() - began
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            yield Finding(Mark.BAD, "a job", f"exit code {done.returncode}: {said[-1] if said else 'no word'}")
            return
        yield Finding(Mark.OK, "a job", f"of one worker took {took_s:.2f} s in all")
        yield _containment(Path(place, "run", "events.jsonl"))


def _containment(journal: Path) -> Finding:
    records: list[Mapping[str, Any]] = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    layer = next((str(one["containment"]) for one in records if one["event"] == "guard_started"), "unknown")
    if layer == "cgroup2":
        return Finding(Mark.OK, "containment", "cgroup v2: one write ends all that a worker has started")
    remedy = "a cgroup of one's own is safer: systemd-run --user --scope -p Delegate=yes orchestrate …"
    return Finding(Mark.NOTE, "containment", f"{layer}: what a worker has started is looked for and killed", remedy)


def _server(url: str) -> Iterator[Finding]:
    import asyncio

    try:
        waits, skew_s = asyncio.run(_measure(url))
    except OrchestratorError as error:
        yield Finding(Mark.BAD, "rendezvous", str(error))
        return
    middle = sorted(waits)[len(waits) // 2]
    slow = middle > LATENCY_TOLERATED_S
    remedy = "every step of a rendezvous takes that long: choose a server that is nearer" if slow else ""
    fact = f"answers after {middle * 1000:.2f} ms (median of {len(waits)}), {max(waits) * 1000:.2f} ms at most"
    yield Finding(Mark.NOTE if slow else Mark.OK, "rendezvous", fact, remedy)
    apart = abs(skew_s) > SKEW_TOLERATED_S
    remedy = "nothing depends on it but the times in journals: see chrony or systemd-timesyncd" if apart else ""
    yield Finding(Mark.NOTE if apart else Mark.OK, "clock", f"{skew_s:+.3f} s from the server's", remedy)


async def _measure(url: str) -> tuple[list[float], float]:
    """How long the server takes for an answer, and how far our clock is ahead of its."""
    from orchestrator.cli.control import PATIENCE_S, connected, with_password

    async with connected(with_password(url), "", PATIENCE_S) as (connection, _):
        readings = [await connection.clock() for _ in range(SAMPLES)]
    server_s, before_s, after_s = min(readings, key=lambda one: one[2] - one[1])
    return [after - before for _, before, after in readings], (before_s + after_s) / 2 - server_s


VERBS: dict[str, Callable[[Sequence[str]], int]] = {"doctor": doctor}
