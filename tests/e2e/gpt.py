"""Trains a very small GPT on its own source text, as people do: DDP or FSDP, AdamW, a checkpoint every few steps.

Knows of its launcher only torchrun's variables. Arguments: a directory, the number of steps, and ddp or fsdp.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.functional import cross_entropy

CONTEXT, WIDTH, BATCH, EVERY = 16, 16, 4, 4
TEXT = torch.tensor(list(Path(__file__).read_bytes()))


class GPT(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        seen = self.token(text) + self.place(torch.arange(text.shape[1]))
        return self.head(self.blocks(seen, mask=mask, is_causal=True)).clone()


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    picked = torch.Generator().manual_seed(1000 * step + rank)
    starts = torch.randint(len(TEXT) - CONTEXT - 1, (BATCH,), generator=picked)
    text = torch.stack([TEXT[at : at + CONTEXT + 1] for at in starts.tolist()])
    return text[:, :-1], text[:, 1:]


def wrapped(model: GPT, how: str) -> nn.Module:
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - DDP has no need of it

    for block in model.blocks.layers:
        fully_shard(block)
    return fully_shard(model)


@record  # type: ignore[untyped-decorator]
def main() -> None:
    folder, steps, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo")
    rank, attempt = dist.get_rank(), os.environ["TORCHELASTIC_RESTART_COUNT"]
    torch.manual_seed(7)
    model = wrapped(GPT(), how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    saved = sorted(folder.glob("step*/.metadata"), key=lambda path: int(path.parent.name[4:]))
    first = 0
    if saved:
        weights, moments = get_state_dict(model, optimizer)
        dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=saved[-1].parent)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
        first = int(saved[-1].parent.name[4:])
    for step in range(first, steps):
        torch.manual_seed(step)  # dropout's
        text, then = batch(step, rank)
        loss = cross_entropy(model(text).flatten(0, 1), then.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        if rank == 0:
            with (folder / "losses").open("a") as out:
                out.write(f"{step} {mean.item() / dist.get_world_size():.6f} {attempt}\n")
        if (step + 1) % EVERY == 0:
            weights, moments = get_state_dict(model, optimizer)
            dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder / f"step{step + 1}")
        if rank == 1 and attempt == "0" and step == int(os.environ.get("CRASH_AT", "-1")):
            os.kill(os.getpid(), 9)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
