"""From a composed job to what is published of it, and from what was published to a job that composes again.

Interpolations stay as they were written, and literal secrets become variables, as in job.yaml. Invariant: a job that
was composed from a publication has that publication's digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from orchestrator.cli import yaml12
from orchestrator.cli.job import Job
from orchestrator.cli.jobyaml import without_secrets
from orchestrator.cli.quoting import quoted
from orchestrator.config.fields import NODE, defaults, is_node_field, job_fields, merged
from orchestrator.config.report import listed
from orchestrator.core.publication import Publication
from orchestrator.errors import ConfigError, Problem


def publication(job: Job) -> Publication:
    """What is published of ``job``."""
    data: Any = without_secrets(OmegaConf.to_container(job.cfg, resolve=False))
    return Publication(job_fields(data), defaults(data))


@contextmanager
def as_recipe(published: Publication, run_id: str, url: str, own: Sequence[str]) -> Iterator[list[str]]:
    """What to give `orchestrate` to take part in a run: words that hold as long as this lasts.

    The job is read from a file as any recipe is, and may hold nothing that a recipe may not. ``own`` are overrides of
    what a node decides for itself.
    """
    import tempfile  # noqa: PLC0415 - 5 ms, which a start need not pay

    _check(own)
    data = merged(published.job, published.defaults)
    header = data.get("recipe")
    folder = header.get("dir") if isinstance(header, dict) else None
    given = [
        f"run_id={quoted(run_id, literal=True)}",
        f"rendezvous.url={quoted(url, literal=True)}",
        # where the script stands that the command names, if it stands there on this node too
        f"recipe.dir={quoted(folder) if isinstance(folder, str) else 'null'}",
    ]
    with tempfile.TemporaryDirectory(prefix="orchestrator-") as directory:
        path = Path(directory, "published.yaml")
        path.write_text(yaml12.write(data), encoding="utf-8")
        yield [str(path), *given, *own]


def _check(own: Sequence[str]) -> None:
    problems = [
        Problem(
            word.partition("=")[0], "belongs to the job, which the run has", f"a node may give {listed(NODE)}", word
        )
        for word in own
        if "=" not in word or not (is_node_field(word.partition("=")[0]) or word.startswith("hydra.run.dir="))
    ]
    if problems:
        raise ConfigError(problems)
