"""Real training with real torch under ``orchestrate-torchrun``: it is killed, resumed, scaled, and learns the same."""

from __future__ import annotations

import json
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import until
from tests.e2e.nodes import OURS, THEIRS, free_port, script

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.torch,
    pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]"),
]
GPT = Path(__file__).with_name("gpt.py")


def losses(path: Path) -> list[tuple[int, float, int]]:
    """Step, loss and restart count of every step that was taken."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(int(step), float(loss), int(restarts)) for step, loss, restarts in rows]


def test_a_transformer_that_is_killed_and_resumed_learns_as_one_that_was_not(start: Start, tmp_path: Path) -> None:
    """FSDP on gloo; killed under us at step 9, undisturbed under torchrun. Checkpoints are from steps 4 and 8."""
    folders = tmp_path / "ours", tmp_path / "theirs"
    for folder in folders:
        folder.mkdir()
    common = ("--nproc-per-node=2", "--max-restarts=1", str(GPT))
    killed = start(OURS, *common, "ours", "12", "fsdp", env={"CRASH_AT": "9"})
    undisturbed = start(THEIRS, *common, "theirs", "12", "fsdp")
    assert killed.wait() == 0, killed.stderr
    assert undisturbed.wait() == 0, undisturbed.stderr
    ours, theirs = (losses(folder / "losses") for folder in folders)
    assert [(step, restarts) for step, _, restarts in ours] == [
        *((step, 0) for step in range(10)),
        *((step, 1) for step in range(8, 12)),
    ]
    curve = {step: loss for step, loss, _ in theirs}
    assert [loss for _, loss, _ in ours] == [pytest.approx(curve[step], abs=2e-6) for step, _, _ in ours]
    assert curve[11] < curve[0]


DDP = """
import os, sys, torch, torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

@record
def main():
    dist.init_process_group("gloo")
    rank, world, attempt = dist.get_rank(), dist.get_world_size(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    total = torch.tensor([float(rank)])
    dist.all_reduce(total)  # right after the round has begun
    torch.manual_seed(rank)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = 0
    if os.path.exists("saved"):
        saved = torch.load("saved")
        model.load_state_dict(saved["model"])
        first = saved["step"]
    for step in range(first, 6):
        if attempt == 0 and step == 3 and rank == 3:
            raise ValueError("boom at 3")
        x = torch.full((2, 3), float(step + rank))
        optimizer.zero_grad()
        ((model(x) - 1) ** 2).mean().backward()
        optimizer.step()
        if rank == 0:
            torch.save({"model": model.state_dict(), "step": step + 1}, "saved.new")
            os.replace("saved.new", "saved")
        dist.barrier()
    weights = [round(value, 6) for value in next(model.parameters()).flatten().tolist()]
    with open(f"said.{rank}", "w") as out:
        out.write(repr((attempt, first, world, total.item(), weights)))
    dist.barrier()
    dist.destroy_process_group()

main()
"""


def test_ddp_on_two_nodes_goes_on_from_its_checkpoint_after_a_recorded_failure(start: Start, tmp_path: Path) -> None:
    words = ["--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}"]
    words += ["--rdzv-id=ddp", "--max-restarts=1", "--log-dir=logs", script(tmp_path, DDP)]
    nodes = [start(OURS, *words) for _ in range(2)]
    assert [node.wait() for node in nodes] == [0, 0], nodes[0].stderr + nodes[1].stderr
    said = [eval((tmp_path / f"said.{rank}").read_text()) for rank in range(4)]
    assert {one[:4] for one in said} == {(1, 3, 4, 6.0)}, "restarted once, from step 3, four of them"
    assert len({str(one[4]) for one in said}) == 1, "and all have the same weights"
    results = [json.loads(path.read_text()) for path in (tmp_path / "logs").rglob("result.json")]
    assert {result["restarts"] for result in results} == {1}
    causes = [one for result in results for one in result["failures"] if one["error_type"] == "ValueError"]
    assert [(one["rank"], one["message"]) for one in causes] == [(3, "boom at 3")]
    assert "raise ValueError" in causes[0]["traceback"]


REDUCE = """
import os, sys, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
with open("rows", "a") as out:
    out.write(f"{dist.get_rank()} {dist.get_world_size()} {int(total.item())} "
              f"{os.environ['TORCHELASTIC_RESTART_COUNT']} {os.environ['ORCHESTRATOR_ROUND']}\\n")
while not os.path.exists("over"):
    time.sleep(0.02)
"""


def test_a_group_grows_and_shrinks_and_grows_and_reduces_right_after_every_round(start: Start, tmp_path: Path) -> None:
    words = ["--nnodes=1:2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=e"]
    words += ["--rdzv-conf=last_call_timeout=0.2", script(tmp_path, REDUCE)]
    rows = tmp_path / "rows"

    def in_world(size: int, after: int) -> int:
        """Wait for a later round in which so many workers have reduced; returns its number."""

        def found() -> int | None:
            seen = [tuple(map(int, line.split())) for line in rows.read_text().splitlines()] if rows.exists() else []
            rounds = {row[4] for row in seen if row[4] > after and row[1] == size}
            for number in rounds:
                of = sorted(row[:4] for row in seen if row[4] == number)
                if of == [(rank, size, sum(range(size + 1)), 0) for rank in range(size)]:
                    return number
            return None

        return until(found, f"a world of {size} after round {after}: {rows}")

    first = start(OURS, *words)
    number = in_world(1, 0)
    second = start(OURS, *words)
    number = in_world(2, number)
    second.process.send_signal(signal.SIGKILL)
    number = in_world(1, number)
    third = start(OURS, *words)
    in_world(2, number)
    (tmp_path / "over").touch()
    assert [first.wait(), third.wait()] == [0, 0], first.stderr + third.stderr
