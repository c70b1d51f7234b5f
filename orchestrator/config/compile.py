"""The compilation: a checked configuration and the facts of this machine become a `JobSpec`, or a list of problems.

`compile_job` is the only door. It reports everything that it finds in one pass and returns None then; it raises only
for a machine that cannot be proven sound, which is our bug. Invariant: what it returns can be started as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from posixpath import join as join_path
from posixpath import normpath
from typing import Any

from orchestrator.config.checks import check
from orchestrator.config.command import call, flag_arguments
from orchestrator.config.convert import convert
from orchestrator.config.groups import MISSING, Role, check_success, groups_of
from orchestrator.config.health import check_health, health_spec, preflight_policy, probes_policy
from orchestrator.config.host import Host
from orchestrator.config.process import check_devices, check_limits, shares
from orchestrator.config.program import check_program, resolved, worker_cwd
from orchestrator.config.report import UNRESOLVED, Report
from orchestrator.config.restart import RestartOnFailure, restart_policy
from orchestrator.config.schema import (
    JobConfig,
    LogsFiles,
    LogsInherit,
    LogsTee,
    RendezvousEmbedded,
    RendezvousRedis,
    StopDefault,
    WorkerConfig,
)
from orchestrator.config.watchdog import check_path, watchdog_policy
from orchestrator.core.policies import StopPolicy
from orchestrator.core.specs import (
    GroupSpec,
    JobSpec,
    LogsKind,
    LogsSpec,
    Macros,
    NodeSpec,
    OnIsolation,
    RendezvousKind,
    RendezvousSpec,
    StoreKind,
    WorkerSpec,
)
from orchestrator.core.table import build
from orchestrator.core.verify import verify
from orchestrator.errors import InternalError


def compile_job(
    data: Mapping[str, Any],
    host: Host,
    report: Report,
    *,
    run_dir: str,
    made_up_run_id: str | None = None,
    roles: Sequence[Role] = (),
) -> JobSpec | None:
    """The job that ``data`` describes, or None when the report has problems. ``run_dir`` is absolute.

    With ``roles``, what ``data`` says of a group is only judged: each role has it in its own data where it counts.
    """
    job = convert(JobConfig, data, "", report)
    check_success(job, report)

    def make(config: JobConfig, data: Mapping[str, Any], report: Report) -> GroupSpec | None:
        check(config, made_up_run_id, report)
        return _group(config, data, host, report)

    if roles:
        groups = groups_of(roles, job, made_up_run_id, report, make)
    else:
        groups = [group for group in [make(job, data, report)] if group is not None]
    if report.problems or not groups:
        return None
    spec = JobSpec(
        run_id=job.run_id or "",
        run_dir=run_dir,
        node=NodeSpec(name=job.node.name or "", rank=job.node.rank, addr=job.node.addr),
        groups=tuple(groups),
        rendezvous=_rendezvous(job.rendezvous),
        stop=_stop(job.stop),
        logs=_logs(job.logs, run_dir, host),
        health=health_spec(job.health),
        success=job.success,
    )
    _prove(spec)
    return spec


def _group(job: JobConfig, data: Mapping[str, Any], host: Host, report: Report) -> GroupSpec | None:
    """The group of a job that has one, or of a role, which sees the job as its own."""
    check_health(job.health, report)
    check_path(job.watchdog, host, report)
    section = data.get("worker")
    told = isinstance(section, Mapping) and section.get("cmd") is UNRESOLVED
    worker = _worker(job, host, report, told=told)
    if report.problems or worker is None:
        return None
    return GroupSpec(
        role=job.role,
        min_nodes=job.nodes[0],
        max_nodes=job.nodes[1],
        spare_nodes=job.rendezvous.spares,
        worker=worker,
        restart=restart_policy(job.restart),
        preflight=preflight_policy(job.health),
        probes=probes_policy(job.health),
        watchdog=watchdog_policy(job.watchdog),
        cascade=isinstance(job.restart, RestartOnFailure) and job.restart.cascade,
    )


def _prove(spec: JobSpec) -> None:
    for group in spec.groups:
        faults = verify(build(group, preempt=bool(spec.stop.preempt)))
        if faults:
            raise InternalError(f"the machine of role {group.role} is unsound: {'; '.join(faults)}")


def _worker(job: JobConfig, host: Host, report: Report, *, told: bool) -> WorkerSpec | None:
    """The workers' spec; ``told``: that there is no command was said already."""
    worker = job.worker
    cwd = worker_cwd(worker.cwd, host)
    if not host.is_dir(cwd):
        report.problem("worker.cwd", f"{cwd!r} is not a directory", "make it, or give another")
    nproc = _nproc(worker.nproc, host, report)
    check_limits(worker.limits, host, report)
    if worker.virtual_local_rank:
        check_devices(worker.env, nproc, host, report)
    affinity = shares(worker.affinity, nproc, host, report)
    written = _written(worker, report)
    if written is None:
        if not told and report.clean(
            "worker.cmd", "worker.entrypoint", "recipe"
        ):  # a recipe that is not there would have said it
            report.problem("worker.cmd", MISSING, "say what to run: orchestrate -- python train.py")
        return None
    cmd = resolved(written, job.recipe.dir, host, program_only=worker.macros != Macros.OWN)
    if worker.backend is None and report.clean("worker.env.PATH", "worker.cwd", "worker.cmd"):
        check_program(cmd[0], worker.env, cwd, host, report)
    return WorkerSpec(
        cmd=(*cmd, *flag_arguments(worker.flags, worker.flags_style)),
        nproc=nproc,
        env=dict(worker.env),
        cwd=cwd if worker.cwd else None,
        umask=worker.umask,
        limits=dict(worker.limits),
        affinity=affinity,
        store=StoreKind(worker.store),
        preload=worker.preload if worker.start == "zygote" else None,
        backend=worker.backend,
        macros=Macros(worker.macros),
        virtual_local_rank=worker.virtual_local_rank,
    )


def _written(worker: WorkerConfig, report: Report) -> tuple[str, ...] | None:
    """The command as it was given, or the one that calls the function."""
    if worker.entrypoint is None:
        for name in ("args", "kwargs"):
            if getattr(worker, name):
                report.problem(f"worker.{name}", "is for a function", "give worker.entrypoint=package.module:function")
        return worker.cmd
    if worker.cmd is not None:
        report.problem("worker.entrypoint", "is given, and worker.cmd too", "set one of them to null")
    return call(worker.entrypoint, worker.args, worker.kwargs)


def _nproc(wanted: int | str, host: Host, report: Report) -> int:
    """A number of workers: ``auto`` means one per GPU, or one per CPU on a machine without."""
    if isinstance(wanted, int):
        return wanted
    if wanted == "cpu":
        return host.cpus
    gpus = host.gpus()
    if gpus == 0 and wanted == "gpu":
        report.problem(
            "worker.nproc", "'gpu' finds no GPU on this machine", "allowed: a whole number from 1 to 65536, cpu, auto"
        )
    return gpus or host.cpus


def _rendezvous(chosen: RendezvousEmbedded | RendezvousRedis) -> RendezvousSpec:
    return RendezvousSpec(
        kind=RendezvousKind(chosen.kind),
        url=chosen.url if isinstance(chosen, RendezvousRedis) else None,
        listen=chosen.listen if isinstance(chosen, RendezvousEmbedded) else None,
        password=chosen.password if isinstance(chosen, RendezvousEmbedded) else None,
        join_timeout_s=chosen.join_timeout_s,
        last_call_s=chosen.last_call_s,
        lease_s=chosen.lease_s,
        scale_up_s=chosen.scale_up_s,
        server_grace_s=chosen.server_grace_s,
        on_isolation=OnIsolation(chosen.on_isolation),
        reopen=chosen.reopen,
    )


def _stop(stop: StopDefault) -> StopPolicy:
    preempt = frozenset(stop.preempt_signals)
    return StopPolicy(
        signal=stop.signal,
        relay=stop.relay,
        grace_s=stop.grace_s,
        kill_wait_s=stop.kill_wait_s,
        forward=frozenset(stop.forward) - preempt,  # one signal has one meaning, and the chosen one beats the default
        preempt=preempt,
        dump=stop.dump,
        platform_grace_s=stop.platform_grace_s,
    )


def _logs(logs: LogsFiles | LogsTee | LogsInherit, run_dir: str, host: Host) -> LogsSpec:
    given = None if isinstance(logs, LogsInherit) else logs.dir
    tee = logs if isinstance(logs, LogsTee) else LogsTee()
    return LogsSpec(
        kind=LogsKind(logs.kind),
        dir=normpath(join_path(host.cwd, given)) if given else join_path(run_dir, "logs"),
        prefix=tee.prefix,
        console=tee.console,
        max_bytes=None if isinstance(logs, LogsInherit) else logs.max_bytes,
        console_bytes_per_s=tee.console_bytes_per_s,
        streams=tee.streams,
        filters=(tee.filters.get("stdout", ()), tee.filters.get("stderr", ())),
    )
