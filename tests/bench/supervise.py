"""What supervising costs: spawning, noticing exits, restarting, output, doing nothing; and how late hangs are told.

python tests/bench/supervise.py --json [--only spawn,tee]

Spawning is compared with a bare vfork loop (posix_spawn) of the same program, turn by turn; the rest has no peer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator.edge.console import Console
from orchestrator.edge.guard.client import Exited, GuardClient, GuardEvent, Spawned, ZygoteFailed, become_subreaper
from orchestrator.edge.guard.launch import launch
from orchestrator.edge.tail import Tailer
from tests.bench.paired import await_all, environment, median, ours

PROGRAM = ("/bin/sleep", "600")
AT_ONCE = ("restart.backoff.initial_s=0", "restart.backoff.max_s=0", "restart.backoff.reset_after_s=0")
MIB = 1 << 20


class Guarded:
    """A guard, and its events with the moment at which they came."""

    def __init__(self) -> None:
        self.events: list[tuple[float, GuardEvent]] = []
        self.handles = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._news = asyncio.Event()
        process = launch()
        self.client = GuardClient(process, self._hear)
        self.client.attach(self._loop)
        self.run(lambda: True)

    def _hear(self, event: GuardEvent) -> None:
        self.events.append((time.perf_counter(), event))
        self._news.set()

    def run(self, condition: Callable[[], bool]) -> None:
        """Turn the loop until the condition holds."""

        async def turn() -> None:
            await asyncio.sleep(0)
            while not condition():
                self._news.clear()
                await self._news.wait()

        self._loop.run_until_complete(asyncio.wait_for(turn(), 60))

    def count(self, kind: type[GuardEvent]) -> int:
        return sum(isinstance(event, kind) for _, event in self.events)

    def end(self) -> None:
        self._loop.run_until_complete(self.client.quit())
        self._loop.close()


# -- the guard alone


def guard_spawn_s(number: int, directory: Path | None) -> float:
    """Seconds from the first request to the last word that a worker runs; each with two new log files, if wished."""
    guarded = Guarded()
    guarded.client.spawn(number + 1, ["/bin/true"], os.environ)  # the guard's interpreter has started
    guarded.run(lambda: guarded.count(Exited) == 1)
    began = time.perf_counter()
    for handle in range(1, number + 1):
        out, err = (None if directory is None else str(directory / f"{handle}.{name}") for name in ("out", "err"))
        guarded.client.spawn(handle, PROGRAM, os.environ, stdout=out, stderr=err)
    guarded.run(lambda: guarded.count(Spawned) == number + 1)
    took = time.perf_counter() - began
    guarded.end()
    return took


def vfork_s(number: int) -> float:
    """The same program, by nothing but vfork and exec; in sessions of their own, which schedulers tell apart."""
    began = time.perf_counter()
    pids = [os.posix_spawn(PROGRAM[0], PROGRAM, os.environ, setsid=True) for _ in range(number)]
    took = time.perf_counter() - began
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
    return took


def spawn(times: int) -> dict[str, object]:
    mine, logged, peers = [], [], []
    for _ in range(times):
        peers.append(vfork_s(256))
        mine.append(guard_spawn_s(256, None))
        with tempfile.TemporaryDirectory() as name:
            logged.append(guard_spawn_s(256, Path(name)))
    ratio = statistics.median(one / other for one, other in zip(mine, peers, strict=True))
    return {
        "ours_s": median(mine),
        "vfork_loop_s": median(peers),
        "ratio_in_pairs": round(ratio, 2),
        "ours_with_log_files_s": median(logged),
        "goal": "ratio <= 1.5",
    }


# What a user waits for: that the script's first line after its imports runs, in the last of the workers.
FIRST_LINE = "import os, time\nimport {module}\nopen(os.environ['OUT'], 'w').write(f'{{time.perf_counter()}} ')\n"
IMPORTS = {"nothing": ("time", 64), "torch": ("torch", 8)}


class Scripted:
    """A script that imports a module and says when it has; and so many workers of it."""

    def __init__(self, directory: Path, module: str, number: int) -> None:
        self.script = directory / "script.py"
        self.script.write_text(FIRST_LINE.format(module=module))
        self.argv = [sys.executable, str(self.script)]
        self.env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.outs = [directory / str(count) for count in range(number)]

    def last_s(self, start: Callable[[dict[str, str]], object], await_ends: Callable[[], object]) -> float:
        """Seconds from the first start until the last worker is there."""
        began = time.perf_counter()
        for out in self.outs:
            start({**self.env, "OUT": str(out)})
        await_ends()
        return max(float(out.read_text()) for out in self.outs) - began

    def bare_s(self) -> float:
        """By nothing but vfork and exec."""
        pids: list[int] = []
        return self.last_s(
            lambda env: pids.append(os.posix_spawn(self.argv[0], self.argv, env, setsid=True)),
            lambda: [os.waitpid(pid, 0) for pid in pids],
        )

    def guarded_s(self, guarded: Guarded, zygote: int | None) -> float:
        """By a guard, from a zygote if one is named."""
        ended = guarded.count(Exited) + len(self.outs)
        return self.last_s(
            lambda env: guarded.client.spawn(next(guarded.handles), self.argv, env, zygote=zygote),
            lambda: guarded.run(lambda: guarded.count(Exited) == ended),
        )


def first_line(times: int) -> dict[str, object]:
    """Workers that import, from a bare loop, by exec and from a zygote, whose own start is told apart."""
    found: dict[str, object] = {}
    for name, (module, number) in IMPORTS.items():
        bare, plain, opening, warm = [], [], [], []
        with tempfile.TemporaryDirectory() as where:
            scripted = Scripted(Path(where), module, number)
            for _ in range(times):
                bare.append(scripted.bare_s())
                guarded = Guarded()
                guarded.client.spawn(next(guarded.handles), ["/bin/true"], os.environ)  # its interpreter has started
                guarded.run(lambda guarded=guarded: guarded.count(Exited) == 1)  # type: ignore[misc]
                plain.append(scripted.guarded_s(guarded, None))
                mother, began = next(guarded.handles), time.perf_counter()
                runs = [str(scripted.script)]
                guarded.client.zygote(mother, scripted.argv[:1], scripted.env, runs=runs, preload=[module])
                guarded.client.spawn(
                    next(guarded.handles), scripted.argv, {**scripted.env, "OUT": "/dev/null"}, zygote=mother
                )
                ended = guarded.count(Exited) + 1
                guarded.run(lambda guarded=guarded, ended=ended: guarded.count(Exited) == ended)  # type: ignore[misc]
                opening.append(time.perf_counter() - began)
                warm.append(scripted.guarded_s(guarded, mother))
                if guarded.count(ZygoteFailed):
                    raise SystemExit("there was no zygote")
                guarded.end()
        found[name] = {
            "workers": number,
            "bare_loop_s": median(bare),
            "exec_s": median(plain),
            "zygote_s": median(warm),
            "first_of_a_zygote_s": median(opening),
        }
    return found


def exit_detection(times: int) -> dict[str, object]:
    guarded, latencies, floors = Guarded(), [], []
    for handle in range(1, 4 * times + 1):
        before = guarded.count(Exited)
        guarded.client.spawn(handle, PROGRAM, os.environ)
        guarded.run(lambda handle=handle: guarded.count(Spawned) == handle)  # type: ignore[misc]
        spawned = guarded.events[-1][1]
        killed = time.perf_counter()
        os.kill(spawned.pid, signal.SIGKILL)  # type: ignore[union-attr]
        guarded.run(lambda before=before: guarded.count(Exited) > before)  # type: ignore[misc]
        latencies.append(guarded.events[-1][0] - killed)
        child = os.posix_spawn(PROGRAM[0], PROGRAM, os.environ)
        killed = time.perf_counter()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        floors.append(time.perf_counter() - killed)
    guarded.end()
    return {
        "sigkill_to_event_at_the_agent_s": median(latencies),
        "worst_s": round(max(latencies), 4),
        "blocking_waitpid_s": median(floors),
    }


# -- whole launches


class Launched:
    """An `orchestrate` process, and its journal."""

    def __init__(self, directory: Path, *words: str) -> None:
        self.run_dir = directory / "run"
        self.process = subprocess.Popen(
            ours(f"hydra.run.dir={self.run_dir}", *words),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def events(self, name: str, **fields: object) -> list[dict[str, Any]]:
        path = self.run_dir / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [r for r in records if r["event"] == name and all(r.get(key) == value for key, value in fields.items())]

    def await_event(self, name: str, count: int = 1, **fields: object) -> dict[str, Any]:
        return await_all(lambda: self.events(name, **fields)[count - 1 : count], f"{name} {fields}")[0]

    def guard_pid(self) -> int:
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return next(int(pid) for pid in children if b"guard" in Path(f"/proc/{pid}/cmdline").read_bytes())


@contextmanager
def launched(*words: str) -> Iterator[Launched]:
    with tempfile.TemporaryDirectory() as name:
        run = Launched(Path(name), *words)
        try:
            yield run
        finally:
            run.process.send_signal(signal.SIGINT)
            run.process.wait(60)


def restart(times: int) -> dict[str, object]:
    started, again = [], []
    with launched("worker.nproc=64", "logs=files", "restart.budget.max=null", *AT_ONCE, "--", *PROGRAM) as run:
        for count in range(1, times + 1):
            healthy = run.await_event("transition", count, to="HEALTHY")
            starting = run.events("transition", to="STARTING")[count - 1]
            started.append(healthy["mono"] - starting["mono"])
            pid = run.events("worker_started", round=healthy["round"])[0]["pid"]
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            again.append(run.await_event("transition", count + 1, to="HEALTHY")["mono"] - killed)
    return {
        "sigkill_of_one_of_64_to_all_run_again_s": median(again),
        "of_it_starting_s": median(started),
        "vfork_loop_of_64_s": median(vfork_s(64) for _ in range(times)),
    }


def start_256(times: int) -> dict[str, object]:
    """In a whole launch: directories, environments, journal and tailer included."""
    took = []
    for _ in range(times):
        with launched("worker.nproc=256", "--", *PROGRAM) as run:
            healthy = run.await_event("transition", to="HEALTHY")
            took.append(healthy["mono"] - run.await_event("transition", to="STARTING")["mono"])
    return {"starting_to_healthy_s": median(took), "vfork_loop_of_256_s": median(vfork_s(256) for _ in range(times))}


def processor_ns(pid: int) -> int:
    """All threads' time."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def memory_mb(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = {line.split(":")[0].lower(): int(line.split()[1]) / 1024 for line in lines if line[:4] in ("Rss:", "Pss:")}
    return {f"{name}_mb": round(size, 1) for name, size in found.items()}


def rest(seconds: float) -> dict[str, object]:
    with launched("worker.nproc=4", "--", *PROGRAM) as run:
        run.await_event("transition", to="HEALTHY")
        time.sleep(2)  # what is done once is no rest
        pids = {"agent": run.process.pid, "guard": run.guard_pid()}
        before = {name: processor_ns(pid) for name, pid in pids.items()}
        began = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        found: dict[str, object] = {}
        for name, pid in pids.items():
            percent = (processor_ns(pid) - before[name]) / 1e7 / took
            found[name] = {**memory_mb(pid), "processor_percent": round(percent, 4)}
    return {**found, "seconds": seconds, "goal": "agent <= 60 MB, guard <= 12 MB, processor <= 0.1 %"}


# -- output


def tee(times: int) -> dict[str, object]:
    """A worker that writes lines as fast as it can; from its start until all are on a console that takes everything."""
    line = b"step 000001 loss 0.123456 accuracy 0.98 lr 0.001 tokens/s 123456 and some more words, to be as lines are\n"
    block = line * (4 * MIB // len(line))
    total = 128 * len(block)
    rates, same = [], True
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "source")
        source.write_bytes(block)
        for number in range(times):
            log = Path(name, f"log{number}")
            devnull = os.open(os.devnull, os.O_WRONLY)
            tailer = Tailer(Console(devnull, devnull, environ={}))
            tailer.start()
            began = time.perf_counter()
            tailer.add(log, b"[default0] ", 1)
            with log.open("ab") as file:
                many = f'i=0; while [ $i -lt 128 ]; do cat "{source}"; i=$((i+1)); done'
                subprocess.run(["/bin/sh", "-c", many], stdout=file, check=True)
            if not tailer.finish(60):
                raise SystemExit("the console did not take it all")
            rates.append(total / (time.perf_counter() - began) / 1e6)
            with log.open("rb") as file:
                same = same and all(file.read(len(block)) == block for _ in range(128)) and not file.read(1)
            os.close(devnull)
            log.unlink()
    return {
        "mb_per_s": round(statistics.median(rates), 1),
        "bytes_on_disk_identical": same,
        "goal": ">= 400 MB/s with prefix, identical",
    }


# -- hangs

BEATS = """
import os, time
for _ in range(3):
    time.sleep(0.1)
    with open(os.environ["ORCHESTRATOR_WATCHDOG_FILE"], "w") as fifo:
        fifo.write(f"beat {os.getpid()}\\n")
    said = time.monotonic()
print(said, flush=True)
time.sleep(600)
"""
TIMER = """
import json, os, time
expires = time.time() + 1
print(time.monotonic() + 1, flush=True)
words = {"version": 1, "pid": os.getpid(), "scope_id": "bench", "expiration_time": expires, "signal": 9}
with open(os.environ["TORCHELASTIC_TIMER_FILE"], "w") as fifo:
    fifo.write(json.dumps(words) + "\\n")
time.sleep(600)
"""


def watchdog(times: int) -> dict[str, object]:
    """From the moment at which it is due until it is told."""
    found: dict[str, object] = {}
    kinds = {
        "timer": (("watchdog=timer",), TIMER, 0.0),
        "heartbeat": (("watchdog=heartbeat", "watchdog.timeout_s=1", "watchdog.warmup_s=60"), BEATS, 1.0),
    }
    for kind, (words, script, timeout_s) in kinds.items():
        late = []
        for _ in range(times):
            with launched(*words, "restart=never", "logs=files", "--", sys.executable, "-c", script) as run:
                hung = run.await_event("worker_hung")
                said = (run.run_dir / "logs/default/1/0/stdout.log").read_text().split()[0]
                stopping = run.await_event("transition", to="STOPPING")
                late.append((hung["mono"] - float(said) - timeout_s, stopping["mono"] - float(said) - timeout_s))
        found[kind] = {
            "expiry_to_notice_s": median(told for told, _ in late),
            "worst_s": round(max(abs(told) for told, _ in late), 4),
            "expiry_to_stop_s": median(stop for _, stop in late),
        }
    return {**found, "goal": "+-0.2 s"}


PARTS: dict[str, Callable[[int], dict[str, object]]] = {
    "spawn_256": spawn,
    "first_line": first_line,
    "start_256": start_256,
    "exit_detection": exit_detection,
    "restart_64": restart,
    "tee": tee,
    "rest": lambda _: rest(30.0),
    "watchdog": watchdog,
}


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="how often each is measured; medians are shown")
    parser.add_argument("--only", default=",".join(PARTS), help="some of the parts")
    parser.add_argument("--json", action="store_true", help="one JSON object, instead of a line for each part")
    options = parser.parse_args()
    become_subreaper()
    result = {name: PARTS[name](options.times) for name in options.only.split(",")}
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(f"{name}: {json.dumps(figures)}" for name, figures in result.items()))


if __name__ == "__main__":
    main()
