"""From a composed job to what is published of it.

Interpolations stay as they were written, and literal secrets become variables, as in job.yaml. Invariant: nothing that
is published holds a secret.
"""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from orchestrator.cli.job import Job
from orchestrator.cli.jobyaml import without_secrets
from orchestrator.config.fields import defaults, job_fields
from orchestrator.core.publication import Publication


def publication(job: Job) -> Publication:
    """What is published of ``job``."""
    data: Any = without_secrets(OmegaConf.to_container(job.cfg, resolve=False))
    return Publication(job_fields(data), defaults(data))
