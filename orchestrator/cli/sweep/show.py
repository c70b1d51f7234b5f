"""``orchestratectl sweep DIR``: a sweep's table again, from its sweep.json.

Only reads. Invariant: a directory that holds no sweep, or a file that somebody has broken, is a ConfigError that says
what was looked for.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from orchestrator.cli.paths import shown
from orchestrator.cli.secrets import Secrets
from orchestrator.cli.sweep import table
from orchestrator.core.sweep import Sweep, SweepJob, from_dict, to_dict
from orchestrator.errors import ConfigError, Problem

FILE = "sweep.json"


def answer(words: list[str]) -> tuple[str, Any]:
    """The sweep of the one directory in ``words``, sorted by its objective: as text, and JSON-ready."""
    if len(words) != 1 or words[0].startswith("-"):
        fact = f"{len(words)} words" if len(words) != 1 else f"{words[0]!r} is no option of this verb"
        raise ConfigError([Problem("sweep", fact, "give one directory, as in orchestratectl sweep sweeps/NAME")])
    sweep, secrets = read(Path(words[0])), Secrets.of(None, os.environ)
    return table.table(sweep, secrets), to_dict(masked(sweep, secrets))


def read(directory: Path) -> Sweep:
    """The sweep in ``directory``; raises a ConfigError if there is none, or none that can be read."""
    path = directory / FILE
    where = shown(path)
    try:
        return from_dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        fact = "has no sweep.json" if directory.is_dir() else "is not a directory"
        remedy = "give the directory of a sweep, hydra.sweep.dir: sweeps/NAME unless you chose it"
        raise ConfigError([Problem(shown(directory), fact, remedy)]) from None
    except OSError as error:
        raise ConfigError([Problem(where, f"cannot be read: {error.strerror}")]) from None
    except (ValueError, RecursionError) as error:
        said = str(error).removeprefix("sweep.json.")
        raise ConfigError(
            [Problem(where, f"is not a sweep's: {said}", "run the sweep again to have it made anew")]
        ) from None


def masked(sweep: Sweep, secrets: Secrets) -> Sweep:
    """The same, sorted by its objective, with nothing secret in any text."""
    return dataclasses.replace(sweep, jobs=tuple(_masked(job, secrets) for job in table.ranked(sweep)))


def _masked(job: SweepJob, secrets: Secrets) -> SweepJob:
    return dataclasses.replace(
        job,
        overrides=tuple(table.override(text, secrets) for text in job.overrides),
        params={key: table.exact(key, value, secrets) for key, value in job.params.items()},
        message=secrets.mask(job.message),
        dir=secrets.mask(job.dir),
    )
