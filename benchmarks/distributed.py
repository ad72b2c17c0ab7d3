"""Balancing in two gloo processes of one thread each, over plain DDP on the same model with linear heads.

    python benchmarks/distributed.py [--trunk mlp] [--tasks 8] [--rounds 15] [--steps 20]

The trunks and batches are those of benchmarks/step.py, a batch for each process. Plain DDP has no Lepton in it: the
trunk, linear heads and the mean squared error.
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
from step import TRUNKS
from timing import describe
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import lepton
from lepton.balance import Balancer, CAGrad, Equal
from lepton.tasks import Regression


class Plain(nn.Module):
    def __init__(self, trunk: nn.Module, size: int, n_tasks: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(size, 1) for _ in range(n_tasks))

    def forward(self, x: Tensor) -> list[Tensor]:
        z = self.trunk(x)
        return [head(z).squeeze(1) for head in self.heads]


def plain(kind: str, n_tasks: int) -> Callable[[], None]:
    torch.manual_seed(0)
    trunk, x, size = TRUNKS[kind]()
    model = DistributedDataParallel(Plain(trunk, size, n_tasks))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    targets = [torch.randn(len(x)) for _ in range(n_tasks)]

    def step() -> None:
        optimizer.zero_grad()
        found = [nn.functional.mse_loss(y, t) for y, t in zip(model(x), targets, strict=True)]
        torch.stack(found).sum().backward()
        optimizer.step()

    return step


def with_lepton(kind: str, n_tasks: int, balancer: Balancer) -> Callable[[], None]:
    torch.manual_seed(0)
    trunk, x, size = TRUNKS[kind]()
    tasks = [Regression(f"t{i}", mean=0.0, std=1.0) for i in range(n_tasks)]
    model = DistributedDataParallel(lepton.LeptonModel(trunk, tasks, balancer=balancer, features=size))
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    targets = {task.name: torch.randn(len(x)) for task in tasks}

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


def process(rank: int, port: int, told: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    base = plain(told.trunk, told.tasks)
    ours = {kind.__name__: with_lepton(told.trunk, told.tasks, kind()) for kind in (Equal, CAGrad)}
    for step in (base, *ours.values()):
        seconds(step, told.steps)
    for name, step in ours.items():
        times = [
            (seconds(base, told.steps), seconds(step, told.steps), seconds(base, told.steps))
            for _ in range(told.rounds)
        ]
        for place, clock in enumerate(("clock", "process time")) if rank == 0 else ():
            ratios = sorted(2 * b[place] / (a[place] + c[place]) for a, b, c in times)
            noise = statistics.median(c[place] / a[place] for a, _, c in times)
            each = 1e3 * statistics.median(a[place] for a, _, _ in times) / told.steps
            low, high = ratios[told.rounds // 4], ratios[-told.rounds // 4]
            found = f"{statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} | {noise:.3f} | {each:.1f}"
            print(f"| {told.trunk}, {told.tasks} tasks | {name} | {clock} | {found} |", flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trunk", choices=TRUNKS, default="mlp")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15, help="turns of plain, balanced, plain")
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    told = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    print(describe())
    print("\n| model | balancer | time | over plain DDP | quartiles | plain over itself | ms of a plain step |")
    print("|---|---|---|---|---|---|---|")
    mp.spawn(process, (port, told), nprocs=2)


if __name__ == "__main__":
    main()
