"""What real workers share: through the embedded server, through one with a password, and not across rounds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher
from tests.e2e.harness import FAST, external_server, python

pytestmark = pytest.mark.e2e

SHARE = """
import os
from orchestrator.worker import report, store
shared, rank = store(), os.environ['RANK']
total = shared.add('ranks', int(rank))
shared.set(f'name/{rank}', f'worker {rank}')
shared.barrier('all are here', 20)
shared.wait([f'name/{n}' for n in range(4)], 0)
report(sum=int(shared.get('ranks')), names=b' '.join(shared.get(f'name/{n}') for n in range(4)).decode())
"""

STALE = """
import json, os, sys
from pathlib import Path
from orchestrator.edge.redis.worker_store import Store
from orchestrator.errors import RoundEnded
from orchestrator.worker import report, store
kept = Path(sys.argv[1])
store().set('k', os.environ['ORCHESTRATOR_ROUND'])
if not kept.exists():
    kept.write_text(json.dumps(dict(os.environ)))
    raise SystemExit(1)
old = Store.from_environment(json.loads(kept.read_text()))
try:
    old.set('k', 'stale')
except RoundEnded as error:
    report(said=str(error), value=store().get('k').decode())
"""


def test_four_workers_count_meet_and_read_what_the_others_wrote(launch: Launcher) -> None:
    run = launch("worker.nproc=4", *FAST, *python(SHARE))
    assert run.wait() == 0, run.stderr
    expected = {"sum": 6, "names": "worker 0 worker 1 worker 2 worker 3"}
    assert run.result["results"] == {str(rank): expected for rank in range(4)}


def test_workers_of_two_nodes_share_through_a_server_with_a_password(launch: Launcher) -> None:
    with external_server(password="s3cret-pass-word") as server:
        common = ("run_id=j1", "nodes=2", "worker.nproc=2", f"rendezvous.url={server.url}", *FAST)
        runs = [launch(*common, f"node.name={name}", *python(SHARE), name=name) for name in "ab"]
        assert [run.wait() for run in runs] == [0, 0], [run.stderr for run in runs]
    assert {values["sum"] for run in runs for values in run.result["results"].values()} == {6}


def test_a_worker_of_the_last_round_is_refused(launch: Launcher, tmp_path: Path) -> None:
    run = launch(*FAST, *python(STALE), str(tmp_path / "environment"))
    assert run.wait() == 0, run.stderr
    (values,) = run.result["results"].values()
    assert "round 1 of group default" in values["said"]
    assert "this worker is stale" in values["said"]
    assert values["value"] == "2"


def test_outside_the_orchestrator_a_worker_is_told_how_to_start() -> None:
    code = "from orchestrator.worker import store; store()"
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    run = subprocess.run([sys.executable, "-c", code], env=ours, capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1].startswith("RuntimeError: store() works in workers that the orchestrator has")
