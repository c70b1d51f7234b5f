"""How commands speak: what was asked for on stdout, everything else on stderr, without control characters.

Invariant: what goes to stderr holds no secret that can be known.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.cli.secrets import Secrets


def write(text: str) -> None:
    """The answer, or a part of it, at once."""
    from orchestrator.edge.console import escape  # noqa: PLC0415 - imported when there is something to print

    sys.stdout.write(escape(text))
    sys.stdout.flush()


def say(text: str, secrets: Secrets | None = None) -> None:
    """A line for people; ``secrets`` are those of a job, once one is known."""
    from orchestrator.cli.terminal_text import safe_secrets  # noqa: PLC0415 - not needed when all is well
    from orchestrator.edge.console import escape  # noqa: PLC0415 - as above

    print(escape((secrets or safe_secrets()).mask(text)), file=sys.stderr)  # noqa: T201 - stderr is for people
