"""Many jobs that do nothing, as a sweep: ms per job, jobs per second and memory, beside other launchers of Hydra's.

python tests/bench/sweep.py --json [--jobs 200] [--slots 2] [--peers PYTHON]

PYTHON is an interpreter that has hydra-core, and hydra-joblib-launcher and hydra-submitit-launcher if they are to be
measured. Each job of ours is an orchestrated one, with its journal and its result; a peer's is a function that runs the
same program, in an app whose configuration is one key. All run in turns, so that they see the same machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.paired import environment, median, show

APP = """
import subprocess
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    subprocess.run(["true"], check=True)

main()
"""
OURS = {"orchestrator"}
FEW = 20  # jobs of a peer that takes seconds for each

parser = ArgumentParser(description=__doc__)
parser.add_argument("--jobs", type=int, default=200)
parser.add_argument("--slots", type=int, default=2)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--peers", default=sys.executable)
parser.add_argument("--json", action="store_true", help="as it always is; for a common command line")
options = parser.parse_args()


def has(module: str) -> bool:
    """Whether the peers' interpreter has a plugin."""
    look = f"import importlib.util as u, sys; sys.exit(u.find_spec('hydra_plugins.{module}') is None)"
    return subprocess.run([options.peers, "-c", look], check=False, capture_output=True).returncode == 0


def run(command: list[str], directory: Path) -> tuple[float, list[float]]:
    """Wall seconds of a command that must succeed, and its resident MB every 50 ms while jobs run."""
    began = time.perf_counter()
    with (directory / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=directory, env=environment(), stdout=said, stderr=said)
    seen: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            try:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            except (OSError, IndexError):
                return
            if next(directory.glob("*/*/sweep.json"), None) or not OURS & set(command):
                seen.append(pages * 4096 / 1e6)

    watcher = threading.Thread(target=look)
    watcher.start()
    code = process.wait()
    took = time.perf_counter() - began
    over.set()
    watcher.join()
    if code != 0:
        raise SystemExit(f"{command} ended with {code}:\n{(directory / 'said').read_text()[-2000:]}")
    return took, seen


def measured(name: str, number: int, directory: Path) -> dict[str, float | int | None]:
    """One launcher's sweep of so many jobs."""
    if name == "parallel":
        sweep = ["-m", f"sweep.jobs={options.slots}", f"worker.env.X=range({number})", "--", "true"]
        command = [sys.executable, "-m", "orchestrator", *sweep]
    else:
        command = [options.peers, str(directory / "app.py"), "-m", f"hydra/launcher={name}", f"+x=range({number})"]
        if name == "joblib":
            command.append(f"hydra.launcher.n_jobs={options.slots}")
        if name == "submitit_local":  # it starts all of a batch at once
            command.append(f"hydra.sweeper.max_batch_size={options.slots}")
    took, memory = run(command, directory)
    return {
        "jobs": number,
        "wall_s": took,
        "rss_mb_at_start": memory[0] if memory else None,
        "rss_mb_at_end": memory[-2] if len(memory) > 1 else None,
    }


names = ["parallel", "basic"]
names += ["joblib"] if has("hydra_joblib_launcher") else []
names += ["submitit_local"] if has("hydra_submitit_launcher") else []
rounds: dict[str, list[dict[str, float | int | None]]] = {name: [] for name in names}
for at in range(options.rounds + 1):  # the first compiles .pyc files
    for name in names:
        number = min(options.jobs, FEW) if at == 0 or name == "submitit_local" else options.jobs
        with tempfile.TemporaryDirectory() as where:
            (Path(where) / "app.py").write_text(APP)
            found = measured(name, number, Path(where))
        if at > 0:
            rounds[name].append(found)

told: dict[str, dict[str, float | int | None]] = {}
for name, several in rounds.items():
    wall = median(float(one["wall_s"] or 0) for one in several) or 0.0
    number = int(several[0]["jobs"] or 1)
    told[name] = {
        "jobs": number,
        "wall_s": round(wall, 3),
        "ms_per_job": round(wall / number * 1e3, 1),
        "jobs_per_s": round(number / wall, 2),
        "rss_mb_at_start": median(float(one["rss_mb_at_start"] or 0) for one in several),
        "rss_mb_at_end": median(float(one["rss_mb_at_end"] or 0) for one in several),
    }
mine = told["parallel"]["jobs_per_s"] or 0
show(
    {
        "what": f"{options.jobs} no-op jobs, {options.slots} at once",
        "rounds": options.rounds,
        "launchers": told,
        "throughput_by_peer": {
            name: round(mine / (one["jobs_per_s"] or 1), 2) for name, one in told.items() if name != "parallel"
        },
        "goal": "fewer ms per job than each, 1.6 times basic's throughput, memory flat",
    }
)
