"""A loop of one's own in two processes, for `torchrun`: python ranks.py FOLDER STEPS [STEP_OF_DEATH]

Every fifth step the first process writes a checkpoint, from which all go on. In the first life, the second process
kills itself with SIGKILL at a step.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import lepton
from lepton.balance import CAGrad, Smooth
from lepton.data import TensorData, TensorLoader
from lepton.tasks import Classification, Regression
from lepton.train import load_training, save_training

EVERY = 5


def make_model() -> lepton.LeptonModel:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8))
    tasks = [Classification("digit", 3), Regression("slant", mean=0.0, std=1.0)]
    return lepton.LeptonModel(trunk, tasks, balancer=Smooth(CAGrad()))


def make_loader() -> TensorLoader:
    draws = torch.Generator().manual_seed(1)
    x, slant = torch.randn(96, 6, generator=draws), torch.randn(96, generator=draws)
    slant[::3] = float("nan")
    return TensorLoader(TensorData(x, {"digit": torch.arange(96) % 3, "slant": slant}), 12, shuffle=True, seed=3)


def main(folder: Path, steps: int, death: int | None) -> None:
    # After a restart torchrun's store still holds the addresses of the processes that died: each life has its own keys,
    # or one process looks for a dead one. With the default timeout it would do so for half an hour.
    store, rank, world = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"life {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=30))
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    random.seed(0)
    np.random.seed(0)
    model, loader = make_model(), make_loader()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    parts = {"optimizer": optimizer, "loader": loader}
    step = 0
    if (folder / "last").exists():
        step = int(load_training(folder / "last", model, parts)["step"])
    wrapped = DistributedDataParallel(model)
    criterion = lepton.MultiTaskLoss(wrapped)
    begun = step
    while step < steps:
        for x, targets in loader:
            optimizer.zero_grad()
            outputs, task_weights = wrapped(x[rank::world])
            criterion(outputs, {name: target[rank::world] for name, target in targets.items()}, task_weights).backward()
            optimizer.step()
            step += 1
            if rank == 0 and step % EVERY == 0:
                save_training(folder / "last", model, parts, {"step": step})
            if step == begun + 1 and rank == 0 and not first_life:
                (folder / "resumed").write_text(f"{begun} {time.time()}")
            if step == death and rank == 1 and first_life:
                (folder / "died").write_text(f"{step} {time.time()}")
                os.kill(os.getpid(), signal.SIGKILL)
            if step == steps:
                break
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
