"""``sweep.html``: one page with a sweep's pictures and its table, complete in itself.

It loads nothing: styles and the few lines that sort the table (`page/`) are in it, and its policy forbids the network.
Invariant: no text of a job can become markup.
"""

from __future__ import annotations

import math
from pathlib import Path

from orchestrator.cli.report import duration
from orchestrator.cli.secrets import Secrets
from orchestrator.cli.sweep import svg_plot
from orchestrator.cli.sweep.plot import Plot, plot
from orchestrator.cli.sweep.svg_plot import text
from orchestrator.cli.sweep.table import cell, columns, number, objective, override, ranked, short_names, tally
from orchestrator.core.sweep import JobState, Scalar, Sweep, SweepJob

_PAGE = Path(__file__).parent / "page"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_COLOURS = {JobState.SUCCEEDED: "good", JobState.FAILED: "bad", JobState.PRUNED: "early"}
_KEY = (
    (f'<path class="star" d="{svg_plot.star(9, 9, 0.9)}"/>', "best"),
    ('<circle class="succeeded" cx="9" cy="9" r="5"/>', "succeeded"),
    ('<circle class="pruned" cx="9" cy="9" r="5"/>', "pruned, with its last value"),
    ('<path class="foot" d="M4 14l10 -10m-10 0l10 10"/>', "failed, or without a value"),
)


def page(sweep: Sweep, secrets: Secrets) -> str:
    """The whole file."""
    drawn = plot(sweep, secrets)
    title = f"sweep {text(secrets.mask(sweep.name))}"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>",
            (_PAGE / "sweep.css").read_text(encoding="utf-8"),
            "</style></head><body>",
            f"<h1>{title}</h1>",
            f"<p>{_summary(sweep)}</p>",
            *_best(sweep, secrets),
            *_pictures(drawn),
            *_table(sweep, secrets),
            "<script>",
            (_PAGE / "sweep.js").read_text(encoding="utf-8"),
            "</script></body></html>\n",
        ]
    )


def _summary(sweep: Sweep) -> str:
    aim = f" · {sweep.direction} {text(sweep.objective)}" if sweep.objective else ""
    took = sum(job.seconds or 0.0 for job in sweep.jobs)
    return f"{tally(sweep)}{aim} · {duration(took)} of jobs, {sweep.slots} at once"


def _best(sweep: Sweep, secrets: Secrets) -> list[str]:
    best = sweep.best
    if best is None:
        return []
    words = " ".join(override(one, secrets) for one in best.overrides)
    lead = f"best {text(objective(sweep))} <b>{text(number(best.value))}</b>: job {best.n}"
    return [f'<p class="best">{lead}<br><code>{text(words)}</code></p>']


def _pictures(drawn: Plot) -> list[str]:
    if not any(one.points for one in drawn.panels):
        return []
    key = "".join(f'<span><svg viewBox="0 0 18 18">{shape}</svg>{words}</span>' for shape, words in _KEY)
    several = [f'<figure class="wide">{svg_plot.parallel(drawn)}</figure>'] if len(drawn.panels) > 1 else []
    figures = "".join(f"<figure>{svg_plot.panel(one, drawn.y)}</figure>" for one in drawn.panels)
    left_out = [f"<p>Only {text(drawn.left_out)} are drawn; the table has all.</p>"] if drawn.left_out else []
    return [
        f"<h2>Parameters against {text(drawn.y.label)}</h2>",
        f'<div class="key">{key}</div>',
        *left_out,
        *several,
        f'<div class="panels">{figures}</div>',
    ]


def _table(sweep: Sweep, secrets: Secrets) -> list[str]:
    keys = columns(sweep)
    names = short_names(keys)
    numeric = {key for key in keys if all(_is_number(job.params.get(key)) for job in sweep.jobs if key in job.params)}
    heads = [
        _head("job", "number"),
        _head(objective(sweep), "number", "descending" if sweep.direction == "maximize" else "ascending"),
        *(_head(names[key], "number" if key in numeric else "", title=key) for key in keys),
        _head("state"),
        _head("took", "number"),
        _head("attempts", "number"),
        _head("why"),
    ]
    best = sweep.best
    rows = []
    for job in ranked(sweep):
        top = ' class="top"' if best is not None and best.n == job.n else ""
        rows.append(f"<tr{top}>{''.join(_cells(job, keys, numeric, secrets))}</tr>")
    return [
        '<h2>Jobs</h2><div class="scroll"><table><thead><tr>',
        *heads,
        "</tr></thead><tbody>",
        *rows,
        "</tbody></table></div>",
    ]


def _cells(job: SweepJob, keys: tuple[str, ...], numeric: set[str], secrets: Secrets) -> list[str]:
    params = [(key, cell(key, job.params[key], secrets) if key in job.params else "") for key in keys]
    return [
        _number(job.n, str(job.n)),
        _number(job.value, number(job.value)),
        *(
            _number(job.params.get(key), words) if key in numeric else f"<td>{text(words)}</td>"
            for key, words in params
        ),
        f'<td><span class="state {_COLOURS.get(job.state, "")}">{job.state.value}</span></td>',
        _number(job.seconds, "" if job.seconds is None else duration(job.seconds)),
        _number(job.attempts, str(job.attempts)),
        f'<td class="why">{text(secrets.mask(job.message))}</td>',
    ]


def _head(name: str, kind: str = "", order: str = "none", title: str = "") -> str:
    css = f' class="{kind}"' if kind else ""
    hint = f' title="{text(title)}"' if title and title != name else ""
    return f'<th{css}{hint} scope="col" aria-sort="{order}"><button type="button">{text(name)}</button></th>'


def _number(value: Scalar, words: str) -> str:
    """A cell that is sorted by a number; one that is none is sorted as empty, and so is what must not be known."""
    known = isinstance(value, int | float) and not math.isnan(value) and words != "***"
    key = repr(float(value)).replace("inf", "Infinity") if known and isinstance(value, int | float) else ""
    return f'<td class="number" data-sort="{key}">{text(words)}</td>'


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # noqa: PLR2004
