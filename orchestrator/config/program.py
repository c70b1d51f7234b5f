"""Which files a command means: the interpreter, a script beside its recipe, the program on the PATH.

The lookup is the one that the worker's own start will do (execvpe(3)): the worker's PATH, from the worker's directory.
Invariant: an argument is replaced only by an absolute path to a file that exists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from posixpath import isabs, normpath
from posixpath import join as join_path

from orchestrator.config.host import Host
from orchestrator.config.report import Report, show

_MACRO = re.compile(r"__[a-z_]+__")


def resolved(
    cmd: tuple[str, ...], recipe_dir: str | None, host: Host, *, program_only: bool = False
) -> tuple[str, ...]:
    """``cmd`` with __python__ filled in, and its first argument that is a file beside the recipe made absolute.

    ``program_only``: arguments are somebody else's words, and only the program may be __python__.
    """
    filled = tuple(
        argument.replace("__python__", host.interpreter) if at == 0 or not program_only else argument
        for at, argument in enumerate(cmd)
    )
    at = script_at(filled, recipe_dir, host)
    if at is None or recipe_dir is None:
        return filled
    return (*filled[:at], join_path(recipe_dir, filled[at].removeprefix("./")), *filled[at + 1 :])


def script_at(cmd: tuple[str, ...], directory: str | None, host: Host) -> int | None:
    """The number of the first argument that names a file in ``directory``; a bare first word is the PATH's business."""
    if directory is None:
        return None
    for at, argument in enumerate(cmd):
        named = bool(argument) and not isabs(argument) and (at > 0 or "/" in argument)
        if named and host.is_file(join_path(directory, argument)):
            return at
    return None


def worker_cwd(cwd: str | None, host: Host) -> str:
    """The directory in which workers start."""
    return normpath(join_path(host.cwd, cwd)) if cwd else host.cwd


def check_program(program: str, env: Mapping[str, str | None], cwd: str, host: Host, report: Report) -> None:
    """Report a program that cannot be started; one that is named by a macro is known only later."""
    if _MACRO.search(program):
        return
    if "/" in program:
        _check_path(program, join_path(cwd, program), host, report)
        return
    path = env["PATH"] if "PATH" in env else host.env.get("PATH")
    folders = (path if path is not None else host.default_path).split(":")
    if any(host.is_executable(join_path(cwd, folder, program)) for folder in folders):
        return
    here = host.is_file(join_path(cwd, program))
    remedy = f"write ./{program}, or python {program}" if here else "install it, give its path, or set worker.env.PATH"
    report.problem("worker.cmd", f"{show(program)} is not found on the PATH of the workers", remedy)


def _check_path(program: str, path: str, host: Host, report: Report) -> None:
    if host.is_executable(path):
        return
    if host.is_file(path):
        report.problem("worker.cmd", f"{show(program)} is not executable", "chmod +x it, or name its interpreter first")
    else:
        report.problem("worker.cmd", f"{show(program)} is not found", "a relative path is looked up from worker.cwd")
