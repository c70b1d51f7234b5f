"""``sweep.csv``: a row for each job, a column for each parameter, as RFC 4180 has it (UTF-8, CRLF, a header).

Spreadsheets execute what begins like a formula, and parameters may come from anybody's recipe. So a text that begins
with ``= + - @``, a tab or a line break gets an apostrophe before it, the sign of a text. Numbers stay as they are, also
negative ones. Invariant: no cell is executed; who needs every text to the letter reads sweep.json.
"""

from __future__ import annotations

import csv
import io

from orchestrator.cli.secrets import Secrets
from orchestrator.cli.sweep.table import columns, exact
from orchestrator.core.sweep import Scalar, Sweep

_EXECUTED = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # also their full-width forms


def text(sweep: Sweep, secrets: Secrets) -> str:
    """The whole file; jobs by their number."""
    keys = columns(sweep)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(["n", *map(_safe, keys), "state", "value", "attempts", "seconds", "dir", "message"])
    for job in sweep.jobs:
        params = [exact(key, job.params[key], secrets) if key in job.params else "" for key in keys]
        told = [secrets.mask(job.dir), secrets.mask(job.message)]
        writer.writerow(map(_safe, [job.n, *params, job.state.value, job.value, job.attempts, job.seconds, *told]))
    return file.getvalue()


def _safe(value: Scalar) -> Scalar:
    """A cell that no spreadsheet executes, and no reader takes for the end of the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        value = value.replace("\0", "\\x00")
        return f"'{value}" if value.startswith(_EXECUTED) else value
    return value
