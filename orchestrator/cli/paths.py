"""Where our own data stands, and how a path is shown to a person.

``conf/`` and ``recipes/`` lie beside the package in a checkout and inside it in a wheel. Nothing here reads a file.
"""

from __future__ import annotations

import os
from pathlib import Path

SUFFIXES = (".yaml", ".yml")
"""How a recipe's file is named."""
PACKAGE = Path(__file__).resolve().parent.parent


def data_dir(name: str) -> Path:
    """``conf`` or ``recipes``: the wheel's copy if there is one, else the checkout's."""
    packed = PACKAGE / "_data" / name
    return packed if packed.is_dir() else PACKAGE.parent / name


def absolute(path: str) -> str:
    """From where we are, without following links: what a person wrote stays recognisable."""
    return os.path.abspath(path)  # noqa: PTH100 - Path has nothing that drops .. and keeps links


def shown(path: str | os.PathLike[str]) -> str:
    """Relative to where we are if it lies below, else absolute."""
    full = absolute(os.fspath(path))
    return full.removeprefix(f"{Path.cwd()}/")
