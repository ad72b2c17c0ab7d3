"""Balancing in two gloo processes of one thread each, over plain DDP on the same model with linear heads.

python benchmarks/distributed.py [--rounds 15] [--steps 20]
"""

from __future__ import annotations

import argparse
import socket
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timing import describe
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import lepton
from lepton.balance import CAGrad
from lepton.tasks import Classification

TASKS, CLASSES, FEATURES, ROWS = 8, 5, 256, 128
NAMES = [f"task {number}" for number in range(TASKS)]


def trunk() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, FEATURES), nn.ReLU()]
    return nn.Sequential(*layers)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk()
        self.heads = nn.ModuleList(nn.Linear(FEATURES, CLASSES) for _ in NAMES)

    def forward(self, x: Tensor) -> list[Tensor]:
        z = self.trunk(x)
        return [head(z) for head in self.heads]


def plain(x: Tensor, targets: dict[str, Tensor]) -> Callable[[], None]:
    model = DistributedDataParallel(Plain())
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        found = [nn.functional.cross_entropy(y, t) for y, t in zip(model(x), targets.values(), strict=True)]
        torch.stack(found).sum().backward()
        optimizer.step()

    return step


def balanced(x: Tensor, targets: dict[str, Tensor]) -> Callable[[], None]:
    inner = lepton.LeptonModel(trunk(), [Classification(name, CLASSES) for name in NAMES], balancer=CAGrad())
    model = DistributedDataParallel(inner)
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        outputs, task_weights = model(x)
        criterion(outputs, targets, task_weights).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], steps: int) -> tuple[float, float]:
    """Return the time of some steps by the clock, and the time of the processor, which others disturb less."""
    dist.barrier()
    start, begin = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    busy = time.process_time() - begin
    dist.barrier()
    return time.perf_counter() - start, busy


def process(rank: int, port: int, rounds: int, steps: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    x, targets = torch.randn(ROWS, 64), {name: torch.randint(0, CLASSES, (ROWS,)) for name in NAMES}
    base, ours = plain(x, targets), balanced(x, targets)
    seconds(base, steps), seconds(ours, steps)
    times = [(seconds(base, steps), seconds(ours, steps), seconds(base, steps)) for _ in range(rounds)]
    for place, name in enumerate(("clock", "process time")) if rank == 0 else ():
        ratios = sorted(2 * b[place] / (a[place] + c[place]) for a, b, c in times)
        noise = [c[place] / a[place] for a, _, c in times]
        low, high = ratios[rounds // 4], ratios[-rounds // 4]
        print(f"{name}: balanced over plain DDP {statistics.median(ratios):.3f}, quartiles {low:.3f} to {high:.3f}")
        print(f"{name}: plain over itself {statistics.median(noise):.3f}, {min(noise):.3f} to {max(noise):.3f}")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns of plain, balanced, plain")
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    told = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    print(describe())
    mp.spawn(process, (port, told.rounds, told.steps), nprocs=2)


if __name__ == "__main__":
    main()
