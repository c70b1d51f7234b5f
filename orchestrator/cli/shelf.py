"""``orchestratectl recipes``: which recipes there are, what one means, a new one, and whether files are sound.

Invariant: nothing here starts, imports or downloads anything that a recipe names; `new` is the only one that writes,
and it writes one file that was not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.cli import needs, recipes
from orchestrator.cli.argv import parse
from orchestrator.cli.compose import compose
from orchestrator.cli.composed_text import shown_job
from orchestrator.cli.job import check
from orchestrator.cli.paths import SUFFIXES, shown
from orchestrator.cli.resolvers import register
from orchestrator.cli.terminal_text import safe_secrets
from orchestrator.config.checks import is_meeting
from orchestrator.config.report import listed, nearest, show
from orchestrator.errors import ConfigError, ExitCode, Problem


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb says: for a person, for a program, and with which exit code."""

    text: str
    values: Any
    code: int = ExitCode.SUCCEEDED


def answer(words: Sequence[str]) -> Answer:
    """The answer to what stands behind ``recipes``; nothing: the list of them."""
    verb, rest = (words[0], list(words[1:])) if words else ("list", [])
    if verb not in VERBS:
        remedy = f"{nearest(verb, VERBS)}known: {listed(VERBS)}"
        raise ConfigError([Problem("recipes", f"{show(verb)} is not a verb", remedy)])
    return VERBS[verb](rest)


# -- list


def _list(words: list[str]) -> Answer:
    if words:
        raise ConfigError([Problem("recipes list", f"{show(words[0])} is too much", "it takes nothing")])
    found = [_entry(name) for name in recipes.names()]
    width = max((len(entry["name"]) for entry in found), default=0)
    lines = [f"{entry['name']:{width}}  {_about(entry)}  [{entry['path']}]" for entry in found]
    return Answer("\n".join([*lines, ""]) if lines else "no recipes\n", found)


def _entry(name: str) -> dict[str, Any]:
    path = recipes.find(name)
    entry: dict[str, Any] = {"name": name, "description": None, "needs": [], "met": True, "error": None}
    entry["path"] = shown(path) if path is not None else None
    try:
        found = [recipes.load(path)] if path is not None else []
        for recipe in found:  # it grows while it is read
            found += [recipes.load(base) for base in recipe.bases if base not in {one.path for one in found}]
    except ConfigError as error:
        return entry | {"met": False, "error": str(error.problems[0])}
    header = found[0].data.get("recipe") if found else None
    entry["description"] = header.get("description") if isinstance(header, dict) else None
    wanted = needs.looked_up(dict.fromkeys(need for recipe in reversed(found) for need in recipe.needs))
    return entry | {"needs": needs.values(wanted), "met": all(need.met for need in wanted)}


def _about(entry: Mapping[str, Any]) -> str:
    if entry["error"]:
        return f"is broken: {entry['error']}"
    missing = [str(need["remedy"]) for need in entry["needs"] if not need["met"]]
    needed = "needs nothing" if not entry["needs"] else "needs are met"
    return f"{entry['description'] or '(says nothing)'}; {'needs: ' + ', '.join(missing) if missing else needed}"


# -- show


def _show(words: list[str]) -> Answer:
    if not words:
        raise ConfigError([Problem("recipes show", "names no recipe", f"known: {listed(recipes.names())}")])
    line = parse([_given(words[0]), *words[1:]])
    register()
    composed = compose(line)
    if composed.problems:
        raise ConfigError(composed.problems)
    found = shown_job(composed.cfg, line)
    secrets = safe_secrets(line)
    values = {path: {"value": value, "origin": origin} for path, value, origin in found.values}
    return Answer(secrets.mask(found.text), _masked({"name": words[0], "values": values}, secrets.mask))


def _given(name: str) -> str:
    """What a person wrote where a recipe is asked for, as a word of ``orchestrate``."""
    if name.startswith("recipe="):
        return name
    return name if name.endswith(SUFFIXES) and Path(name).is_file() else f"recipe={name}"


def _masked(node: Any, mask: Any) -> Any:  # noqa: ANN401 - JSON holds anything
    if isinstance(node, dict):
        return {key: _masked(value, mask) for key, value in node.items()}
    if isinstance(node, list):
        return [_masked(value, mask) for value in node]
    return mask(node) if isinstance(node, str) else node


# -- new


STARTER = """\
# What this shows, or is for; the first line is what others read. Run it, and see what it would do:
#
#   orchestrate {given}
#   orchestratectl plan {given}
#
# For an editor: orchestratectl schema > job.schema.json, and without its first # the next line:
# # yaml-language-server: $schema=job.schema.json
recipe:
  name: {name}
  description: Four workers say who they are
  needs: []            # what has to be there: torch, torch>=2.6, file:data.csv, env:HF_TOKEN, cmd:nvidia-smi

# defaults: [base]     # another recipe to build on: its name, or a path beside this file

worker:
  cmd: [sh, -c, 'echo "I am rank $RANK of $WORLD_SIZE"']   # or [__python__, train.py], found beside this file
  nproc: 4             # workers on each node: a number, cpu, gpu or auto
  # flags: {{lr: 0.1}}   # appended to cmd as --lr=0.1; orchestrate -m {given} worker.flags.lr=0.1,0.01 sweeps it
  # env: {{EPOCHS: 10}}

# nodes: 1:4           # from one to four nodes, which may come and go; the command line gives run_id and rendezvous.url

restart:
  kind: on_failure     # or never, always
  budget:
    max: 3             # restarts, before the job has failed

# watchdog: {{kind: heartbeat, timeout_s: 60}}   # needs orchestrator.worker.heartbeat() in the loop

# Everything else, with its default and a comment: orchestrate --help
"""


def _new(words: list[str]) -> Answer:
    if len(words) != 1 or not words[0] or words[0].startswith("-"):
        raise ConfigError(
            [Problem("recipes new", "needs one name", "write recipes new NAME, or a path such as ./x.yaml")]
        )
    name = words[0]
    by_name = not recipes.is_path(name) and not name.endswith(SUFFIXES)
    path = Path("recipes", f"{name}.yaml") if by_name else Path(name if name.endswith(SUFFIXES) else f"{name}.yaml")
    given = f"recipe={name}" if by_name else str(path)
    if not all(character.isalnum() or character in "._-/" for character in name):
        fact = f"{show(name)} is no name for a recipe"
        raise ConfigError([Problem("recipes new", fact, "allowed: letters, digits and . _ - with / between folders")])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER.format(name=path.stem, given=given))
    except FileExistsError:
        raise ConfigError(
            [Problem("recipes new", f"{path} is there already", "choose another name, or remove it")]
        ) from None
    except OSError as error:
        raise ConfigError([Problem("recipes new", f"{path} cannot be written: {error.strerror}")]) from None
    return Answer(f"wrote {path}; run it: orchestrate {given}\n", {"path": str(path), "run": ["orchestrate", given]})


# -- check


def _check(words: list[str]) -> Answer:
    """Judge each file as it stands, with the overrides that may follow."""
    files = [word for word in words if Path(word).exists() or "=" not in word]
    overrides = [word for word in words if word not in files]
    if not files:
        raise ConfigError([Problem("recipes check", "names no file", "write recipes check FILE…")])
    found = [(file, *_judged(file, overrides)) for file in dict.fromkeys(files)]
    bad = any(problems for _, problems, _ in found)
    mask = safe_secrets().mask
    values = [
        {
            "path": file,
            "ok": not problems,
            "errors": [asdict(one) for one in problems],
            "left": [str(one) for one in left],
        }
        for file, problems, left in found
    ]
    text = "".join(
        map(_verdict, [file for file, _, _ in found], [one for _, one, _ in found], [left for *_, left in found])
    )
    return Answer(mask(text), _masked(values, mask), ExitCode.BAD_CONFIG if bad else ExitCode.SUCCEEDED)


def _judged(file: str, overrides: Sequence[str]) -> tuple[list[Problem], list[Problem]]:
    """What is wrong with a file, and what it leaves to the command line or to the machine."""
    if recipes.find(file if recipes.is_path(file) else f"./{file}") is None:
        return [Problem("recipe", "cannot be read: there is no such file", "give the path of a YAML file", file)], []
    line = parse([_given(file), *overrides])
    made = register()
    try:
        composed = compose(line)
        job = check(composed.cfg, line, made, composed.problems, lacking=True)
    except ConfigError as error:
        problems = list(dict.fromkeys(error.problems))
        left = [one for one in problems if _is_left(one)]
        return [one for one in problems if one not in left], left
    lacking = needs.unmet(job.needs)
    return [], [] if lacking is None else [lacking]


def _is_left(problem: Problem) -> bool:
    """Whether it is no fault of a file: its needs, what it says is left to you, and where its nodes meet."""
    return problem.path == needs.PATH or problem.fact == "is left to you" or is_meeting(problem)


def _verdict(file: str, problems: Iterable[Problem], left: Iterable[Problem]) -> str:
    lines = [f"{file}: error: {one}" for one in problems] or [f"{file}: sound"]
    return "".join(f"{line}\n" for line in [*lines, *(f"{file}: left to you: {one}" for one in left)])


VERBS = {"list": _list, "show": _show, "new": _new, "check": _check}
