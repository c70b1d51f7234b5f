"""Runs a script or a module in this process as ``python SCRIPT`` and ``python -m MODULE`` do in a new one.

Which words of a command come before those is `core.python`'s knowledge.
Invariant: the program's namespace, its arguments and the way it ends, with its traceback, are those of a new process.
"""

from __future__ import annotations

import os
import runpy
import sys
from importlib.machinery import SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, TracebackType

_USAGE = 2
_COMPILED = (".pyc", ".pyo")
_ZIP = b"PK"


class NotOurs(Exception):
    """Python would run this otherwise. The message says what it is."""


def folder(words: list[str]) -> str:
    """What a new Python puts first on sys.path."""
    return os.getcwd() if words[0] == "-m" else os.path.dirname(os.path.realpath(words[0]))


def check(words: list[str]) -> None:
    """Raise NotOurs for what is no source file: a folder, an archive, compiled code."""
    if words[0] == "-m":
        return
    name = words[0]
    if os.path.isdir(name) or name.endswith(_COMPILED) or _begins(name) == _ZIP:
        raise NotOurs(f"{name} is no Python source file")


def _begins(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read(len(_ZIP))
    except OSError:
        return b""  # it may be there when a worker starts


def run(words: list[str]) -> None:
    """Run what ``words`` name, with the rest of them as its arguments. Ends as the program ends."""
    main = vars(sys.modules["__main__"])
    kept = {name: value for name, value in main.items() if name.startswith("__")}
    main.clear()
    main.update(kept, __name__="__main__", __doc__=None, __spec__=None, __package__=None)
    depth = 1
    try:
        if words[0] == "-m":
            sys.argv = ["-m", *words[2:]]
            runpy._run_module_as_main(words[1])  # type: ignore[attr-defined]  # noqa: SLF001 - what python -m calls
        else:
            sys.argv = list(words)
            depth = 0
            code = _compiled(words[0], main)
            depth = 1
            exec(code, main)  # noqa: S102 - the purpose
    except SystemExit:
        raise
    except BaseException as problem:
        _tell(problem, depth)
        raise


def _compiled(name: str, main: dict[str, object]) -> CodeType:
    """The script's code; its namespace is told where it came from."""
    path = name if os.path.isabs(name) else os.path.join(os.getcwd(), name)
    main.update(__file__=path, __loader__=SourceFileLoader("__main__", path))
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as problem:
        why = f"[Errno {problem.errno}] {problem.strerror}"
        sys.stderr.write(f"{sys.executable}: can't open file {path!r}: {why}\n")
        sys.exit(_USAGE)
    code: CodeType = compile(source, path, "exec", dont_inherit=True)
    return code


def _tell(problem: BaseException, depth: int) -> None:
    """Have the exception hook show it without our own frames; whoever catches it next shall not show it again.

    It goes on to the interpreter, which ends as it does for any exception.
    """
    trace: TracebackType | None = problem.__traceback__
    for _ in range(depth):
        trace = trace.tb_next if trace is not None else None
    if depth == 0:
        trace = None  # the script could not be read as Python: no frame of its own
    problem.__traceback__ = trace
    sys.excepthook(type(problem), problem, trace)
    sys.excepthook = lambda *_: None
