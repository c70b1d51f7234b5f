"""What must not be shown: finding secrets in a configuration, and masking them in whatever is written.

A secret is the value of a variable whose name says so, or the password in a URL. It is masked by value, wherever it
turns up, in the spellings of YAML, JSON and URLs as well. Invariant: masking need not know where a text came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, unquote

MASK = "***"
_NAME = re.compile(r"(token|secret|passw(or)?d|passphrase|credential|key)s?(?![a-z])", re.IGNORECASE)
_URL = re.compile(r"(//[^/\s'\"@:]*):([^\s'\"]+)@")
_OPTION = re.compile(r"(?<=[?&])((?:\w+_)?password)=([^&\s'\"]+)")
_OURS = {"ORCHESTRATOR_TOKEN": False, "ORCHESTRATOR_STORE": True}  # a fence; a URL with credentials
_SHORTEST = 4  # a shorter value would be found inside ordinary words; it is masked where it stands, not by value
_HARMLESS = frozenset({"true", "false", "null", "none", "auto"})


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret: WANDB_API_KEY does, TOKENIZERS_PARALLELISM does not."""
    if name in _OURS:
        return _OURS[name]
    return bool(_NAME.search(name))


def url_secrets(text: str) -> dict[str, str]:
    """The passwords in a URL as they are spelled there, each under the end of a name for it."""
    found = {option.upper(): value for option, value in _OPTION.findall(text)} if "://" in text else {}
    login = _URL.search(text)
    return {**found, "PASSWORD": login[2]} if login else found


class Secrets:
    """The secret values of one job, and the names under which they are known."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        """``values`` maps each name to its secret."""
        self.values = dict(values or {})
        spellings = {
            spelling for value in self.values.values() if worth_masking(value) for spelling in _spellings(value)
        }
        ordered = sorted(spellings, key=len, reverse=True)  # the longest first: one secret may hold another
        self._pattern = re.compile("|".join(map(_loosely, ordered))) if ordered else None

    @classmethod
    def of(cls, config: object, environment: Mapping[str, str]) -> Secrets:
        """The secrets in plain ``config`` data and in an environment."""
        found = {name: value for name, value in environment.items() if is_secret_name(name) and value}
        for name, value in literals(config):
            if found.get(name, value) != value:  # two roles, or one and the environment, have their own
                found[f"{name}={len(found)}"] = value
            elif value:
                found[name] = value
        return cls(found)

    def mask(self, text: str) -> str:
        """``text`` without secrets."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        text = _URL.sub(rf"\1:{MASK}@", text) if "@" in text else text
        return _OPTION.sub(rf"\1={MASK}", text) if "password=" in text else text

    def mask_named(self, name: str, value: str) -> str:
        """The value of a variable, masked by its name too, however short it is."""
        return MASK if value and is_secret_name(name) else self.mask(value)


def worth_masking(value: str) -> bool:
    """Whether a value is long and odd enough to be replaced wherever it is seen."""
    return len(value) >= _SHORTEST and value.lower() not in _HARMLESS


def literals(node: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Name and value of every literal secret below ``node``."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from literals(value, str(key))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from literals(value, name)
    elif isinstance(node, str) and "${" not in node:
        passwords = url_secrets(node)
        for suffix, password in passwords.items():
            yield f"{variable(name)}_{suffix}", password
        if not passwords and is_secret_name(name):
            yield variable(name), node
    elif isinstance(node, int | float) and not isinstance(node, bool) and is_secret_name(name):
        yield variable(name), repr(node)


def variable(name: str) -> str:
    """A key as the name of an environment variable."""
    return re.sub(r"\W", "_", name.lstrip("-")).upper()


def _spellings(value: str) -> Iterable[str]:
    """How a value may look after it was written as YAML, JSON, Python or part of a URL."""
    decoded = unquote(value)
    yield from (value, decoded, quote(decoded, safe=""), value.replace("'", "''"), repr(value)[1:-1])
    yield from (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])


def _loosely(spelling: str) -> str:
    """A pattern for it that also matches when a writer has folded its spaces into line breaks."""
    return r"\s+".join(re.escape(part) for part in re.split(r"\s+", spelling))
