"""A thousand one-output tasks against one: time of a step, and the memory of the balancing itself.

python benchmarks/many_tasks.py [--tasks 1000]
"""

from __future__ import annotations

import argparse

import torch
from timing import Step, describe, measure
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lepton
from lepton.balance import IMTLG, MGDA, Balancer, Equal
from lepton.tasks import Regression

BATCH, FEATURES = 256, 256


def model_and_step(n_tasks: int, balancer: Balancer) -> Step:
    torch.manual_seed(0)
    layers = [nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, FEATURES)]
    tasks = [Regression(f"t{i}") for i in range(n_tasks)]
    model = lepton.LeptonModel(nn.Sequential(*layers), tasks, balancer=balancer, features=FEATURES)
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    x = torch.randn(BATCH, 64)
    targets = {task.name: torch.randn(BATCH) for task in tasks}

    def step() -> None:
        outputs, task_weights = model(x)
        optimizer.zero_grad()
        criterion(outputs, targets, task_weights).backward()
        optimizer.step()

    return step


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // 4)
        return result


def peak_bytes(step: Step) -> int:
    """Return the highest number of bytes in live CPU tensors during a step, above what lived before it."""
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    live = highest = 0
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    n_tasks = options.tasks
    steps = {
        "one task": model_and_step(1, Equal()),
        f"{n_tasks} tasks, Equal": model_and_step(n_tasks, Equal()),
        f"{n_tasks} tasks, MGDA": model_and_step(n_tasks, MGDA()),
        f"{n_tasks} tasks, IMTLG": model_and_step(n_tasks, IMTLG()),
    }
    print(describe())
    found = measure(steps, "one task", options.rounds)
    base = peak_bytes(steps[f"{n_tasks} tasks, Equal"])
    outputs, gramian = 4 * BATCH * n_tasks, 4 * n_tasks**2
    sizes = f"[B, T] is {outputs / 1e6:.1f} MB, [T, T] {gramian / 1e6:.1f} MB"
    print(f"{sizes}, [T, B, D] {outputs * FEATURES / 1e6:.0f} MB\n")
    print("| step | over one task | milliseconds | peak memory above Equal, MB | largest tensor made, MB |")
    print("|---|---|---|---|---|")
    for name, ratio in found.items():
        with Largest() as largest:
            steps[name]()
        extra = (peak_bytes(steps[name]) - base) / 1e6
        print(f"| {name} | {ratio} | {ratio.milliseconds:.1f} | {extra:.1f} | {4 * largest.elements / 1e6:.1f} |")


if __name__ == "__main__":
    main()
