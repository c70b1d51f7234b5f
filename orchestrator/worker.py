"""What a worker script may import: cheap, standard library only, and without effect outside the orchestrator.

A script never needs it: reports can be made by writing a file, and signs of life by writing lines to a pipe. Invariant:
a full or missing disk costs the report, with a warning, and never the training; a pipe that is full, or that nobody
reads, costs nothing. `store` alone needs the orchestrator: without it there is nobody to share with.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orchestrator.edge.redis.worker_store import Store
    from orchestrator.edge.worker_beats import Line

_lock = threading.Lock()
_store: Store | None = None
_line: Line | None = None  # to the watchdog


def report(**values: object) -> None:
    """Merge ``values`` into what this worker reports; they end up in the run's ``result.json``, under its rank.

    ``report(loss=0.1)`` writes the JSON object in the file that ORCHESTRATOR_RESULT_FILE names, whole or not at all.
    Numbers of numpy and torch count as numbers; what JSON cannot hold raises TypeError.
    """
    name = os.environ.get("ORCHESTRATOR_RESULT_FILE")
    if not name:
        return
    path = Path(name)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with _lock:
        text = json.dumps({**_reported(path), **values}, default=_scalar)
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            warnings.warn(f"report() was lost: {path}: {error.strerror}", RuntimeWarning, stacklevel=2)


def heartbeat() -> None:
    """Tell the watchdog that this worker lives. Costs a microsecond, and may be called as often as you like."""
    (_line or _connect()).beat()


def progress(step: int) -> None:
    """A heartbeat that counts only if ``step`` is another one than the last time."""
    (_line or _connect()).step(step)


@contextmanager
def section(name: str) -> Iterator[None]:
    """What is done inside has the limit ``watchdog.sections.NAME.timeout_s``, and its name is told where it hangs.

    Names are 1 to 64 of A-Z a-z 0-9 . _ -, else ValueError. Sections may be nested.
    """
    line = _line or _connect()
    line.enter(name)
    try:
        yield
    finally:
        line.leave(name)


def store() -> Store:
    """What the workers of this group share in this round: ``set``, ``get``, ``wait``, ``add`` and ``barrier``.

    Always the same object. A new round begins with nothing, and a worker that is left over from an earlier one gets
    `RoundEnded`. Outside the orchestrator: RuntimeError.
    """
    global _store  # noqa: PLW0603 - one set of connections a process
    with _lock:
        if _store is None:
            from orchestrator.edge.redis.worker_store import Store  # noqa: PLC0415 - only who shares pays for sockets

            _store = Store.from_environment(os.environ)
            atexit.register(_store.close)
        return _store


def _connect() -> Line:
    """The line to the watchdog; one that leads nowhere outside of the orchestrator."""
    global _line  # noqa: PLW0603 - one pipe a process
    with _lock:
        if _line is None:
            from orchestrator.edge.worker_beats import Line  # noqa: PLC0415 - only who speaks pays for it

            _line = Line(os.environ.get("ORCHESTRATOR_WATCHDOG_FILE"), os.environ.get("ORCHESTRATOR_STACKS_FILE"))
        return _line


def _reported(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):  # nothing yet, or nothing of ours
        return {}
    return values if isinstance(values, dict) else {}


def _scalar(value: object) -> object:
    """The number inside an array or tensor of one element."""
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    kind = type(value).__name__
    raise TypeError(f"report() takes what JSON can hold, not {kind}")
