"""A real Slurm of one node in tests: its own daemons, ports and files, without accounting and without systemd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.harness import until

MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
NEEDS = "needs root, and munge, slurmctld, slurmd and slurm-client"

_CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd.log
ReturnToService=2
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=500 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Start it; what a process needs in its environment to use it."""
    with ExitStack() as stack:
        at = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm.", dir="/tmp"))
        )  # a socket's path is short
        at.chmod(0o755)
        for name in ("state", "spool"):
            (at / name).mkdir()
        (at / "munge.key").write_bytes(os.urandom(128))
        (at / "munge.key").chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        (at / "slurm.conf").write_text(_CONF.format(host=host, at=at, ports=_ports()))
        env = {"SLURM_CONF": str(at / "slurm.conf")}
        munge = [f"--socket={at}/munge.sock", f"--key-file={at}/munge.key", f"--pid-file={at}/munge.pid"]
        munge += [f"--log-file={at}/munge.log", f"--seed-file={at}/seed"]
        stack.enter_context(_daemon(at, ["munged", "--force", "--foreground", *munge], env))
        until((at / "munge.sock").exists, "munged listens")
        stack.enter_context(_daemon(at, ["slurmctld", "-D", "-f", env["SLURM_CONF"]], env))
        stack.enter_context(_daemon(at, ["slurmd", "-D", "-f", env["SLURM_CONF"]], env))
        until(lambda: "idle" in _said(env, "sinfo", "-h"), "the node is idle", pause_s=0.2)
        stack.callback(_cancel, env)
        yield env


def _cancel(env: dict[str, str]) -> None:
    """End what a test has left in the queue, while there is somebody who can."""
    _said(env, "scancel", "--user=root")
    until(lambda: not _said(env, "squeue", "-h"), "no job is left", pause_s=0.2)


def _said(env: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    return done.stdout


def _ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def _daemon(at: Path, command: Sequence[str], env: dict[str, str]) -> Iterator[None]:
    with (at / f"{command[0]}.out").open("wb") as out:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=out, stderr=out, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
