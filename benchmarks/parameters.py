"""What the exact view `parameters` costs: time over its floor, over other exact engines, and peak memory.

    python benchmarks/parameters.py [--trunk cnn] [--tasks 8] [--rounds 7] [--budgets]
    python benchmarks/parameters.py --memory
    python benchmarks/parameters.py --disjoint

The floor is what nothing exact can go below in this way: one forward pass, T backward passes of the trunk, nothing
done with the gradients; and once more with the weighted sum's own backward pass, T + 1. All steps end with AdamW.
Memory is the peak of each step in a process of its own, over the resident memory just before it; the room that Lepton
keeps from step to step counts as part of the step.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys

import torch
from step import TRUNKS, Plain, lepton_step
from timing import Step, describe, measure

import lepton
from lepton.balance import Balancer, Equal, UPGrad
from lepton.gradients import Ledger
from lepton.tasks import Regression


class Floor(Plain):
    """T backward passes of the trunk that keep nothing, the heads' own, and the optimiser's step."""

    def run(self, more: int = 0) -> None:
        self.optimizer.zero_grad()
        z = self.trunk(self.x)
        cut = z.detach().requires_grad_()
        losses = self.losses(cut)
        cotangents = [torch.autograd.grad(loss, cut, retain_graph=True)[0] for loss in losses]
        losses.sum().backward(inputs=list(self.head.parameters()))
        for cotangent in cotangents[: len(cotangents) - 1 + more]:
            torch.autograd.grad(z, self.shared, cotangent, retain_graph=True)
        z.backward(cotangents[-1])
        self.optimizer.step()

    def one_more(self) -> None:
        self.run(1)


def budget_step(kind: str, n_tasks: int, parts: int) -> Step:
    """A step with room for a part of the tasks' gradients only."""
    torch.manual_seed(0)
    trunk, x, size = TRUNKS[kind]()
    sizes = [p.numel() for p in trunk.parameters()]
    numbers = max(n_tasks * sum(sizes) // parts, 2 * max(sizes))
    tasks = [Regression(f"t{i}") for i in range(n_tasks)]
    options = {"gradients": "parameters", "features": size, "memory_budget": 4 * numbers}
    model = lepton.LeptonModel(trunk, tasks, balancer=UPGrad(), **options)
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    targets = {task.name: torch.randn(len(x)) for task in tasks}

    def step() -> None:
        outputs, task_weights = model(x)
        optimizer.zero_grad()
        criterion(outputs, targets, task_weights).backward()
        optimizer.step()

    return step


def steps_for(kind: str, n_tasks: int, budgets: bool) -> dict[str, Step]:
    floor = Floor(kind, n_tasks)
    steps = {
        "floor, T + 1 backwards": floor.one_more,
        "floor, T backwards": floor.run,
        "parameters, UPGrad": lepton_step(kind, n_tasks, UPGrad(), "parameters"),
    }
    if budgets:
        for parts in (2, 4):
            steps[f"parameters, 1/{parts} of the memory"] = budget_step(kind, n_tasks, parts)
    plain = Plain(kind, n_tasks)
    steps["TorchJD autojac, UPGrad"] = plain.autojac
    steps["TorchJD autogram, UPGrad"] = Plain(kind, n_tasks).autogram
    return steps


def disjoint_steps(kind: str, n_tasks: int) -> dict[str, Step]:
    """Every task has rows of its own: all rows in one pass of the trunk, or a pass for each task's rows."""
    found: dict[str, Step] = {}
    for name, balancer, apart, view in (
        ("Equal", Equal(), False, "fork_layer"),
        ("parameters, one pass for all rows", UPGrad(), False, "parameters"),
        ("parameters, a pass for each task's rows", UPGrad(), True, "parameters"),
    ):
        found[name] = _disjoint_step(kind, n_tasks, balancer, apart, view)
    return found


def _disjoint_step(kind: str, n_tasks: int, balancer: Balancer, apart: bool, view: str) -> Step:
    torch.manual_seed(0)
    trunk, x, size = TRUNKS[kind]()
    heads = torch.nn.ModuleList(torch.nn.Linear(size, 1) for _ in range(n_tasks))
    names = [f"t{i}" for i in range(n_tasks)]
    parts = torch.randperm(len(x)).tensor_split(n_tasks)
    optimizer = torch.optim.AdamW([*trunk.parameters(), *heads.parameters()], 1e-4, fused=True)

    def step() -> None:
        z = {name: trunk(x[part]) for name, part in zip(names, parts, strict=True)} if apart else trunk(x)
        z = lepton.fork(z, names, balancer=balancer, gradients=view)
        found = [z[name] if apart else z[name][part] for name, part in zip(names, parts, strict=True)]
        optimizer.zero_grad()
        sum(head(each).square().mean() for head, each in zip(heads, found, strict=True)).backward()
        optimizer.step()

    return step


def peak_bytes(name: str, kind: str, n_tasks: int) -> int:
    """Return how far the third step of `name` raises the resident memory of this process; a warm step comes first."""
    step = steps_for(kind, n_tasks, True)[name]
    step()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # puts the peak back to what is resident now
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before + _kept_room()


def _kept_room() -> int:
    ledgers = [found for found in gc.get_objects() if type(found) is Ledger]
    return sum(ledger.room.nbytes for ledger in ledgers if ledger.room is not None)


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key + ":"))


def memory(kinds: list[str], tasks: list[int]) -> None:
    print("| trunk | T | " + " | ".join(steps_for("mlp", 2, True)) + " |  (MiB over what was resident)")
    for kind in kinds:
        for n_tasks in tasks:
            found = []
            for name in steps_for("mlp", 2, True):
                command = [sys.executable, __file__, "--peak", name, "--trunk", kind, "--tasks", str(n_tasks)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found.append(int(done.stdout.split()[-1]) / 2**20)
            print(f"| {kind} | {n_tasks} | " + " | ".join(f"{value:.0f}" for value in found) + " |", flush=True)


def times(kinds: list[str], tasks: list[int], rounds: int, budgets: bool) -> None:
    print(describe())
    for kind in kinds:
        for n_tasks in tasks:
            found = measure(steps_for(kind, n_tasks, budgets), "floor, T + 1 backwards", rounds, slow=3.0)
            print(f"\n### {kind}, T = {n_tasks}\n")
            for name, ratio in found.items():
                print(f"| {name} | {ratio} | {ratio.milliseconds:.0f} ms |", flush=True)


def disjoint(kinds: list[str], tasks: list[int], rounds: int) -> None:
    print(describe())
    for kind in kinds:
        for n_tasks in tasks:
            found = measure(disjoint_steps(kind, n_tasks), "Equal", rounds)
            print(f"\n### {kind}, T = {n_tasks}, rows of each task apart\n")
            for name, ratio in found.items():
                print(f"| {name} | {ratio} | {ratio.milliseconds:.0f} ms |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", choices=list(TRUNKS), nargs="*", default=list(TRUNKS))
    parser.add_argument("--tasks", type=int, nargs="*", default=[2, 8, 40])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budgets", action="store_true", help="with steps in half and a quarter of the memory")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--disjoint", action="store_true", help="every task has rows of its own")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(peak_bytes(options.peak, options.trunk[0], options.tasks[0]))
    elif options.disjoint:
        disjoint(options.trunk, options.tasks, options.rounds)
    elif options.memory:
        memory(options.trunk, options.tasks)
    else:
        times(options.trunk, options.tasks, options.rounds, options.budgets)


if __name__ == "__main__":
    main()
