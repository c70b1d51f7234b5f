"""torchrun's options (torch 2.13): both spellings, prefixes, PET_* variables, and whatever follows the script.

Only reads the command line; what an option means to us is `settings`' business. Invariant: a word that torchrun takes
means the same here, and options of our own are never mistaken for a shortened one of torchrun's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

USAGE = "orchestrate-torchrun [options] [-m] SCRIPT [arguments of the script]"
ABOUT = """torchrun's command line, run by the orchestrator.

Every option of torchrun 2.13 is taken, also as --with_underscores, shortened, or from its PET_* variable. The command
is compiled to a job of ours: --print-recipe shows it. What cannot be honoured is named at the start, on a line each."""
ENDING = """\
Exit codes: 0 all workers succeeded; 1 they failed, could not meet, or were stopped by a signal; 2 the command
line is wrong (nothing was started); 70 a bug of ours."""
_REPORTS = ("orchestrator", "torchrun")
OURS = ("--report", "--print-recipe")


class Option(NamedTuple):
    """One of torchrun's: its long name first. ``default`` None: not given, and torchrun's own default is None too."""

    names: tuple[str, ...]
    default: Any
    help: str
    read: Any = str  # None: a flag
    choices: tuple[str, ...] | None = None
    pet: bool = True  # whether a variable PET_NAME is its default


def comma_list(text: str) -> list[str]:
    """``a,b`` as two words; ``,,`` stands for a comma."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",") if part]


NUMA = ("node", "socket", "exclusive", "core-complex")
GROUPS: Mapping[str, tuple[Option, ...]] = {
    "size": (
        Option(("--nnodes",), "1:1", "nodes: N, or MIN:MAX for a job that may shrink and grow"),
        Option(("--nproc-per-node",), "1", "workers per node: a number, auto, cpu or gpu"),
        Option(("--role",), "default", "name of the worker group"),
    ),
    "how nodes meet": (
        Option(("--standalone",), False, "one node that needs no others", None),
        Option(("--rdzv-backend",), "static", "c10d, static, or orchestrator (a Redis server of yours)"),
        Option(("--rdzv-endpoint",), "", "HOST:PORT; a redis:// URL is a server of yours, with any backend"),
        Option(("--rdzv-id",), "none", "what all nodes of one job share"),
        Option(("--rdzv-conf",), "", "key=value,...: join_timeout, last_call_timeout, timeout, is_host, lease, ..."),
        Option(("--node-rank",), 0, "this node's number", int),
        Option(("--master-addr",), "127.0.0.1", "static: the host of node 0"),
        Option(("--master-port",), None, "static: the port there (29500)", int),
        Option(("--local-addr",), None, "this node's address, as the others reach it"),
    ),
    "what is run": (
        Option(("--module", "-m"), False, "the script is a module, as in python -m", None),
        Option(("--no-python",), False, "the script is a program, and run as it is", None),
        Option(("--run-path",), False, "as a script; each worker is a fresh interpreter here", None),
        Option(("--virtual-local-rank",), False, "LOCAL_RANK=0 and one visible device for every worker", None),
        Option(("--numa-binding",), None, "bind workers to processors", str, NUMA, pet=False),
        Option(
            ("--start-method",), "spawn", "for functions only: without effect", str, ("spawn", "fork", "forkserver")
        ),
    ),
    "failures and stops": (
        Option(("--max-restarts",), 0, "restarts of the group before the job fails", int),
        Option(("--monitor-interval",), 0.1, "without effect: nothing is polled", float),
        Option(("--signals-to-handle",), "SIGTERM,SIGINT,SIGHUP,SIGQUIT", "signals that stop the job"),
        Option(("--shutdown-timeout",), None, "seconds that workers have to end (30)", int),
        Option(("--event-log-handler",), "null", "without effect: events are in events.jsonl"),
    ),
    "output": (
        Option(("--log-dir",), None, "where the run's files go"),
        Option(("--redirects", "-r"), "0", "to files: 0, 1 (stdout), 2 (stderr), 3 (both), or RANK:N,RANK:N"),
        Option(("--tee", "-t"), "0", "to files and the console: as -r"),
        Option(("--local-ranks-filter",), "", "the only local ranks that the console shows: 0,1,2"),
        Option(("--duplicate-stdout-filters",), [], "copy tee'd lines with one of these words: a,b", comma_list),
        Option(("--duplicate-stderr-filters",), [], "the same for stderr", comma_list),
        Option(("--logs-specs",), None, "torch's classes are not loaded: default only", str, pet=False),
    ),
}


class _Parser(argparse.ArgumentParser):
    def _get_option_tuples(self, option_string: str) -> Any:  # noqa: ANN401 - argparse's own protocol
        """Ours must be spelled out: what is short for one of torchrun's must stay so. Two spellings are one option."""
        found = super()._get_option_tuples(option_string)
        theirs = [one for one in found if not set(one[0].option_strings) & set(OURS)]
        return list({id(one[0]): one for one in reversed(theirs)}.values())


class _Lines(argparse.RawDescriptionHelpFormatter):
    """Names each option once, in its own spelling, with what it means beside it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=120)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar)
        names = [name for name in action.option_strings if not name.startswith("--") or "_" not in name]
        if action.nargs == 0 or action.metavar is None:
            return ", ".join(names)
        return f"{', '.join(names)} {action.metavar}"


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """A parser whose defaults come from ``environ``."""
    made = _Parser(
        prog="orchestrate-torchrun",
        usage=USAGE,
        description=ABOUT,
        epilog=ENDING,
        formatter_class=_Lines,
    )
    for title, options in GROUPS.items():
        section = made.add_argument_group(title)
        for option in options:
            _add(section, option, environ)
    own = made.add_argument_group("ours, not torchrun's")
    own.add_argument(
        "--print-recipe", action="store_true", help="print the job as a recipe for orchestrate; run nothing"
    )
    own.add_argument("--report", choices=_REPORTS, default=_REPORTS[0], metavar="|".join(_REPORTS), help="its form")
    made.add_argument("training_script", metavar="SCRIPT", help="what each worker runs")
    made.add_argument("training_script_args", nargs=argparse.REMAINDER, metavar="...", help="its arguments, untouched")
    return made


_SHAPES: Mapping[Any, str] = {int: "N", float: "N", comma_list: "A,B"}


def _add(section: Any, option: Option, environ: Mapping[str, str]) -> None:  # noqa: ANN401 - argparse has no public type
    long, *short = option.names
    names = [*short, *dict.fromkeys((long, f"--{long[2:].replace('-', '_')}"))]
    variable = f"PET_{destination(option).upper()}"
    given = environ.get(variable) if option.pet else None
    if option.read is None:
        section.add_argument(*names, action="store_true", default=_flag(variable, given), help=option.help)
        return
    metavar = "|".join(option.choices) if option.choices else _SHAPES.get(option.read, "X")
    section.add_argument(
        *names,
        type=option.read,
        default=option.default if given is None else given,
        choices=option.choices,
        metavar=metavar,
        help=option.help,
    )


def _flag(variable: str, given: str | None) -> bool:
    if given is None:
        return False
    try:
        return bool(int(given))
    except ValueError:
        raise SystemExit(f"orchestrate-torchrun: error: {variable}={given} is neither 0 nor 1") from None


def destination(option: Option) -> str:
    """The attribute of the parsed command line that holds it."""
    return option.names[0][2:].replace("-", "_")


def all_options() -> Iterator[Option]:
    """Every option of torchrun's."""
    for options in GROUPS.values():
        yield from options


class Given(NamedTuple):
    """A command line that was read: the values, and which options were given by word or variable."""

    values: argparse.Namespace
    said: Mapping[str, str]  # by name: how it was said, for messages


def parse(words: Sequence[str], environ: Mapping[str, str]) -> Given:
    """Read a command line. As argparse does, this ends the process with 2 for a wrong one, and with 0 for --help."""
    values = parser(environ).parse_args(words)
    said = {}
    for option in all_options():
        name, variable = destination(option), f"PET_{destination(option).upper()}"
        value = getattr(values, name)
        if value != option.default or (option.pet and variable in environ):
            shown = option.names[0] if option.read is None else f"{option.names[0]}={_text(value)}"
            said[name] = shown
    return Given(values, said)


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)
