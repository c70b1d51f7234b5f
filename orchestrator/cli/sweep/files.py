"""The files in which a sweep's results can be looked at: sweep.csv, sweep.html and sweep.png, beside its sweep.json.

Whoever runs the sweep says when they are written. Invariants: a reader finds the old file or the new one, whole; what
cannot be written is told and costs nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from orchestrator.cli.paths import shown
from orchestrator.cli.secrets import Secrets
from orchestrator.cli.sweep import csv_file
from orchestrator.cli.sweep.table import columns, number, objective, pairs, short_names, tally
from orchestrator.core.sweep import Sweep

NO_PNG = "there is no sweep.png without matplotlib: pip install 'orchestrator[sweep]'"


def write(sweep: Sweep, directory: Path, secrets: Secrets) -> list[str]:
    """Write all of them; returns what a person should know: what could not be written, and why.

    A sweep that looks for nothing has no picture, for it would cost more than many a job.
    """
    files: dict[str, Callable[[], bytes]] = {
        "sweep.csv": lambda: csv_file.text(sweep, secrets).encode("utf-8", "backslashreplace"),
        "sweep.html": lambda: _page(sweep, secrets),
    }
    if sweep.objective is not None:
        files["sweep.png"] = lambda: _picture(sweep, secrets)
    notes = []
    for name, make in files.items():
        path = directory / name
        try:
            replace(path, make())
        except OSError as error:
            notes.append(f"{shown(path)}: {error.strerror or error}")
        except ImportError:
            notes.append(NO_PNG)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # one that was drawn before shows another sweep
    return notes


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` in the place of ``path``. Raises OSError; then the old file stands, and nothing else is left."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _page(sweep: Sweep, secrets: Secrets) -> bytes:
    from orchestrator.cli.sweep.html_page import page  # noqa: PLC0415 - when a sweep is over

    return page(sweep, secrets).encode("utf-8", "backslashreplace")


def _picture(sweep: Sweep, secrets: Secrets) -> bytes:
    from orchestrator.cli.sweep.plot import plot  # noqa: PLC0415 - as above
    from orchestrator.cli.sweep.png_plot import png  # noqa: PLC0415 - as above

    best = sweep.best
    names = short_names(columns(sweep))
    told = f" · best {objective(sweep)} {number(best.value)}: {pairs(best, names, secrets)}" if best is not None else ""
    return png(plot(sweep, secrets), f"sweep {secrets.mask(sweep.name)}", f"{tally(sweep)}{told}")
