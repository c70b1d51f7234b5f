"""What a zygote for a group's workers is, and when there can be none."""

from __future__ import annotations

from orchestrator.core.specs import WorkerSpec
from orchestrator.edge.backend import Zygote
from orchestrator.edge.zygotes import zygote_for

CMD = ("python", "-u", "train.py", "--shard=__rank__")


def test_a_zygote_is_what_its_workers_have_in_common() -> None:
    cpus = (frozenset({0}), frozenset({1}))
    spec = WorkerSpec(
        cmd=CMD, nproc=2, preload=("torch",), affinity=cpus, cwd="/w", umask=0o22, limits={"core": (0, 0)}
    )
    zygote = zygote_for(spec, [*CMD[:3], "--shard=1"], {"RANK": "1", "LR": "1", "CUDA_VISIBLE_DEVICES": "1"}, "/log")
    assert isinstance(zygote, Zygote)
    assert (zygote.python, zygote.runs, zygote.preload) == (CMD[:2], CMD[2:3], ("torch",))
    assert (zygote.env, zygote.cpus) == ({"LR": "1", "CUDA_VISIBLE_DEVICES": "1"}, {0, 1})
    assert (zygote.cwd, zygote.umask, zygote.limits, zygote.log) == ("/w", 0o22, {"core": (0, 0)}, "/log")


def test_the_device_of_a_worker_that_sees_no_other_is_its_own() -> None:
    spec = WorkerSpec(cmd=CMD, nproc=2, preload=(), virtual_local_rank=True)
    zygote = zygote_for(spec, CMD, {"LR": "1", "CUDA_VISIBLE_DEVICES": "1"}, None)
    assert isinstance(zygote, Zygote)
    assert zygote.env == {"LR": "1"}


def test_a_script_of_another_name_for_each_worker_has_no_zygote() -> None:
    spec = WorkerSpec(cmd=("python", "train__rank__.py"), nproc=2, preload=())
    why = "python train__rank__.py is another program for each worker"
    assert zygote_for(spec, ["python", "train0.py"], {}, None) == why
