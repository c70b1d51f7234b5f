"""What a worker runs whose job names a function instead of a command: ``python -m orchestrator.entrypoint``.

Finds the function, calls it, and keeps what it returns: as ``return`` among the values that the worker reports, if JSON
can hold it, and pickled beside them for `orchestrator.launch`. An exception is written to TORCHELASTIC_ERROR_FILE, as
torch's ``@record`` does. Invariant: the launcher never imports the user's module; only this process does.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

PICKLED = "--pickled"
RETURNED = "return.pickle"


def main(words: Sequence[str]) -> int:
    """``pkg.mod:function [[arguments], {keywords}]``, or ``--pickled FILE``. Returns the exit code."""
    try:
        function, args, kwargs = _pickled(words[1]) if words[0] == PICKLED else _named(*words)
        value = function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the user's own code, whatever it raises
        _record(error)
        traceback.print_exc()
        return 1
    _keep(value)
    return 0


def _named(name: str, given: str) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
    module, _, path = name.partition(":")
    function: Any = import_module(module)
    for part in path.split("."):
        function = getattr(function, part)
    args, kwargs = json.loads(given)
    return function, args, kwargs


def _pickled(path: str) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
    """What `orchestrator.launch` has written; the caller's main module is made known first, as multiprocessing does."""
    from multiprocessing import spawn  # noqa: PLC0415 - for this alone

    with Path(path).open("rb") as file:
        prepare: Any = spawn.prepare
        prepare(pickle.load(file))  # noqa: S301 - our own caller's
        function, args = pickle.load(file)  # noqa: S301 - as above
    return function, args, {}


def _keep(value: object) -> None:
    from orchestrator.worker import report  # noqa: PLC0415 - not before the function has run

    place = os.environ.get("ORCHESTRATOR_RESULT_FILE")
    if place is None or value is None:
        return
    try:
        report(**{"return": value})
    except TypeError:
        report(**{"return": repr(value)})
    Path(place).with_name(RETURNED).write_bytes(pickle.dumps(value))


def _record(error: Exception) -> None:
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if place and not Path(place).exists():  # the function's own @record knows better
        extra = {"py_callstack": traceback.format_exc(), "timestamp": str(int(time.time()))}
        message = {"message": f"{type(error).__name__}: {error}", "extraInfo": extra}
        Path(place).write_text(json.dumps({"message": message}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
