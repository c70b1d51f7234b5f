"""``orchestratectl``: looks at jobs, and deals with runs.

``plan`` and ``graph`` take what ``orchestrate`` takes, and start nothing: functions from words to a text and to
JSON-ready values. The others are those of `control`. Invariant: no verb executes a command line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from orchestrator.cli import control
from orchestrator.cli.main import guarded

Answer = tuple[str, Any]


def main() -> int:
    """The console script. Returns the exit code."""
    return guarded(lambda: _control(sys.argv[1:]))


def _plan(words: list[str]) -> Answer:
    """Check a job and show what would run."""
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
    return "\n".join(mermaid(table) for table in tables.values()), drawn


VERBS: dict[str, Callable[[list[str]], Answer]] = {"plan": _plan, "graph": _graph}


def _control(words: list[str]) -> int:
    known = {**VERBS, **control.VERBS}
    parser = argparse.ArgumentParser(
        prog="orchestratectl",
        usage="orchestratectl VERB [--json] [what orchestrate takes, or REDIS_URL RUN_ID]",
        description="Looks at jobs without starting anything, and at runs through the server on which they meet.",
        epilog="\n".join(f"{name:8}{verb.__doc__}" for name, verb in known.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=known, metavar="VERB", help=", ".join(known))
    name = parser.parse_args(words[:1]).verb
    rest = words[1:]
    if name in control.VERBS:
        return control.VERBS[name](rest)
    verb = VERBS[name]
    cut = rest.index("--") if "--" in rest else len(rest)
    text, values = verb([word for word in rest[:cut] if word != "--json"] + rest[cut:])
    shown = json.dumps(values, indent=2) + "\n" if "--json" in rest[:cut] else text
    sys.stdout.write(_printable(shown))
    sys.stdout.flush()
    return 0


def _printable(text: str) -> str:
    from orchestrator.cli.terminal_text import printable  # noqa: PLC0415 - imported when there is something to print

    return printable(text)


if __name__ == "__main__":
    sys.exit(main())
