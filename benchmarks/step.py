"""The cost of a training step with each balancer, over equal weighting.

    python benchmarks/step.py [--quick] [--trunk mlp] [--tasks 8]

Forward, loss, backward and AdamW on fixed random batches. With linear heads and the view `fork_layer` every gradient
balancer is shown; below that, what other heads, other views and other engines cost.
"""

from __future__ import annotations

import argparse

import torch
from timing import Step, describe, measure
from torch import Tensor, nn

import lepton
from lepton.balance import (
    IMTLG,
    MGDA,
    AlignedMTL,
    Balancer,
    CAGrad,
    ConFIG,
    DualProj,
    Equal,
    FairGrad,
    GradDrop,
    GradNorm,
    GradVac,
    NashMTL,
    PCGrad,
    UPGrad,
)
from lepton.tasks import Regression


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


class MeanPooled(nn.Module):
    """A Transformer encoder whose positions are averaged."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 6, 4 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean(1)


def mlp() -> tuple[nn.Module, Tensor, int]:
    layers = [nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 256)]
    return nn.Sequential(*layers), torch.randn(256, 64), 256


def cnn() -> tuple[nn.Module, Tensor, int]:
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), Residual(32), nn.Conv2d(32, 64, 3, 2, 1), Residual(64)]
    tail = [nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *tail), torch.randn(32, 3, 32, 32), 128


def transformer() -> tuple[nn.Module, Tensor, int]:
    return MeanPooled(192, 4), torch.randn(16, 64, 192), 192


TRUNKS = {"mlp": mlp, "cnn": cnn, "transformer": transformer}
BALANCERS: dict[str, type[Balancer]] = {
    "MGDA": MGDA,
    "PCGrad": PCGrad,
    "CAGrad": CAGrad,
    "IMTLG": IMTLG,
    "UPGrad": UPGrad,
    "GradVac": GradVac,
    "NashMTL": NashMTL,
    "FairGrad": FairGrad,
    "AlignedMTL": AlignedMTL,
    "ConFIG": ConFIG,
    "DualProj": DualProj,
    "GradNorm": GradNorm,
    "GradDrop": GradDrop,
}


def lepton_step(kind: str, n_tasks: int, balancer: Balancer, view: str = "fork_layer", linear: bool = True) -> Step:
    torch.manual_seed(0)
    trunk, x, size = TRUNKS[kind]()
    heads = [
        None if linear else nn.Sequential(nn.Linear(size, 32), nn.ReLU(), nn.Linear(32, 1)) for _ in range(n_tasks)
    ]
    tasks = [Regression(f"t{i}", head=head) for i, head in enumerate(heads)]
    model = lepton.LeptonModel(trunk, tasks, balancer=balancer, gradients=view, features=size)
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    targets = {task.name: torch.randn(len(x)) for task in tasks}

    def step() -> None:
        outputs, task_weights = model(x)
        optimizer.zero_grad()
        criterion(outputs, targets, task_weights).backward()
        optimizer.step()

    return step


class Plain:
    """The same network and losses without Lepton, for the engines that are compared."""

    def __init__(self, kind: str, n_tasks: int) -> None:
        torch.manual_seed(0)
        self.trunk, self.x, size = TRUNKS[kind]()
        self.head = nn.Linear(size, n_tasks)
        self.heads = nn.ModuleList(nn.Linear(size, 1) for _ in range(n_tasks))  # what autojac wants: one for each task
        self.targets = torch.randn(len(self.x), n_tasks)
        self.shared = list(self.trunk.parameters())
        parameters = [*self.shared, *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, 1e-4, fused=True)

    def losses(self, z: Tensor) -> Tensor:
        return (self.head(z) - self.targets).square().mean(0)

    def separate_backwards(self) -> None:
        """A loop of T backward passes, then a weighted sum: what most public code does."""
        self.optimizer.zero_grad()
        losses = self.losses(self.trunk(self.x))
        rows = [torch.autograd.grad(loss, self.shared, retain_graph=True) for loss in losses]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        weights = UPGrad().weights(jacobian @ jacobian.T)
        direction = weights @ jacobian
        losses.sum().backward(inputs=list(self.head.parameters()))
        for parameter, part in zip(self.shared, direction.split([p.numel() for p in self.shared]), strict=True):
            parameter.grad = part.view_as(parameter)
        self.optimizer.step()

    def autojac(self) -> None:
        from torchjd.aggregation import UPGrad as Aggregator
        from torchjd.autojac import jac_to_grad, mtl_backward

        self.optimizer.zero_grad()
        z = self.trunk(self.x)
        columns = self.targets.unbind(1)
        losses = [(head(z)[:, 0] - y).square().mean() for head, y in zip(self.heads, columns, strict=True)]
        own = [list(head.parameters()) for head in self.heads]
        mtl_backward(losses, features=z, tasks_params=own, shared_params=self.shared)
        jac_to_grad(self.shared, Aggregator())
        self.optimizer.step()

    def autogram(self) -> None:
        from torchjd.aggregation import UPGradWeighting
        from torchjd.autogram import Engine

        if not hasattr(self, "engine"):
            self.engine, self.weighting = Engine(self.trunk, batch_dim=None), UPGradWeighting()
        self.optimizer.zero_grad()
        losses = self.losses(self.trunk(self.x))
        weights = self.weighting(self.engine.compute_gramian(losses))
        losses.backward(weights)
        self.optimizer.step()

    def autojac_on_features(self) -> None:
        from torchjd.aggregation import UPGrad as Aggregator
        from torchjd.autojac import backward, jac_to_grad

        self.optimizer.zero_grad()
        z = self.trunk(self.x)
        cut = z.detach().requires_grad_()
        losses = self.losses(cut)
        losses.sum().backward(inputs=list(self.head.parameters()), retain_graph=True)
        backward(list(losses), inputs=[cut])
        jac_to_grad([cut], Aggregator())
        z.backward(cut.grad)
        self.optimizer.step()


def steps_for(kind: str, n_tasks: int, quick: bool) -> dict[str, Step]:
    steps = {"Equal": lepton_step(kind, n_tasks, Equal())}
    for name, balancer in BALANCERS.items():
        steps[name] = lepton_step(kind, n_tasks, balancer())
    if quick:
        return steps
    steps["UPGrad, features"] = lepton_step(kind, n_tasks, UPGrad(), "features")
    steps["UPGrad, parameters"] = lepton_step(kind, n_tasks, UPGrad(), "parameters")
    plain = Plain(kind, n_tasks)
    steps["T separate backwards, UPGrad"] = plain.separate_backwards
    steps["TorchJD autojac, UPGrad"] = plain.autojac
    steps["TorchJD autogram, UPGrad"] = Plain(kind, n_tasks).autogram
    steps["TorchJD on the features, UPGrad"] = Plain(kind, n_tasks).autojac_on_features
    return steps


def own_head_steps(kind: str, n_tasks: int) -> dict[str, Step]:
    return {
        "Equal, own heads": lepton_step(kind, n_tasks, Equal(), linear=False),
        "UPGrad, own heads": lepton_step(kind, n_tasks, UPGrad(), linear=False),
        "UPGrad, own heads, features": lepton_step(kind, n_tasks, UPGrad(), "features", linear=False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the balancers with a bar only")
    parser.add_argument("--trunk", choices=list(TRUNKS), nargs="*", default=list(TRUNKS))
    parser.add_argument("--tasks", type=int, nargs="*", default=[2, 8, 40])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--engines-up-to", type=int, default=8, help="largest T for what is not a balancer of Lepton")
    options = parser.parse_args()
    print(describe())
    for kind in options.trunk:
        print(f"\n### {kind}\n")
        columns = []
        for n_tasks in options.tasks:
            quick = options.quick or n_tasks > options.engines_up_to
            found = measure(steps_for(kind, n_tasks, quick), "Equal", options.rounds)
            if not quick:
                found |= measure(own_head_steps(kind, n_tasks), "Equal, own heads", options.rounds)
            columns.append({name: str(ratio) for name, ratio in found.items()})
            columns[-1]["Equal, milliseconds"] = f"{found['Equal'].milliseconds:.1f}"
        print("| step | " + " | ".join(f"T = {n}" for n in options.tasks) + " |")
        print("|---" * (1 + len(columns)) + "|")
        for name in columns[0]:
            print(f"| {name} | " + " | ".join(column.get(name, "") for column in columns) + " |", flush=True)


if __name__ == "__main__":
    main()
