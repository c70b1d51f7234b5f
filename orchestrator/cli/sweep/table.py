"""A sweep in rows: which columns there are, what stands in a cell, and in which order jobs are shown.

Every face of a sweep (the terminal, `orchestratectl sweep`, sweep.csv, sweep.html) takes its words from here.
Invariant: no text leaves this module with a secret in it; control characters are for whoever knows where it goes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from orchestrator.cli.report import duration
from orchestrator.cli.secrets import MASK, Secrets, is_secret_name
from orchestrator.core.sweep import JobState, Scalar, Sweep, SweepJob

_ORDER = (
    JobState.SUCCEEDED,
    JobState.PRUNED,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.RUNNING,
    JobState.PENDING,
)
_MESSAGE = 100  # characters of a message in a table on a terminal


def columns(sweep: Sweep) -> tuple[str, ...]:
    """The keys of what differs between jobs: as they were typed, then what only some jobs have."""
    return tuple(dict.fromkeys([*sweep.params, *(key for job in sweep.jobs for key in job.params)]))


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key as its last words, as few as tell it from the others: ``worker.flags.lr`` is ``lr``."""
    keys = tuple(dict.fromkeys(keys))
    found: dict[str, str] = {}
    for key in keys:
        words = key.split(".")
        rivals = [other.split(".") for other in keys if other != key]
        count = next((n for n in range(1, len(words)) if all(other[-n:] != words[-n:] for other in rivals)), len(words))
        found[key] = ".".join(words[-count:])
    return found


def ranked(sweep: Sweep) -> list[SweepJob]:
    """The best first; what did not succeed comes after what did, for its value is not that of a whole job."""
    sign = -1 if sweep.direction == "maximize" else 1

    def place(job: SweepJob) -> tuple[int, bool, float, int]:
        nothing = job.value is None or math.isnan(job.value)
        return _ORDER.index(job.state), nothing, 0.0 if nothing else sign * (job.value or 0.0), job.n

    return sorted(sweep.jobs, key=place)


def scalar(value: Scalar) -> str:
    """A parameter's value as YAML would write it, without quotes."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def cell(key: str, value: Scalar, secrets: Secrets) -> str:
    """A parameter's value for a person: without secrets, and of a number what matters."""
    text = secrets.mask_named(key.rpartition(".")[2], scalar(value))
    return number(value) if isinstance(value, float) and text == scalar(value) else text


def exact(key: str, value: Scalar, secrets: Secrets) -> Scalar:
    """A parameter's value for programs: without secrets, else as it is."""
    text = secrets.mask_named(key.rpartition(".")[2], scalar(value))
    return value if text == scalar(value) else text


def override(text: str, secrets: Secrets) -> str:
    """An override as it was typed, without its secret."""
    key, equals, value = text.partition("=")
    name = key.rpartition(".")[2]
    return f"{key}={MASK}" if equals and value and is_secret_name(name) else secrets.mask(text)


def pairs(job: SweepJob, names: dict[str, str], secrets: Secrets) -> str:
    """What a job is, in a few words: ``lr=0.1 layers=3``."""
    return " ".join(f"{names.get(key, key)}={cell(key, value, secrets)}" for key, value in job.params.items())


def number(value: float | None) -> str:
    """An objective's value, short enough for a line."""
    return "" if value is None else f"{value:.6g}"


def objective(sweep: Sweep) -> str:
    """What the values are values of."""
    return sweep.objective or "value"


def tally(sweep: Sweep) -> str:
    """``20 succeeded, 2 pruned, 2 failed``."""
    counts = [(sweep.count(state), state.value) for state in _ORDER]
    return ", ".join(f"{count} {word}" for count, word in counts if count) or "no jobs"


def table(sweep: Sweep, secrets: Secrets) -> str:
    """The whole sweep as lines of text, the best marked by a star."""
    keys = columns(sweep)
    names = short_names(keys)
    best = sweep.best
    tried = any(job.attempts > 1 for job in sweep.jobs)
    params = [names[key] for key in keys]
    heads = ["", "job", objective(sweep), *params, "state", "took", *(["tries"] * tried), "dir", ""]
    rows = [
        [
            "*" if best is not None and job.n == best.n else "",
            str(job.n),
            number(job.value),
            *(cell(key, job.params[key], secrets) if key in job.params else "" for key in keys),
            job.state.value,
            "" if job.seconds is None else duration(job.seconds),
            *([str(job.attempts)] * tried),
            secrets.mask(PurePath(job.dir).name) if job.attempts else "",
            _clipped(secrets.mask(job.message)),
        ]
        for job in ranked(sweep)
    ]
    direction = f"; {objective(sweep)}: {sweep.direction}" if sweep.objective else ""
    title = f"sweep {sweep.name}: {tally(sweep)}{direction}"
    return "\n".join([title, *_aligned([heads, *rows])]) + "\n"


def _clipped(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE else f"{line[: _MESSAGE - 1]}…"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; numbers end where numbers end."""
    lines = [""] * len(rows)
    for at in range(len(rows[0])):
        cells = [row[at] for row in rows]
        width = max(map(len, cells))
        numeric = all(_is_number(text) for text in cells[1:] if text)
        padded = [text.rjust(width) if numeric else text.ljust(width) for text in cells]
        lines = [f"{line}  {text}" if line else text for line, text in zip(lines, padded, strict=True)]
    return [line.rstrip() for line in lines]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
