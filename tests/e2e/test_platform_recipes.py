"""The recipes for platforms, run as those would: what srun and an Indexed Job's pods do is done here by processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import yaml12
from orchestrator.cli.control import _target
from tests.e2e.conftest import Launcher
from tests.e2e.harness import SLEEP, Launch, external_server, in_round

pytestmark = pytest.mark.e2e

RECIPES = Path(__file__).parents[2] / "recipes"
FAKES = {
    "orchestrate": f'#!/bin/sh\nexec {sys.executable} -m orchestrator "$@"\n',
    "orchestratectl": f'#!/bin/sh\necho "$@" >>words\nexec {sys.executable} -m orchestrator.cli.ctl "$@"\n',
    "scontrol": '#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "127.0.0.1\\n127.0.0.2\\n"\n',
    "srun": """\
#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for node in 0 1; do
  SLURM_NODEID=$node SLURM_PROCID=$node SLURM_STEP_ID=0 SLURM_NNODES=2 "$@" &
  tasks+=($!)
done
for task in "${tasks[@]}"; do
  wait "$task" || worst=$?
done
exit "${worst:-0}"
""",
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def sbatch(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run the script as Slurm does on the first node of two: a copy of it, with the environment of a job."""
    commands = directory / "bin"
    commands.mkdir()
    for name, text in FAKES.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    script = directory / "slurm_script"
    script.write_bytes((RECIPES / "slurm.sbatch.sh").read_bytes())
    env = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "ORCHESTRATE_PORT": str(free_port()),
    }
    return subprocess.run(
        ["bash", str(script), *overrides],
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        start_new_session=True,
    )


def test_slurm_begins_on_the_first_node_and_the_others_join(tmp_path: Path) -> None:
    done = sbatch(tmp_path, "worker.nproc=3")
    assert done.returncode == 0, done.stderr
    said = sorted(re.findall(r"hello from rank (\d) of 6", done.stdout))
    assert said == list("012345"), "an override is for all nodes"
    joined = (tmp_path / "words").read_text().splitlines()[-1].split()
    assert joined[0] == "join"
    assert joined[2] == f"{os.getpid()}.0"
    assert "@" not in joined[1], "the password is not where everybody can read it"


def test_slurm_ends_as_its_workers_do(tmp_path: Path) -> None:
    assert sbatch(tmp_path, "restart=never", "worker.cmd=['false']").returncode == 1


def test_the_slurm_script_asks_for_one_task_on_each_node_and_says_how_it_is_run() -> None:
    text = (RECIPES / "slurm.sbatch.sh").read_text()
    options = re.findall(r"^#SBATCH (\S+)$", text, re.MULTILINE)
    assert {"--nodes=2", "--ntasks-per-node=1", "--requeue", "--signal=USR1@60"} <= {*options}
    assert text.index("#SBATCH") < text.index("\nset -euo pipefail"), "sbatch reads no further than the first command"
    recipe = yaml12.read((RECIPES / "slurm.yaml").read_text(), "slurm.yaml").data
    assert recipe["stop"]["preempt_signals"] == ["USR1"]


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("redis://h:1/2", "redis://:p%2Fw@h:1/2"),
        ("rediss://h", "rediss://:p%2Fw@h"),
        ("redis+sentinel://a:1,b:2/s", "redis+sentinel://:p%2Fw@a:1,b:2/s"),
        ("redis://:own@h:1", "redis://:own@h:1"),
        ("unix:///tmp/s", "unix:///tmp/s"),
    ],
)
def test_a_password_may_come_from_the_environment(url: str, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "p/w")
    assert _target("status", [url, "j1"]).url == used
    monkeypatch.delenv("REDIS_PASSWORD")
    assert _target("status", [url, "j1"]).url == url


MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((RECIPES / "_kubernetes" / "manifests.yaml").read_text()))


def manifest(kind: str, name: str = "orchestrate") -> dict[str, Any]:
    (found,) = [one for one in MANIFESTS if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("one", MANIFESTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
@pytest.mark.parametrize("version", ["1.31", "latest"])
def test_a_manifest_is_what_the_api_takes(one: dict[str, Any], version: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="is in the extra [dev]")
    kubernetes.validate(one, version if version != "latest" else kubernetes.latest_version(), strict=True)


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("Job")["spec"]["template"]["spec"]
    return spec


def test_the_manifests_and_the_recipe_agree() -> None:
    recipe = yaml12.read((RECIPES / "kubernetes.yaml").read_text(), "kubernetes.yaml").data
    job = manifest("Job")["spec"]
    (container,) = pod()["containers"]
    env = {one["name"]: one for one in container["env"]}
    assert pod()["terminationGracePeriodSeconds"] == recipe["stop"]["platform_grace_s"] > recipe["stop"]["grace_s"]
    assert job["completions"] == job["parallelism"] == int(env["NODES"]["value"])
    assert job["completionMode"] == "Indexed"
    assert job["podFailurePolicy"]["rules"][0] == {
        "action": "Ignore",
        "onExitCodes": {"operator": "In", "values": [75]},
    }
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert f"http://127.0.0.1:{recipe['health']['port']}/" in container[probe]["exec"]["command"][2]
    secret = env["REDIS_PASSWORD"]["valueFrom"]["secretKeyRef"]
    assert (secret["name"], [*manifest("Secret")["stringData"]]) == ("orchestrate", [secret["key"]])
    headless, labels = manifest("Service")["spec"], job["template"]["metadata"]["labels"]
    assert (headless["clusterIP"], headless["selector"], pod()["subdomain"]) == ("None", labels, "orchestrate")
    redis = manifest("Deployment", "redis")["spec"]["template"]
    assert manifest("Service", "redis")["spec"]["selector"] == redis["metadata"]["labels"]
    assert manifest("Service", "redis")["spec"]["ports"] == [
        {"port": redis["spec"]["containers"][0]["ports"][0]["containerPort"]}
    ]


class Pods:
    """Starts the container's command with what Kubernetes sets in an Indexed Job's pod."""

    def __init__(self, launch: Launcher, url: str) -> None:
        self._launch = launch
        self._port = url.rpartition(":")[2].partition("/")[0]

    def start(self, index: int, *overrides: str) -> Launch:
        (container,) = pod()["containers"]
        command, *words = container["command"]
        assert command == "orchestrate"
        told = {
            "JOB_COMPLETION_INDEX": str(index),
            "KUBERNETES_SERVICE_HOST": "10.96.0.1",
            "REDIS_SERVICE_HOST": "127.0.0.1",
            "REDIS_SERVICE_PORT": self._port,
        }
        given = {"RUN_ID": f"pods-{os.getpid()}", "POD_IP": "127.0.0.1", "REDIS_PASSWORD": "secret99"}
        for one in container["env"]:
            told[one["name"]] = one.get("value") or given[one["name"]]
        name = f"node.name=orchestrate-{index}"  # a pod's host name; here all have one
        return self._launch(*words, name, "health.port=0", *overrides, env=told)


def test_the_pods_of_an_indexed_job_meet(launch: Launcher) -> None:
    with external_server("secret99") as server:
        pods = Pods(launch, server.url)
        runs = [pods.start(index) for index in (1, 0)]
        assert [run.wait() for run in runs] == [0, 0]
        said = [sorted(re.findall(r"hello from rank (\d) of 4", run.stdout)) for run in runs]
    assert said == [["2", "3"], ["0", "1"]], "a pod's index orders the ranks"


def test_a_pod_that_is_evicted_ends_with_75_and_the_next_one_takes_its_place(launch: Launcher) -> None:
    with external_server("secret99") as server:
        pods = Pods(launch, server.url)
        first, second = (pods.start(index, "stop.grace_s=1", *SLEEP) for index in (0, 1))
        before = in_round(first, 2)
        second.signal(signal.SIGTERM)
        assert second.wait() == 75
        again = pods.start(1, "stop.grace_s=1", *SLEEP)
        assert in_round(first, 2, after=before) == in_round(again, 2)
        assert first.events("restart_decided", charged=True) == []
        again.signal(signal.SIGTERM)
        first.signal(signal.SIGTERM)
        assert (first.wait(), again.wait()) == (75, 75)
