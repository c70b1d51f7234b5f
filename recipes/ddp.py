"""A PyTorch DDP script as torchrun users write it: digits, a small network, a checkpoint after each epoch.

    torchrun --nproc-per-node=2 ddp.py --checkpoint-dir=/tmp/digits

Resumes from the newest checkpoint, also with another number of workers. Flags have defaults in the environment.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TRAIN_SIZE = 1437  # of 1797 images; the rest is for the test
GLOBAL_BATCH = 64


def arguments() -> argparse.Namespace:
    """What to train, and where to keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=int(os.environ.get("EPOCHS", "30")))
    parser.add_argument("--lr", type=float, default=float(os.environ.get("LR", "0.003")))
    parser.add_argument("--checkpoint-dir", type=Path, default=Path(os.environ.get("CHECKPOINT_DIR", "checkpoints")))
    return parser.parse_args()


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels, in an order that every rank draws alike."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]


def shard(epoch: int) -> torch.Tensor:
    """This rank's share of the epoch: a new permutation each epoch, the same number of images on every rank."""
    order = torch.randperm(TRAIN_SIZE, generator=torch.Generator().manual_seed(epoch))
    rank, world = dist.get_rank(), dist.get_world_size()
    return order[: TRAIN_SIZE // world * world][rank::world]


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load what rank 0 finds, on all ranks; returns the epoch to go on with."""
    found: list[Any] = [None]
    if dist.get_rank() == 0 and path.exists():
        found = [torch.load(path, weights_only=True)]
    dist.broadcast_object_list(found)  # one reader, so that all ranks agree
    state = found[0]
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"]) + 1


def save(path: Path, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Replace the checkpoint by this epoch's; whoever is killed in between leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    torch.save({"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, draft)
    draft.replace(path)


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, data: torch.Tensor, target: torch.Tensor) -> float:
    """One pass over this rank's shard; returns the mean loss."""
    losses = []
    size = max(1, GLOBAL_BATCH // dist.get_world_size())
    for start in range(0, len(data), size):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data[start : start + size]), target[start : start + size])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def finish(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """Say how good the network is, and write it down where the launcher asks for it."""
    with torch.no_grad():
        hits = (model(images[TRAIN_SIZE:]).argmax(dim=1) == labels[TRAIN_SIZE:]).float()
    accuracy = round(hits.mean().item(), 4)
    print(f"test accuracy {accuracy:.4f} after {epochs} epochs", flush=True)
    if name := os.environ.get("ORCHESTRATOR_RESULT_FILE"):
        Path(name).write_text(json.dumps({"accuracy": accuracy, "epochs": epochs}), encoding="utf-8")


def main() -> None:
    """Train, resume, report."""
    args = arguments()
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    images, labels = digits()
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    path = args.checkpoint_dir / "digits.pt"
    first = restore(path, net, optimizer)
    model = DistributedDataParallel(net)
    chief = dist.get_rank() == 0
    if chief:
        how = "resuming" if first else "starting"
        print(f"{how} at epoch {first} with {dist.get_world_size()} workers", flush=True)
    for epoch in range(first, args.epochs):
        mine = shard(epoch)
        loss = train_epoch(model, optimizer, images[mine], labels[mine])
        if chief:
            save(path, epoch, net, optimizer)
            print(f"epoch {epoch}: loss {loss:.4f}", flush=True)
    if chief:
        finish(net, images, labels, args.epochs)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
