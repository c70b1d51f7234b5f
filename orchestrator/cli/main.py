"""``orchestrate``: sorts the command line, composes the job, checks it, runs it, and ends with an exit code.

A plain run composes once and makes no directory before everything is checked; what `hydra.main` does besides (showing,
completing, sweeping) it still does. Invariant: wrong configuration ends in lines on stderr and exit code 2; a traceback
is shown for our own bugs only. What is heavy is imported where it is needed, for start-up is what people wait for.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from orchestrator.cli.saying import say
from orchestrator.errors import ConfigError, ExitCode, OrchestratorError

if TYPE_CHECKING:
    from orchestrator.cli.argv import Line
    from orchestrator.cli.compose import Composed
    from orchestrator.cli.job import Job
    from orchestrator.cli.run import MakeVoices

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def main() -> int:
    """The console script. Returns the exit code."""
    return guarded(lambda: _orchestrate(sys.argv[1:]))


def guarded(work: Callable[[], int]) -> int:
    """Run a command's work; every way in which it can end becomes an exit code, and lines on stderr."""
    gc.disable()  # nothing that composing makes becomes garbage before it is done
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # it is not when somebody ignores it, as a shell does for a script's `&`
        signal.signal(signal.SIGINT, _interrupted)
    try:
        return work()
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.SUCCEEDED
    except OrchestratorError as error:
        if error.exit_code is ExitCode.INTERNAL:
            _show_bug()
        else:
            complain(error)
        return error.exit_code
    except KeyboardInterrupt:  # while a sweep puts its end in order; it has said what it had to say
        return INTERRUPTED
    except Exception:  # noqa: BLE001 - the last door: whatever comes here is our bug, and is shown whole
        _show_bug()
        return ExitCode.INTERNAL
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, before)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    """Ctrl-C until a run has its own answer to it; an exception could surface as anything in whatever is loading."""
    os.write(2, b"interrupted before anything was started\n")
    os._exit(INTERRUPTED)


def complain(error: OrchestratorError) -> None:
    """Every problem on a line of its own."""
    lines = [str(one) for one in dict.fromkeys(error.problems)] if isinstance(error, ConfigError) else [str(error)]
    say("\n".join(f"error: {line}" for line in lines))  # at once: what is secret is looked for in the whole job


def _show_bug() -> None:
    import traceback  # noqa: PLC0415 - a bug is rare

    say(traceback.format_exc().rstrip())
    say("this is a bug of the orchestrator; please report it with the lines above")


def _orchestrate(words: Sequence[str]) -> int:
    from orchestrator.cli import argv  # noqa: PLC0415

    line = argv.parse(words)
    if "--version" in line.flags.given:
        return show_version()
    if line.flags.shows:
        return _show(line)
    return _sweep(line) if _sweeps(line) else _run(line)


def show_version() -> int:
    """Whose commands these are, and on which Hydra."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - 15 ms

    try:
        ours = version("orchestrator")
    except PackageNotFoundError:
        ours = "(not installed)"
    print(f"orchestrate {ours}, Hydra {version('hydra-core')}")  # noqa: T201 - it was asked for
    return ExitCode.SUCCEEDED


def _sweeps(line: Line) -> bool:
    return line.flags.sweeps or any(override.key == "hydra.mode" for override in line.overrides)


def _run(line: Line) -> int:
    """One job in this process."""
    return begin(*prepare(line))


def prepare(line: Line) -> tuple[Composed, Job]:
    """Compose and check the job of ``line``; nothing is started or written yet."""
    from orchestrator.cli import resolvers  # noqa: PLC0415
    from orchestrator.cli.compose import compose  # noqa: PLC0415
    from orchestrator.cli.job import check, claim  # noqa: PLC0415

    made = resolvers.register()
    composed = compose(line)
    return composed, claim(check(composed.cfg, line, made, composed.problems), line, made)


def begin(composed: Composed, job: Job, voices: MakeVoices | None = None) -> int:
    """Run a job until it ends. ``voices``: how it is told, if not as usual."""
    from orchestrator.cli.compose import perform  # noqa: PLC0415

    outcome: list[int] = []
    perform(composed, lambda _cfg: outcome.append(_start(job, voices)))
    return outcome[0]


def _start(job: Job, voices: MakeVoices | None = None) -> int:
    """Hand a checked job to whoever runs it."""
    from orchestrator.cli.jobyaml import job_yaml  # noqa: PLC0415
    from orchestrator.cli.publication import publication  # noqa: PLC0415
    from orchestrator.cli.run import run_job  # noqa: PLC0415

    for note in job.notes:
        say(f"note: {note}", job.secrets)
    return run_job(job.spec, job_yaml=job_yaml(job), publication=publication(job), secrets=job.secrets, voices=voices)


def _sweep(line: Line) -> int:
    """Several jobs, by Hydra's sweeper and launcher."""
    from orchestrator.cli.sweep.command import sweep  # noqa: PLC0415

    return sweep(line, _start, complain)


def _show(line: Line) -> int:
    """What Hydra shows instead of running: --cfg, --info, --help, completion; without secrets."""
    import contextlib  # noqa: PLC0415
    import io  # noqa: PLC0415

    from orchestrator.cli import resolvers  # noqa: PLC0415
    from orchestrator.cli.compose import FOREIGN, problems_of, through_hydra  # noqa: PLC0415
    from orchestrator.cli.terminal_text import safe_secrets  # noqa: PLC0415

    if line.problems:
        raise ConfigError(line.problems)
    resolvers.register()
    shown, code = io.StringIO(), 0
    quiet = (*FOREIGN, ConfigError, LookupError) if line.flags.completes else ()  # a half-typed line is no error
    try:
        with contextlib.redirect_stdout(shown):
            through_hydra(line, lambda _cfg: None)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except quiet:
        code = ExitCode.WORKERS_FAILED
    except FOREIGN as error:
        raise ConfigError(problems_of(error, line)) from None
    sys.stdout.write(safe_secrets(line).mask(shown.getvalue()))
    sys.stdout.flush()
    return code
