"""The launcher's own process under `orchestrator.launch`: ``python -m orchestrator.cli.torchrun.launched RECIPE DIR``.

Invariant: it stops when whoever launched it has gone, for then the pipe that is its stdin ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path

from orchestrator.cli.argv import parse
from orchestrator.cli.main import begin, guarded, prepare
from orchestrator.cli.quoting import quoted
from orchestrator.cli.torchrun.launching import PROBLEMS
from orchestrator.errors import ConfigError


def main() -> int:
    """Run the job of a recipe. Returns the exit code."""
    return guarded(lambda: _run(*sys.argv[1:]))


def _run(recipe: str, run_dir: str) -> int:
    from orchestrator.cli.voices import Voices  # noqa: PLC0415 - not before the job is sound

    try:
        composed, job = prepare(parse([recipe, f"hydra.run.dir={quoted(run_dir)}"]))
    except ConfigError as error:
        Path(recipe).with_name(PROBLEMS).write_text(json.dumps([asdict(one) for one in error.problems]))
        return error.exit_code
    threading.Thread(target=_end_with_caller, daemon=True).start()
    return begin(composed, job, voices=partial(Voices, level=os.environ.get("LOGLEVEL", "WARNING")))


def _end_with_caller() -> None:
    while os.read(0, 1):  # nothing that Python would want to close at its end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
