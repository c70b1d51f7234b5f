"""torchrun's options of output, as keys of ``logs``: which stream of which worker goes where.

Invariant: every line that torchrun shows is shown, with the same prefix; whatever it keeps in a file is in one here.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cli.torchrun.compiled import Compiled, Open
from orchestrator.errors import Problem

PREFIX = "[{role}{local_rank}]:"
_ONE = re.compile(r"[0-3]")
_EACH = re.compile(r"\d+:[0-3](,\d+:[0-3])*")
_OUT, _ERR = 1, 2


def logs(values: Namespace, said: Mapping[str, str], environ: Mapping[str, str], to: Compiled) -> None:
    """Set what the options of output mean."""
    redirects = _std("redirects", values.redirects, said, to)
    tee = _std("tee", values.tee, said, to)
    shown = _ranks(values.local_ranks_filter, said, to)
    to.set("logs.kind", "tee")
    to.set("logs.streams", _streams(redirects, tee, shown), _joined(said, "redirects", "tee", "local_ranks_filter"))
    if any(tee.values()) and "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE" not in environ:
        to.set("logs.prefix", PREFIX, said["tee"])
    for name in ("stdout", "stderr"):
        words = getattr(values, f"duplicate_{name}_filters")
        if words:
            to.set(f"logs.filters.{name}", words, said[f"duplicate_{name}_filters"])
    if values.log_dir is not None:
        to.set("logs.dir", Open(f"{run_dir(values.log_dir)}/logs"), said["log_dir"])
    if values.logs_specs not in (None, "default"):
        fact = f"{values.logs_specs!r} is a class of torch's kind"
        to.problems.append(Problem("--logs-specs", fact, "leave it out: torch is not loaded here"))


def run_dir(log_dir: str) -> Open:
    """Where the files of a run go; a pattern."""
    return Open(f"{Path(log_dir).absolute()}/${{run_id}}/${{node.name}}")


def _joined(said: Mapping[str, str], *names: str) -> str:
    return " ".join(said[name] for name in names if name in said) or "torchrun's default"


def _std(name: str, text: str, said: Mapping[str, str], to: Compiled) -> dict[int | None, int]:
    """``3``, or ``0:3,1:0``: which streams of which local rank; None stands for all others."""
    if _ONE.fullmatch(text):
        return {None: int(text)}
    if _EACH.fullmatch(text):
        return {None: 0} | {int(rank): int(std) for rank, std in (part.split(":") for part in text.split(","))}
    path = said[name].partition("=")[0]
    to.problems.append(Problem(path, f"{text!r} is not allowed", "allowed: 0, 1, 2, 3, or RANK:N,RANK:N"))
    return {None: 0}


def _ranks(text: str, said: Mapping[str, str], to: Compiled) -> set[int] | None:
    if not text:
        return None
    try:
        return {int(part) for part in text.split(",")}
    except ValueError:
        path = said["local_ranks_filter"].partition("=")[0]
        to.problems.append(Problem(path, f"{text!r} is not allowed", "allowed: local ranks, as in 0,1,2"))
        return None


def _streams(redirects: Mapping[int | None, int], tee: Mapping[int | None, int], shown: set[int] | None) -> Any:  # noqa: ANN401 - YAML
    def of(rank: int | None) -> str | dict[str, str]:
        hidden = shown is not None and rank not in shown
        kept, teed = redirects.get(rank, redirects[None]), tee.get(rank, tee[None])
        out, err = (_where(teed & bit, hidden=hidden or bool(kept & bit & ~teed)) for bit in (_OUT, _ERR))
        return out if out == err else {"stdout": out, "stderr": err}

    named = sorted({rank for rank in (*redirects, *tee, *(shown or ())) if rank is not None})
    others = of(None)
    return {"all": others} | {rank: of(rank) for rank in named if of(rank) != others}


def _where(teed: int, *, hidden: bool) -> str:
    if hidden:
        return "file"
    return "tee" if teed else "bare"
