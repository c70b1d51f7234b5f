"""Text that must pass through Hydra's override grammar, and through OmegaConf's interpolation, unchanged.

Two languages stand in the way: Hydra's quoted strings, in which a backslash counts only before a quote or another one
before it; and OmegaConf's text, in which it counts only before ``${``. Invariant, kept by a test with random text: what
was quoted here comes out of a composed configuration as it was.
"""

from __future__ import annotations

import re

from orchestrator.config.command import in_quotes

_BEFORE_INTERPOLATION = re.compile(r"(\\*)\$\{")


def literal(text: str) -> str:
    """``text`` such that OmegaConf reads it as it stands."""
    return _BEFORE_INTERPOLATION.sub(lambda found: f"{found[1] * 2}\\${{", text)


def quoted(text: str, *, literal: bool = False) -> str:
    """``text`` as a value in an override; ``literal`` keeps OmegaConf from interpolating it."""
    return in_quotes(_literal(text) if literal else text)


def unquoted(text: str) -> str:
    """The value of an override that a person may have put in quotes."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


_literal = literal
