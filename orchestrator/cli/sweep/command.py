"""``orchestrate -m``: the sweep of a command line, by Hydra's sweeper and by our launcher, or by another one.

Invariant: wrong configuration of any job ends in exit code 2 before anything was started.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from orchestrator.cli import argv, resolvers, source
from orchestrator.cli.argv import Line
from orchestrator.cli.compose import FOREIGN, compose, problems_of, through_hydra
from orchestrator.cli.origins import Origins
from orchestrator.cli.plain import plain
from orchestrator.cli.quoting import quoted
from orchestrator.cli.sweep import launcher
from orchestrator.cli.sweep.interrupts import Interrupted, heed_no_more
from orchestrator.cli.sweep.session import SweepHalted, SweepSession
from orchestrator.cli.sweep.task import Start, Task
from orchestrator.config.convert import convert
from orchestrator.config.report import Report
from orchestrator.config.sweep import SweepConfig
from orchestrator.errors import ConfigError, ExitCode

Complain = Callable[[ConfigError], None]


def sweep(line: Line, start: Start, complain: Complain) -> int:
    """Run the sweep; the exit code. ``start`` runs one job for launchers other than ours."""
    if line.problems:
        raise ConfigError(line.problems)
    made = resolvers.register()
    line = _with_params(line)
    session = SweepSession(line, made)
    launcher.register(session)
    ended, stopped_by = True, 0
    try:
        through_hydra(line, Task(line, start, made))
    except SweepHalted:
        pass
    except (Interrupted, KeyboardInterrupt) as end:  # while the sweeper thought; or Ctrl-C in the moment before
        stopped_by = int(getattr(end, "signum", signal.SIGINT))
        session.interrupt(stopped_by)
    except FOREIGN as error:
        if not session.has_begun:
            raise ConfigError(problems_of(error, line)) from None
        if not all(job.state.is_final and not job.state.is_done for job in session.jobs):
            complain(ConfigError(problems_of(error, line)))
        ended = False  # a sweeper that has nothing to say about a sweep in which all jobs failed
    finally:
        heed_no_more()
        code = session.close()
    if stopped_by:
        return code or 128 + stopped_by
    return code or (ExitCode.SUCCEEDED if ended else ExitCode.WORKERS_FAILED)


def _with_params(line: Line) -> Line:
    """The command line, with what the recipe sweeps unless the line says itself what to sweep."""
    if any(_sweeps(override.hydra) or override.key == "hydra.sweeper.params" for override in line.overrides):
        return line
    composed = compose(line)
    report = Report()
    data = plain(OmegaConf.masked_copy(composed.cfg, ["sweep"]), report)
    config = convert(SweepConfig, data.get("sweep"), "sweep", report)
    words = list(_words(config.params))
    more = argv.parse(["-m", *words])
    problems = [*report.problems, *more.problems]
    if problems:
        origins = Origins(line, source.LOADED, dict(composed.cfg.hydra.runtime.choices))
        raise ConfigError([origins.fill_in(problem) for problem in problems])
    return replace(line, overrides=[*line.overrides, *more.overrides], chosen=line.chosen | more.chosen)


def _sweeps(override: str) -> bool:
    try:
        return bool(OverridesParser.create().parse_override(override).is_sweep_override())
    except HydraException:  # Hydra will say what is wrong with it
        return True


def _words(params: Mapping[str, object]) -> Iterator[str]:
    """Each parameter as it would be typed."""
    for key, values in params.items():
        several = values if isinstance(values, tuple) else None
        yield f"{key}={values if several is None else ','.join(map(_word, several))}"


def _word(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return quoted(value) if isinstance(value, str) else str(value)
