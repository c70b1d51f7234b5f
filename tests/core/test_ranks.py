"""Ranks, the environment of a worker, and macros in its command."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.policies import StopPolicy, WatchdogKind, WatchdogPolicy
from orchestrator.core.ranks import fill_in, places, shared_variables, worker_env
from orchestrator.core.rendezvous import Seat
from orchestrator.core.specs import (
    JobSpec,
    LogsKind,
    LogsSpec,
    NodeSpec,
    RendezvousKind,
    RendezvousSpec,
    StoreKind,
    WorkerSpec,
)
from tests.core.specs import group

SEAT = Seat(
    round=3,
    token=170,
    slot=1,
    size=2,
    base_rank=2,
    world_size=6,
    members_hash="abc",
    master_addr="10.0.0.1",
    master_port=29512,
    charged=1,
    consecutive=1,
)
GROUP = replace(
    group(nodes=(2, 2)), worker=WorkerSpec(cmd=("run", "--shard=__rank__"), nproc=4, env={"LR": "0.1", "HOME": None})
)
JOB = JobSpec(
    run_id="j1",
    run_dir="runs/j1",
    node=NodeSpec(name="a"),
    groups=(GROUP,),
    rendezvous=RendezvousSpec(
        kind=RendezvousKind.EMBEDDED, join_timeout_s=1, last_call_s=1, lease_s=1, scale_up_s=1, server_grace_s=1
    ),
    stop=StopPolicy(signal=15, grace_s=1, kill_wait_s=1),
    logs=LogsSpec(kind=LogsKind.FILES, dir="logs", prefix=""),
)


def env_of(local_rank: int, inherited: dict[str, str]) -> dict[str, str]:
    place = places(SEAT, 4)[local_rank]
    return worker_env(JOB, GROUP, place, inherited, error_file="/e", result_file="/r", store="unix:///s")


def test_a_worker_sees_torchruns_variables() -> None:
    env = env_of(1, {"PATH": "/bin", "HOME": "/root"})
    assert {name: env[name] for name in env if name not in {"PATH", "PYTHONUNBUFFERED"}} == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "GROUP_RANK": "1",
        "ROLE_RANK": "3",
        "ROLE_NAME": "default",
        "WORLD_SIZE": "6",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_WORLD_SIZE": "6",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29512",
        "TORCHELASTIC_RESTART_COUNT": "1",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_RUN_ID": "j1",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCHELASTIC_ERROR_FILE": "/e",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "OMP_NUM_THREADS": "1",
        "ORCHESTRATOR_RUN_ID": "j1",
        "ORCHESTRATOR_GROUP": "default",
        "ORCHESTRATOR_INCARNATION": "0",
        "ORCHESTRATOR_ROUND": "3",
        "ORCHESTRATOR_TOKEN": "170",
        "ORCHESTRATOR_RESULT_FILE": "/r",
        "ORCHESTRATOR_STORE": "unix:///s",
        "LR": "0.1",
    }


@pytest.mark.parametrize(
    ("kind", "told"), [(StoreKind.AGENT, ("10.0.0.1", "29512", "True")), (StoreKind.NONE, (None, None, "False"))]
)
def test_what_is_behind_the_master_port_is_told(kind: StoreKind, told: tuple[str | None, ...]) -> None:
    hosted = replace(GROUP, worker=replace(GROUP.worker, store=kind))
    env = worker_env(JOB, hosted, places(SEAT, 4)[1], {}, error_file="/e", result_file="/r", store="unix:///s")
    assert tuple(map(env.get, ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"))) == told


def test_what_the_user_set_is_not_overruled() -> None:
    env = env_of(0, {"OMP_NUM_THREADS": "8", "PYTHONUNBUFFERED": "0"})
    assert (env["OMP_NUM_THREADS"], env["PYTHONUNBUFFERED"]) == ("8", "0")


def test_a_budget_without_bound_is_shown_as_no_restarts_to_torch() -> None:
    unbounded = replace(GROUP, restart=group(budget=None).restart)
    env = worker_env(JOB, unbounded, places(SEAT, 1)[0], {}, error_file="/e", result_file="/r", store="unix:///s")
    assert env["TORCHELASTIC_MAX_RESTARTS"] == "0"


def test_a_single_worker_keeps_its_threads() -> None:
    (place,) = places(SEAT, 1)
    env = worker_env(JOB, GROUP, place, {}, error_file="/e", result_file="/r", store="unix:///s")
    assert "OMP_NUM_THREADS" not in env


def test_macros_are_filled_in_and_other_text_is_untouched() -> None:
    cmd = ("x", "__rank__", "--at=__local_rank__/__world_size__", "$HOME {a} %s __rank __name__", "__node_rank__")
    assert fill_in(cmd, JOB, GROUP, places(SEAT, 4)[3]) == ["x", "5", "--at=3/6", "$HOME {a} %s __rank __name__", "1"]


def test_ranks_of_a_node_follow_each_other() -> None:
    assert [(place.rank, place.local_rank) for place in places(SEAT, 4)] == [(2, 0), (3, 1), (4, 2), (5, 3)]


def watched_env(kind: WatchdogKind, inherited: dict[str, str]) -> dict[str, str]:
    spec = replace(GROUP, watchdog=WatchdogPolicy(kind=kind))
    place = places(SEAT, 1)[0]
    return worker_env(
        JOB, spec, place, inherited, error_file="", result_file="", store="", watchdog="/w", stacks_file="/s"
    )


def test_torchs_name_for_the_pipe_is_only_given_where_its_words_count() -> None:
    for kind in WatchdogKind:
        env = watched_env(kind, {"TORCHELASTIC_TIMER_FILE": "/mine"})
        assert env["TORCHELASTIC_TIMER_FILE"] == ("/w" if kind is WatchdogKind.TIMER else "/mine")
        assert (env["ORCHESTRATOR_WATCHDOG_FILE"], env["ORCHESTRATOR_STACKS_FILE"]) == ("/w", "/s")


def test_an_unwatched_worker_does_not_speak_to_the_watchdog_that_we_run_under() -> None:
    env = env_of(0, {"ORCHESTRATOR_WATCHDOG_FILE": "/outer", "ORCHESTRATOR_STACKS_FILE": "/outer"})
    assert not {"ORCHESTRATOR_WATCHDOG_FILE", "ORCHESTRATOR_STACKS_FILE"} & set(env)


def test_what_workers_share_is_the_same_for_all_of_them_and_for_later_rounds() -> None:
    later = replace(SEAT, round=4, token=171, slot=0, base_rank=0, world_size=8, size=3, master_port=1, charged=2)
    shared = []
    for number, place in enumerate((*places(SEAT, 4), *places(later, 4))):
        env = worker_env(
            JOB,
            GROUP,
            place,
            {"PATH": "/bin"},
            error_file=f"/e{number}",
            result_file=f"/r{number}",
            store="unix:///s",
            watchdog="/w",
            stacks_file=f"/s{number}",
            incarnation=number,
        )
        shared.append(shared_variables(env, GROUP.worker))
    assert shared == [shared[0]] * 8
    assert {"PATH", "LR", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "ORCHESTRATOR_RUN_ID"} <= shared[0].keys()
