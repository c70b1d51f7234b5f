"""What the benchmarks share: runs of ours and of torchrun that take turns, so that both see the same machine."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def arguments(purpose: str, pairs: int) -> Namespace:
    """The options that every benchmark has."""
    parser = ArgumentParser(description=purpose)
    parser.add_argument("--pairs", type=int, default=pairs, help="how many times each side runs")
    parser.add_argument(
        "--torchrun", default=shutil.which("torchrun"), help="the peer; without it, only ours is measured"
    )
    return parser.parse_args()


def ours(*rest: str) -> list[str]:
    """Our command line."""
    return [str(Path(sys.executable).with_name("orchestrate")), *rest]


def timed(command: Sequence[str], directory: Path) -> float:
    """Wall seconds of one command that must succeed."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=directory, capture_output=True, check=False, env=environment())
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')}")
    return took


def environment() -> dict[str, str]:
    """Ours, without what would change how either launcher behaves; an editable install is compiled once, as theirs."""
    strange = ("TORCHELASTIC", "PET_", "RANK", "PYTHONDONTWRITEBYTECODE")
    return {key: value for key, value in os.environ.items() if not key.startswith(strange)}


def median(values: Iterable[float]) -> float | None:
    """The median, rounded to 0.1 ms; None of nothing."""
    known = list(values)
    return round(statistics.median(known), 4) if known else None


def await_all(look: Callable[[], T | None], why: str, patience_s: float = 60) -> T:
    """Wait until ``look`` finds something."""
    deadline = time.monotonic() + patience_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {patience_s:g} s in vain: {why}")
        time.sleep(0.002)
    return found


def interpreter_start_s(times: int = 9) -> float:
    """How long ``python -c pass`` takes here: what no launcher of Python workers can go below."""
    samples = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        samples.append(time.perf_counter() - began)
    return statistics.median(samples)


def show(result: dict[str, object]) -> None:
    """Print the result as JSON."""
    print(json.dumps(result, indent=2))
