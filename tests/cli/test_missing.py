"""A choice that is not there: what can be chosen, or what has to be installed to choose it."""

from __future__ import annotations

import pytest
from hydra.errors import MissingConfigException

from orchestrator.cli.argv import Line
from orchestrator.cli.compose import problems_of


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("restart/nevr", "restart: 'nevr' is not found; allowed: always, never"),
        ("hydra/launcher/nosuch", "hydra/launcher: 'nosuch' is not found; allowed: always, never"),
        (
            "hydra/launcher/submitit_slurm",
            "hydra/launcher: 'submitit_slurm' is not installed; pip install 'orchestrator[slurm]'",
        ),
        ("hydra/sweeper/optuna", "hydra/sweeper: 'optuna' is not installed; pip install 'orchestrator[sweep]'"),
        ("recipe/optuna", "recipe: 'optuna' is not found; allowed: always, never"),
    ],
)
def test_what_is_missing_is_told_with_its_remedy(file: str, told: str) -> None:
    error = MissingConfigException("no", file, ["always", "never"])
    assert [str(problem) for problem in problems_of(error, Line())] == [told]
