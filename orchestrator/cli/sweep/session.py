"""One sweep of this process, from its first batch of jobs to its end: plans them, has them run, and shows them.

Invariant: before anything of a batch is started, all of it was composed and checked; and a sweep that has begun ends
with its table, its files and nothing left of it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from orchestrator.cli import source
from orchestrator.cli.argv import Line
from orchestrator.cli.job import this_host
from orchestrator.cli.origins import Origins
from orchestrator.cli.paths import absolute, shown
from orchestrator.cli.plain import plain
from orchestrator.cli.resolvers import MadeUp
from orchestrator.cli.secrets import Secrets
from orchestrator.cli.sweep import interrupts
from orchestrator.cli.sweep.compose import Composer
from orchestrator.cli.sweep.folder import Folder
from orchestrator.cli.sweep.jobs import Planned, Planner
from orchestrator.cli.terminal import level_of
from orchestrator.config.convert import convert
from orchestrator.config.report import Report
from orchestrator.config.sharing import limit, need
from orchestrator.config.sweep import SweepConfig
from orchestrator.core.slots import Machine, Need, Slots
from orchestrator.core.sweep import JobState, Sweep, SweepJob
from orchestrator.errors import ConfigError, ExitCode, InternalError, OrchestratorError, Problem

if TYPE_CHECKING:
    from orchestrator.cli.sweep.book import Book
    from orchestrator.cli.sweep.elsewhere import ElsewhereRun
    from orchestrator.cli.sweep.run import SweepRun
    from orchestrator.cli.sweep.view import SweepView
    from orchestrator.edge.console import Console

_MANY = 50  # jobs, which take some seconds to check
_OPTUNA = "hydra_plugins.hydra_optuna_sweeper."


class SweepHalted(Exception):
    """The sweep is over before its sweeper thinks so."""


class SweepSession:
    """The sweep of one command line."""

    def __init__(self, line: Line, made: MadeUp) -> None:
        self._line = line
        self._made = made
        self._config = SweepConfig()
        self._trials = 0  # how many the sweeper said that it will ask for
        self._planner: Planner | None = None
        self._folder: Folder | None = None
        self._book: Book | None = None
        self._launcher: Launcher | None = None  # one that is not ours, if the sweep has one
        self._run: SweepRun | None = None
        self._elsewhere: ElsewhereRun | None = None
        self._view: SweepView | None = None
        self._console: Console | None = None
        self._runner: asyncio.Runner | None = None

    @property
    def has_begun(self) -> bool:
        """Whether jobs were checked, and run if any were left to do."""
        return self._book is not None

    @property
    def jobs(self) -> tuple[SweepJob, ...]:
        """What is known of all jobs so far."""
        return self._book.sweep.jobs if self._book is not None else ()

    def begin(self, context: HydraContext, config: DictConfig, launcher: Launcher | None) -> None:
        """Read what the sweep's own configuration says; nothing is made yet."""
        self._launcher = launcher
        report = Report()
        data = plain(OmegaConf.masked_copy(config, ["sweep"]), report) if "sweep" in config else {}
        self._config = convert(SweepConfig, data.get("sweep", {}), "sweep", report)
        target = str(config.hydra.sweeper.get("_target_", ""))
        for asked, why in ((target.startswith(_OPTUNA), "look for the best"), (self._config.prune, "stop the worst")):
            if asked and self._config.objective is None:
                report.problem("sweep.objective", f"is needed to {why}", "name what workers report, as in loss")
        self._trials = int(config.hydra.sweeper.get("n_trials") or 0)
        if report.problems:
            origins = Origins(self._line, source.LOADED, dict(config.hydra.runtime.choices))
            raise ConfigError([origins.fill_in(problem) for problem in report.problems])
        gc.freeze()  # what was imported and composed stays, and need not be looked through
        gc.set_threshold(20_000)  # composing a job makes very much at once
        gc.enable()
        HydraConfig.instance().set_config(config)
        self._directory = absolute(str(OmegaConf.select(config, "hydra.sweep.dir")))
        self._name = Path(self._directory).name
        self._planner = Planner(
            self._line,
            self._made,
            Composer(context.config_loader, config),
            folder=self._directory,
            name=_plain_name(self._name),
        )

    def launch(self, batch: Sequence[Sequence[str]], first: int) -> list[SweepJob]:
        """Run a batch of jobs; raises a ConfigError before any is started, and `SweepHalted` when no more may be."""
        try:
            return self._launch(batch, first)
        except (OrchestratorError, SweepHalted):
            raise
        except Exception as bug:  # which must not be taken for something that Hydra says of the configuration
            raise InternalError("a sweep's batch") from bug

    def _launch(self, batch: Sequence[Sequence[str]], first: int) -> list[SweepJob]:
        if self._planner is None:
            raise RuntimeError("a batch before the sweep has begun")
        if self._book is None and len(batch) >= _MANY and level_of(os.environ.get("LOGLEVEL", "INFO")) <= logging.INFO:
            print(f"checking {len(batch)} jobs before any starts", file=sys.stderr)  # noqa: T201 - it takes a while
        planned = self._planner.plan(batch, first)
        needs = self._needs(planned)
        book = self._opened(planned)
        keys = [one.key for one in planned]
        different = {one.key: (one, what) for one, what in zip(planned, needs, strict=True)}
        todo = [task for task in different.values() if book.add(task[0]).state is JobState.PENDING]
        del planned, different  # which hold much; of what is done the book knows enough
        self._show(book)
        if todo and self._elsewhere is not None:
            self._elsewhere.batch([one for one, _ in todo], first)
            interrupts.heed()  # again: a launcher may have had answers of its own
        elif todo and self._runner is not None and self._run is not None:
            self._runner.run(self._run.batch(todo))
            interrupts.heed(self._run.preempt, self._run.forwarded)
        if (run := self._elsewhere or self._run) is not None and run.halted:
            raise SweepHalted(run.halted)
        return [book[key] for key in keys]

    def _needs(self, planned: Sequence[Planned]) -> list[Need]:
        if self._launcher is not None:
            return [Need() for _ in planned]  # what there is where it runs them, it knows
        machine = this_machine()
        slots = Slots(machine)
        needs = [need(self._config, one.spec.groups, machine) for one in planned]
        lacking = {name: getattr(what, name) for what in needs if (name := slots.lacking(what))}
        if lacking:
            raise ConfigError(
                [
                    Problem(f"sweep.{name}", f"{wanted} is more than this machine has", "ask for less")
                    for name, wanted in lacking.items()
                ]
            )
        return needs

    def _opened(self, planned: Sequence[Planned]) -> Book:
        """The sweep's directory, its book, and whoever runs its jobs; made for the first batch."""
        if self._book is None:
            from orchestrator.cli.sweep.book import Book  # noqa: PLC0415 - with asyncio, and all of the edge
            from orchestrator.edge.console import Console  # noqa: PLC0415 - as above

            self._folder = folder = Folder(Path(self._directory), self._config)
            secrets = Secrets({name: value for one in planned for name, value in one.secrets.values.items()})
            slots = Slots(this_machine(), limit(self._config))
            here = slots.at_once(need(self._config, planned[0].spec.groups, slots.machine))
            sweep = Sweep(
                name=self._name,
                objective=self._config.objective,
                direction="maximize" if self._config.direction == "maximize" else "minimize",
                slots=here if self._launcher is None else len(planned),
            )
            self._console = console = Console(mask=secrets.mask)
            self._book = Book(sweep, folder, lambda text: console.say(text, "warn"))
            self._engage(self._book, folder, slots)
            self._secrets = secrets
            for note in dict.fromkeys(str(note) for one in planned for note in one.notes):
                console.say(f"note: {note}")
        return self._book

    def _engage(self, book: Book, folder: Folder, slots: Slots) -> None:
        """Make whoever runs the jobs."""
        if self._launcher is not None:
            from orchestrator.cli.sweep.elsewhere import ElsewhereRun  # noqa: PLC0415 - few sweeps need it

            self._elsewhere = ElsewhereRun(self._launcher, self._config, book=book, folder=folder)
            return
        from orchestrator.cli.sweep.run import SweepRun  # noqa: PLC0415 - with asyncio, and all of the edge

        self._runner = asyncio.Runner()
        self._run = SweepRun(folder, self._config, slots=slots, book=book, again=self._again, say=self._warn)

    def _warn(self, text: str) -> None:
        if self._console is not None:
            self._console.say(text, "warn")

    def _show(self, book: Book) -> None:
        """Show the sweep from now on, or how large it has become."""
        if self._view is None and self._console is not None:
            from orchestrator.cli.sweep.view import SweepView  # noqa: PLC0415 - as above

            self._view = book.view = SweepView(self._console, book.sweep, self._secrets)
            self._view.begin()
        elif self._view is not None:
            self._view.expect(max(self._trials, len(book.sweep.jobs)))

    def _again(self, planned: Planned) -> Planned:
        if self._planner is None or self._book is None:
            raise RuntimeError("a job before the sweep has begun")
        return self._planner.one(planned.arguments, self._book[planned.key].n)

    def interrupt(self, signum: int) -> None:
        """A signal came while the sweeper thought about what to ask for next."""
        if (run := self._run or self._elsewhere) is not None:
            run.request_stop(signum)

    def close(self) -> int:
        """End what is left and say how the sweep ended; the exit code."""
        code = int(ExitCode.SUCCEEDED)
        try:
            if self._runner is not None and self._run is not None:
                self._runner.run(self._run.close())
                self._runner.close()
            run = self._run or self._elsewhere
            if self._book is not None and self._folder is not None and run is not None:
                sweep = self._book.close()
                code = run.exit_code or sweep.exit_code
                if self._view is not None:
                    self._view.end(sweep)
                self._draw(sweep, self._folder.path)
        finally:
            if self._console is not None:
                self._console.close(5.0)
            if self._folder is not None:
                self._folder.close()
        return code

    def _draw(self, sweep: Sweep, directory: Path) -> None:
        """The files in which a person looks at the results."""
        from orchestrator.cli.sweep import files  # noqa: PLC0415 - when a sweep is over

        page = shown(directory / "sweep.html")
        notes = files.write(sweep, directory, self._secrets)
        for note in notes:
            self._warn(note)
        if self._console is not None and not any(note.startswith(page) for note in notes):
            self._console.say(f"results: {page}", "dim")


def this_machine() -> Machine:
    """What the jobs of a sweep may share."""
    host = this_host()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible is not None else map(str, range(host.gpus()))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(cpus=host.cpus, gpus=tuple(name for name in names if name not in ("", "-1")), memory_mb=pages >> 20)


def _plain_name(name: str) -> str:
    """The beginning of a run_id, in the letters that it may have."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[:40]
