"""Recovery from deaths: a worker's (beside torchrun's in the same run), an agent's, and a whole node's.

python tests/bench/recover.py --torchrun PATH/TO/torchrun
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator.edge.embedded import find_server
from tests.bench.paired import arguments, await_all, environment, interpreter_start_s, median, ours, show

WORKER = """
import os, sys, time
name = os.path.join(sys.argv[1], f"{os.getpid()}")
with open(name + ".new", "w") as file:
    file.write(f"{time.time()} {os.environ['RANK']}")
os.rename(name + ".new", name)
time.sleep(600)
"""
AT_ONCE = ("restart.backoff.initial_s=0", "restart.backoff.max_s=0", "restart.backoff.reset_after_s=0")


def started(directory: Path) -> dict[int, float]:
    """When each worker's script began, by pid."""
    return {int(path.name): float(path.read_text().split()[0]) for path in directory.iterdir() if path.suffix != ".new"}


def fresh(directory: Path, before: set[int], count: int) -> dict[int, float] | None:
    """``count`` workers that were not there before, once there are as many."""
    new = {pid: at for pid, at in started(directory).items() if pid not in before}
    return new if len(new) >= count else None


def worker_death_s(command: Sequence[str], marks: Path) -> float:
    """Seconds from the SIGKILL of one of four workers until all four run again."""
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        first = await_all(lambda: fresh(marks, set(), 4), "4 workers")
        killed = time.time()
        os.kill(next(iter(first)), signal.SIGKILL)
        again = await_all(lambda: fresh(marks, set(first), 4), "4 new workers")
        return max(again.values()) - killed
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def node_death_s(directory: Path, *, with_guard: bool) -> tuple[float, float]:
    """Seconds until the survivor of two nodes has noticed, and until its workers run again."""
    marks = directory / "marks"
    marks.mkdir(parents=True)
    (directory / "worker.py").write_text(WORKER)
    socket = directory / "s"
    server = subprocess.Popen(
        [find_server(), "--port", "0", "--unixsocket", str(socket), "--save", ""], stdout=subprocess.DEVNULL
    )
    common = ("run_id=bench", "nodes=1:2", f"rendezvous.url=unix://{socket}", "logs=files", *AT_ONCE)
    worker = (sys.executable, str(directory / "worker.py"), str(marks))
    agents = [
        subprocess.Popen(
            ours(*common, f"node.name=n{n}", f"hydra.run.dir={directory}/n{n}", "--", *worker),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for n in range(2)
    ]
    try:
        await_all(socket.exists, "the server")
        await_all(lambda: in_round_of(directory / "n0", 2), "a round of two nodes")
        before = set(await_all(lambda: fresh(marks, set(), 2), "2 workers"))
        killed = time.time()
        if with_guard:
            children = Path(f"/proc/{agents[1].pid}/task/{agents[1].pid}/children").read_text().split()
            for pid in children:
                os.kill(int(pid), signal.SIGKILL)
        agents[1].kill()
        again = await_all(lambda: fresh(marks, before, 1), "the survivor's worker")
        noticed = next(
            record["ts"]
            for record in journal(directory / "n0")
            if record["event"] == "transition" and record["on"] == "round_superseded" and record["ts"] > killed
        )
        return noticed - killed, max(again.values()) - killed
    finally:
        agents[0].send_signal(signal.SIGTERM)
        for agent in agents:
            agent.wait(60)
        server.terminate()
        server.wait(10)


def journal(run_dir: Path) -> list[dict[str, Any]]:
    """All whole records of a run so far."""
    path = run_dir / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def in_round_of(run_dir: Path, nodes: int) -> bool:
    """Whether a round of so many nodes is HEALTHY now."""
    settled = [r for r in journal(run_dir) if r["event"] == "round_settled"]
    moved = [r for r in journal(run_dir) if r["event"] == "transition"]
    return bool(settled) and settled[-1]["nodes"] == nodes and moved[-1]["to"] == "HEALTHY"


def main() -> None:
    options = arguments(__doc__ or "", pairs=5)
    mine: list[float] = []
    theirs: list[float] = []
    agent: list[tuple[float, float]] = []
    node: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        script = Path(name, "worker.py")
        script.write_text(WORKER)
        for pair in range(options.pairs):
            marks = Path(name, f"ours{pair}")
            marks.mkdir()
            run_dir = f"hydra.run.dir={name}/run{pair}"
            worker = (sys.executable, str(script), str(marks))
            mine.append(worker_death_s(ours("worker.nproc=4", "logs=files", run_dir, *AT_ONCE, "--", *worker), marks))
            if options.torchrun:
                marks = Path(name, f"theirs{pair}")
                marks.mkdir()
                peer = [options.torchrun, "--standalone", "--nproc-per-node=4", "--max-restarts=3"]
                theirs.append(worker_death_s([*peer, str(script), str(marks)], marks))
            agent.append(node_death_s(Path(name, f"agent{pair}"), with_guard=False))
            node.append(node_death_s(Path(name, f"node{pair}"), with_guard=True))
    start_s = interpreter_start_s()
    ours_s, torchrun_s = median(mine), median(theirs)
    show(
        {
            "what": "SIGKILL 1 of 4 workers -> all 4 started again, no backoff",
            "pairs": options.pairs,
            "ours_s": ours_s,
            "torchrun_s": torchrun_s,
            "ratio": round(ours_s / torchrun_s, 3) if ours_s and torchrun_s else None,
            "goal_s": round(0.060 + 2 * start_s, 4),
            "interpreter_start_s": round(start_s, 4),
            "agent_killed": {
                "noticed_s": median(noticed for noticed, _ in agent),
                "runs_again_s": median(again for _, again in agent),
                "goal": "noticed <= 0.3, runs again <= 0.8",
            },
            "node_vanished": {
                "noticed_s": median(noticed for noticed, _ in node),
                "runs_again_s": median(again for _, again in node),
                "goal": "lease 5 s: noticed <= 5.2, runs again <= 5.5",
            },
        }
    )


if __name__ == "__main__":
    main()
