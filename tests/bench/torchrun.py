"""orchestrate-torchrun beside torchrun, taking turns: launch, recovery of a worker and of an agent, memory, the store.

python tests/bench/torchrun.py --json [--pairs 5] [--torchrun PATH/TO/torchrun] [--within 60]
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.paired import await_all, environment, median, timed
from tests.bench.recover import WORKER, fresh
from tests.e2e.nodes import free_port

Launcher = list[str]


def resident_mb(pid: int) -> float:
    """The proportional share of memory of a process and of those that it has started, but for workers: MB."""
    total = 0
    for one in [pid, *descendants(pid)]:
        try:
            if b"worker.py" not in Path(f"/proc/{one}/cmdline").read_bytes() or one == pid:
                lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total / 1024


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``."""
    try:
        children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(one for child in children for one in descendants(child))]


@contextmanager
def running(commands: Iterable[Sequence[str]], marks: Path) -> Any:  # noqa: ANN401 - a context manager
    """Launchers that are ended, and whatever they leave behind with them."""
    marks.mkdir()
    processes = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for path in marks.iterdir():
            try:
                os.kill(int(path.name.removesuffix(".new")), signal.SIGKILL)  # torchrun's orphans
            except ProcessLookupError:
                continue


def worker_death(launcher: Launcher, script: Path, marks: Path) -> tuple[float, float]:
    """Seconds from the SIGKILL of one of four workers until all run again, and the launcher's memory (MB) before."""
    words = ["--standalone", "--nproc-per-node=4", "--max-restarts=3", str(script), str(marks)]
    with running([[*launcher, *words]], marks) as (process,):
        first = await_all(lambda: fresh(marks, set(), 4), "4 workers")
        memory = resident_mb(process.pid)
        killed = time.time()
        os.kill(next(iter(first)), signal.SIGKILL)
        again = await_all(lambda: fresh(marks, set(first), 4), "4 new workers")
        return max(again.values()) - killed, memory


def agent_death(launcher: Launcher, script: Path, marks: Path, within_s: float) -> float | None:
    """Seconds from the SIGKILL of one of two agents until the other's worker was started again; None: not in time."""
    words = ["--nnodes=1:2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=bench"]
    words += ["--rdzv-conf=last_call_timeout=5", "--max-restarts=3", str(script), str(marks)]
    with running([[*launcher, *words]], marks) as (first,):
        time.sleep(1.5)  # so that it is the one that hosts, on both sides
        other = subprocess.Popen(
            [*launcher, *words], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            before = set(await_all(lambda: in_world_of(marks, 2), "2 workers of one world", 90))
            killed = time.time()
            other.kill()
            other.wait()
            while time.time() < killed + within_s and first.poll() is None:
                if again := fresh(marks, before, 1):
                    return max(again.values()) - killed
                time.sleep(0.005)
            return None
        finally:
            other.kill()
            other.wait()


def in_world_of(marks: Path, size: int) -> set[int] | None:
    """The pids of workers that run side by side, once they are as many."""
    alive = {int(path.name) for path in marks.iterdir() if path.suffix != ".new" and Path("/proc", path.name).exists()}
    return alive if len(alive) == size and len(list(marks.iterdir())) >= size else None


def side(values: list[float], digits: int = 3) -> float | None:
    """A median, rounded."""
    found = median(values)
    return None if found is None else round(found, digits)


def compare(options: Namespace, folder: Path) -> dict[str, Any]:
    """All measurements; the two sides take turns."""
    (folder / "noop.py").write_text("")
    (folder / "worker.py").write_text(WORKER)
    sides: dict[str, Launcher] = {"here": [sys.executable, "-m", "orchestrator.cli.torchrun"]}
    if options.torchrun:
        sides["torchrun"] = [options.torchrun]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in sides}

    def note(name: str, what: str, value: float | None) -> None:
        found[name].setdefault(what, []).extend([] if value is None else [value])

    noop = ["--standalone", "--nproc-per-node=2", str(folder / "noop.py")]
    timed([*sides["here"], *noop], folder)  # the first run compiles .pyc files
    for pair in range(options.pairs):
        for name, launcher in sides.items():
            note(name, "launch_s", timed([*launcher, *noop], folder))
            again, memory = worker_death(launcher, folder / "worker.py", folder / f"{name}{pair}.worker")
            note(name, "worker_killed_s", again)
            note(name, "launcher_mb", memory)
    for name, launcher in sides.items():  # torchrun waits in vain, for long: once is enough
        for turn in range(options.pairs if name == "here" else 1):
            marks = folder / f"{name}{turn}.agent"
            note(name, "agent_killed_s", agent_death(launcher, folder / "worker.py", marks, options.within))
    return {
        **{
            what: {name: side(values.get(what, [])) for name, values in found.items()}
            for what in ("launch_s", "worker_killed_s", "launcher_mb", "agent_killed_s")
        },
        **(store_operations(options.pairs) if len(sides) > 1 else {}),
    }


def store_operations(pairs: int) -> dict[str, dict[str, float | None]]:
    """What a job's store does in a second for eight clients of torch's, by operation."""
    from tests.bench.store import compared  # noqa: PLC0415 - imports torch, which launchers shall not see

    rates = compared(clients=8, pairs=pairs, times=4000)
    return {f"store_{name}_per_s": {"here": rate["ours"], "torchrun": rate["torch"]} for name, rate in rates.items()}


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, not lines")
    parser.add_argument("--pairs", type=int, default=5, help="how many times each side runs")
    parser.add_argument("--within", type=float, default=60, help="seconds that a dead agent's peer is given")
    beside = Path(sys.executable).with_name("torchrun")
    parser.add_argument("--torchrun", default=str(beside) if beside.exists() else None, help="the peer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = compare(options, Path(name))
    report: dict[str, Any] = {"pairs": options.pairs, "agent_killed_within_s": options.within, **result}
    show: Callable[[str], None] = print
    if options.json:
        show(json.dumps(report, indent=2))
        return
    for what, values in result.items():
        told = ", ".join(f"{name} {'none in time' if value is None else value}" for name, value in values.items())
        show(f"{what}: {told}")


if __name__ == "__main__":
    main()
