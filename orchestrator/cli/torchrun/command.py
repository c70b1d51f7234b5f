"""``orchestrate-torchrun``: reads the command line, and runs the job that it means, or prints it.

Exit codes are torchrun's: 1 whatever ended the workers, also a signal. Invariant: torch is never imported, and nothing
is started before the whole job is checked.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from orchestrator.cli.main import begin, guarded, prepare
from orchestrator.cli.saying import say
from orchestrator.cli.torchrun.compiled import Compiled
from orchestrator.cli.torchrun.meeting import Hosting, is_free, is_this_host
from orchestrator.cli.torchrun.options import Given, parse
from orchestrator.cli.torchrun.output import run_dir
from orchestrator.cli.torchrun.settings import compiled
from orchestrator.errors import ConfigError, ExitCode

_AS_THEY_ARE = (ExitCode.SUCCEEDED, ExitCode.BAD_CONFIG, ExitCode.INTERNAL)
_QUIET = "WARNING"  # torchrun says nothing when all is well


def main() -> int:
    """The console script. Returns the exit code."""
    code = guarded(lambda: run(sys.argv[1:]))
    return code if code in _AS_THEY_ARE else ExitCode.WORKERS_FAILED


def run(words: Sequence[str]) -> int:
    """Do what a command line of torchrun's says."""
    given = parse(words, os.environ)
    if given.values.print_recipe:
        job = _compiled(given, lambda host, _port: is_this_host(host))
        kept = [word for word in words if word != "--print-recipe"]
        sys.stdout.write(job.recipe(Path(given.values.training_script).stem or "job", shlex.join(["torchrun", *kept])))
        return ExitCode.SUCCEEDED
    job = _compiled(given, brings_server)
    for note in job.notes:
        say(f"note: {note}")
    log_dir = given.values.log_dir
    if log_dir is not None:
        return _run(job, run_dir(log_dir), given)
    directory = tempfile.mkdtemp(prefix="orchestrate_")  # as torchrun, which leaves nothing where one stands
    code = _run(job, directory, given)
    if code == ExitCode.SUCCEEDED and not {"redirects", "tee"} & given.said.keys():
        shutil.rmtree(directory, ignore_errors=True)
    return code


def _compiled(given: Given, hosting: Hosting) -> Compiled:
    job = compiled(given, os.environ, hosting)
    if job.problems:
        raise ConfigError(job.problems)
    return job


def _run(job: Compiled, directory: str, given: Given) -> int:
    from orchestrator.cli.voices import Voices  # noqa: PLC0415 - not needed to say what is wrong

    voices = partial(Voices, level=os.environ.get("LOGLEVEL", _QUIET))
    if given.values.report == "torchrun":
        from orchestrator.cli.torchrun.block import block_lines  # noqa: PLC0415 - if asked for

        voices = partial(voices, report=partial(block_lines, name=_name(given)))
    return begin(*prepare(job.line(directory)), voices=voices)


def _name(given: Given) -> str:
    """What torchrun calls the job in its report."""
    values = given.values
    if values.no_python or "PYTHON_EXEC" not in os.environ:
        return str(values.training_script)
    return os.environ["PYTHON_EXEC"]


def brings_server(host: str, port: int) -> bool:
    """Whether this process is to bring the server of an endpoint: the first one on the host that the endpoint names.

    Of several that start at once one gets a lock, which it keeps to its end.
    """
    if not is_this_host(host):
        return False
    from orchestrator.cli.resolvers import take_lock  # noqa: PLC0415 - several nodes only

    return take_lock(f"port.{port}") and is_free(host, port)
