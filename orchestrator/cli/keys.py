"""The keys of a job, their defaults and what they mean, for --help: the text of conf/, which is written to be read.

Invariant: nothing is said here that does not stand in conf/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.cli.paths import data_dir

_FROM_ENV = re.compile(r"\$\{oc\.env:\w+,(.*?)\}(?=['\s]|$)")
_IF_SET = re.compile(r"\$\{orchestrate\.if_set:.*,(\w+),\w+\}(?=\s|$)")
_MADE_UP = re.compile(r"\$\{orchestrate\.\w+:.*\}(?=\s|$)")
_COMMENTED = re.compile(r"^( *\w+: )(\$\{.*?\})( +# .*)$", re.MULTILINE)
_CHOICE = re.compile(r"^  - (\w+): (?:\$\{orchestrate\.\w+:)?(?:\$\{.*,)?(\w+)")  # some ask a variable


def keys() -> str:
    """All of them as commented YAML, the chosen groups last."""
    before, _, rest = (data_dir("conf") / "config.yaml").read_text().partition("\n\n")
    own = rest.partition("\nhydra:")[0].rstrip()
    groups = [match.groups() for line in before.splitlines() if (match := _CHOICE.match(line)) and match[2] != "null"]
    return "\n\n".join([_plain(own), *(_group(group, choice) for group, choice in groups)]) + "\n"


def _group(group: str, choice: str) -> str:
    first, *lines = (data_dir("conf") / group / f"{choice}.yaml").read_text().splitlines()
    return "\n".join([first, f"{group}:", *_indented(lines)])


def _indented(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line and not line.startswith("kind:"):
            yield f"  {_plain(line)}"


def _plain(text: str) -> str:
    """``text`` without what is looked up when a job is composed; comments stay in their column."""
    text = _COMMENTED.sub(lambda found: f"{found[1]}{_looked_up(found[2]).ljust(len(found[2]))}{found[3]}", text)
    return _looked_up(text)


def _looked_up(text: str) -> str:
    text = _MADE_UP.sub("(made up)", _IF_SET.sub(lambda found: found[1], text))
    return _FROM_ENV.sub(lambda found: found[1].strip('"'), text)
