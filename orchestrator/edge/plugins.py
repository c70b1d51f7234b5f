"""Classes of the user's own that a configuration names as ``package.module:Class``.

Only finds and makes them; what they are for is known where they are used. Invariant: whatever the user's code raises
becomes a ConfigError with the key that named it, and with what it said.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

from orchestrator.errors import ConfigError, Problem


def imported(name: str, key: str, methods: Sequence[str], remedy: str) -> Any:  # noqa: ANN401 - checked for methods
    """The class that ``name`` means. ``remedy`` says what a class without one of ``methods`` should be."""
    module, _, path = name.partition(":")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own module
        where = f"is it in PYTHONPATH? ({os.environ.get('PYTHONPATH') or 'not set'})"
        raise problem(key, f"{name!r} cannot be imported", error, where) from None
    missing = [method for method in methods if not callable(getattr(found, method, None))]
    if not isinstance(found, type) or missing:
        what = f"class with {listed(methods)}" if methods else "class"
        raise ConfigError([Problem(key, f"{name!r} is no {what}", remedy)])
    return found


def made(name: str, key: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - what `imported` has found
    """What ``make`` returns, which is the user's code."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - the user's own code
        raise problem(key, f"{name!r} cannot be made", error, "correct it") from None


def problem(key: str, fact: str, error: BaseException, remedy: str) -> ConfigError:
    """What the user's code has raised."""
    return ConfigError([Problem(key, f"{fact}: {said(error)}", remedy)])


def said(error: BaseException) -> str:
    """An exception in a line."""
    return f"{type(error).__name__}: {error}"


def listed(methods: Iterable[str]) -> str:
    """``start() and stop()``."""
    *others, last = [f"{method}()" for method in methods]
    return f"{', '.join(others)} and {last}" if others else last
