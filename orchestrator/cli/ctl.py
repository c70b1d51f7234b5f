"""``orchestratectl``: looks at jobs, and deals with runs.

``plan``, ``graph`` and ``schema`` take what ``orchestrate`` takes, ``sweep`` a sweep's directory, and start nothing:
they are functions from words to a text and to JSON-ready values. The others read their own words: `shelf`, `control`,
`past` and `doctor`. Invariant: no verb executes a command line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection
from typing import Any

from orchestrator.cli import control, doctor, past
from orchestrator.cli.main import guarded, show_version
from orchestrator.cli.saying import write
from orchestrator.errors import ConfigError, ExitCode, Problem

Answer = tuple[str, Any]


def main() -> int:
    """The console script. Returns the exit code."""
    return guarded(lambda: _control(sys.argv[1:]))


def _plan(words: list[str]) -> Answer:
    """Check a job and show what would run, and with what."""
    from orchestrator.cli import plan  # noqa: PLC0415 - imports Hydra

    job = plan.checked(words)
    return job.secrets.mask(plan.text(job)), plan.plan(job)


def _graph(words: list[str]) -> Answer:
    """Draw the machine of a job, as mermaid."""
    from orchestrator.cli import plan  # noqa: PLC0415 - imports Hydra
    from orchestrator.core.graph import mermaid  # noqa: PLC0415 - as above

    job = plan.checked(words)
    tables = {group.role: plan.machine(job, group) for group in job.spec.groups}
    drawn = {role: {"mermaid": mermaid(table), "rows": plan.rows(table)} for role, table in tables.items()}
    texts = [mermaid(table) for table in tables.values()]
    if len(texts) > 1:  # which is which, as comments of mermaid's
        heads = (["role " + group.role, *plan.place_lines(group)] for group in job.spec.groups)
        texts = ["".join(f"%% {line}\n" for line in head) + text for head, text in zip(heads, texts, strict=True)]
    return "\n".join(texts), drawn


def _sweep(words: list[str]) -> Answer:
    """Print the table of a sweep again, the best job first."""
    from orchestrator.cli.sweep import show  # noqa: PLC0415 - the other verbs do not need it

    return show.answer(words)


def _schema(_words: list[str]) -> Answer:
    """Print the JSON schema of a recipe, for editors: orchestratectl schema > job.schema.json."""
    from orchestrator.cli.schema_text import schema  # noqa: PLC0415 - the other verbs do not need it

    found = schema()
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n", found


def _recipes(words: list[str]) -> int:
    """List recipes; show NAME: the composed job; new NAME: a starter; check FILE…: is each sound?"""
    from orchestrator.cli import shelf  # noqa: PLC0415 - imports Hydra

    found = shelf.answer([word for word in words if word != "--json"])
    write(json.dumps(found.values, indent=2) + "\n" if "--json" in words else found.text)
    return found.code


VERBS: dict[str, Callable[[list[str]], Answer]] = {"plan": _plan, "graph": _graph, "schema": _schema, "sweep": _sweep}
EXPLAINED: dict[str, Callable[[list[str]], int]] = {**control.VERBS, **past.VERBS, **doctor.VERBS}
"""Those that read, and explain, their own words."""
OWN: dict[str, Callable[[list[str]], int]] = {"recipes": _recipes, **EXPLAINED}
_HELP = """\
orchestratectl: looks at jobs, and deals with runs.

  orchestratectl VERB [--json] WORDS…       plan, graph: WORDS is what orchestrate takes; see orchestrate --help
  orchestratectl VERB [--json] URL RUN_ID   a run, by the server on which it meets, and its run_id
  orchestratectl VERB [--json] [RUN_DIR]    events, logs, report: a run, by its directory; else the latest in runs/
  orchestratectl VERB [--json] DIR          sweep: the directory of a sweep
  orchestratectl schema                     what an editor can know of a recipe; the same for all
  orchestratectl recipes [--json] [show NAME | new NAME | check FILE…]

{verbs}

  orchestratectl plan recipe=hello worker.nproc=2
  orchestratectl plan --json mine.yaml
  orchestratectl graph restart=never -- python train.py
  orchestratectl sweep sweeps/mine
  orchestratectl status --watch redis://:secret@10.0.0.1:6379 j1
  orchestratectl drain NODE redis://:secret@10.0.0.1:6379 j1
  orchestratectl events --follow runs/j1

  --json      the same for programs
  --help      this text
  --version   whose this is
"""


def _control(words: list[str]) -> int:
    known = {**VERBS, **OWN}
    cut = words.index("--") if "--" in words else len(words)
    ours = words[:cut]
    if {"-h", "--help"}.intersection(ours) and ours[0] not in EXPLAINED:
        write(_HELP.format(verbs="\n".join(f"  {name:8}{verb.__doc__}" for name, verb in known.items())))
        return ExitCode.SUCCEEDED
    if "--version" in ours[:1]:
        return show_version()
    name, asked = (ours or [""])[0], [word for word in ours[1:] if word != "--json"]
    if name not in known:
        raise ConfigError([_no_verb(name, known)])
    if name in OWN:
        return OWN[name](words[1:])
    text, values = VERBS[name](asked + words[cut:])
    write(json.dumps(values, indent=2) + "\n" if "--json" in ours else text)
    return ExitCode.SUCCEEDED


def _no_verb(name: str, known: Collection[str]) -> Problem:
    from orchestrator.config.report import listed, nearest, show  # noqa: PLC0415 - a mistake is rare

    fact = f"{show(name)} is not a verb" if name else "is missing"
    return Problem("verb", fact, f"{nearest(name, known)}known: {listed(known)}; see orchestratectl --help")


if __name__ == "__main__":
    sys.exit(main())
