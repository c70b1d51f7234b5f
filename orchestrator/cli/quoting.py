"""Text that must pass through Hydra's override grammar, and through OmegaConf's interpolation, unchanged.

Two languages stand in the way: Hydra's quoted strings, in which a backslash counts only before a quote or another one
before it; and OmegaConf's text, in which it counts only before ``${``. Invariant, kept by a test with random text: what
was quoted here comes out of a composed configuration as it was.
"""

from __future__ import annotations

import re

_BEFORE_INTERPOLATION = re.compile(r"(\\*)\$\{")
_BEFORE_QUOTE = re.compile(r"(\\*)('|\Z)")


def literal(text: str) -> str:
    """``text`` such that OmegaConf reads it as it stands."""
    return _BEFORE_INTERPOLATION.sub(lambda found: f"{found[1] * 2}\\${{", text)


def quoted(text: str, *, literal: bool = False) -> str:
    """``text`` as a value in an override; ``literal`` keeps OmegaConf from interpolating it."""
    safe = _literal(text) if literal else text
    return f"'{_BEFORE_QUOTE.sub(_escaped, safe)}'"


def _escaped(found: re.Match[str]) -> str:
    return found[1] * 2 + ("\\'" if found[2] else "")


def unquoted(text: str) -> str:
    """The value of an override that a person may have put in quotes."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


_literal = literal
