"""How near cheap Gramians come to the exact one, corrected by it at every n-th step or not, along one training.

    python benchmarks/corrections.py --data FOLDER [--methods "log + MGDA" ...] [--epochs 4] [--every 10] [--raw]

The training is that of benchmarks/views.py, one seed, and follows the weights of the exact Gramian. At every step all
Gramians of the same batch are formed; the cheap ones, and what corrections make of them, are turned into weights w by
the method, and compared with the exact weights v:

    direction  1 - cosine of the trunk's gradients J^T w and J^T v
    weights    sum |w - v| / sum |v|
    length     |log(|J^T w| / |J^T v|)|

Means over the steps that are not corrections, without the first twenty. The number behind a correction is the decay of
its running mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from views import BATCH, HELD_OUT, METHODS, SCENES, TAILS, TASKS, Scenes, make_scenes, new_model, read_digits
from views import RATE as LEARNING_RATE

from lepton.balance import Balancer, Equal, Log

SLICES = {"exact, on 1/2 of the batch": 2, "exact, on 1/8 of the batch": 8}
BURN_IN = 20
Steps = dict[str, list[Tensor]]


# -- one training, and all Gramians at every step ----------------------------------------------------------------
def gramians(trunk: torch.nn.Sequential, z: Tensor, cotangents: list[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Return the Gramians of this batch by their names, and the gradients J [T, P]."""
    parameters = list(trunk.parameters())

    def jacobian(rows: slice) -> Tensor:
        each = [torch.autograd.grad(z[rows], parameters, c[rows], retain_graph=True) for c in cotangents]
        return torch.stack([torch.cat([g.flatten() for g in found]) for found in each])

    exact = jacobian(slice(None))
    layer = torch.stack([(z.detach().T @ c).flatten() for c in cotangents])
    features = torch.stack([c.flatten() for c in cotangents])
    found = {"exact": exact, "fork_layer": layer, "features": features}
    for name, first in TAILS.items():
        size = sum(p.numel() for module in list(trunk)[first:] for p in module.parameters())
        found[name] = exact[:, exact.shape[1] - size :]
    for name, share in SLICES.items():
        found[name] = jacobian(slice(0, len(z) // share))
    return {name: rows @ rows.T for name, rows in found.items()}, exact


def follow(method: str, scenes: Scenes, epochs: int) -> Steps:
    """Train by the exact weights of a method; return the Gramians of every step."""
    torch.manual_seed(0)
    model = new_model(TASKS, Equal(), "none").train()
    balancer, logarithms = inner(method)
    heads = [p for head in model.heads.values() for p in head.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
    generator = torch.Generator().manual_seed(0)
    steps: Steps = {}
    for _ in range(epochs):
        for inputs, targets in scenes.batches(BATCH, torch.randperm(len(scenes.inputs), generator=generator)):
            z = model.trunk(inputs)
            cut = z.detach().requires_grad_()
            outputs = {name: model.task(name).finish(model.heads[name](cut)) for name in TASKS}
            losses = [_loss(model, name, outputs[name], targets[name]) for name in TASKS]
            losses = [loss.log() for loss in losses] if logarithms else losses
            optimizer.zero_grad()
            cotangents = [torch.autograd.grad(loss, cut, retain_graph=True)[0] for loss in losses]
            torch.stack(losses).sum().backward(inputs=heads)
            found, jacobian = gramians(model.trunk, z, cotangents)
            for name, gramian in found.items():
                steps.setdefault(name, []).append(gramian)
            total, start = balancer.weights(found["exact"]) @ jacobian, 0
            for parameter in model.trunk.parameters():
                parameter.grad = total[start : start + parameter.numel()].view_as(parameter).clone()
                start += parameter.numel()
            optimizer.step()
    return steps


def _loss(model: torch.nn.Module, name: str, output: Tensor, target: Tensor) -> Tensor:
    task = model.task(name)
    total, count = task.total_loss(output, target)
    return task.loss_weight * total / count


def inner(method: str) -> tuple[Balancer, bool]:
    """Return the method without `Log`, for three tasks, and whether `Log` was there."""
    balancer = METHODS[method]()
    logarithms = isinstance(balancer, Log)
    return (balancer.balancer if logarithms else balancer).bind(len(TASKS)), logarithms


# -- corrections ------------------------------------------------------------------------------------------------
def norms(gramian: Tensor) -> Tensor:
    """Return the gradients' norms [T]."""
    return gramian.diagonal().clamp(min=1e-30).sqrt()


def cosines(gramian: Tensor) -> Tensor:
    """Return the cosines [T, T]."""
    return gramian / norms(gramian)[:, None] / norms(gramian)


def root(matrix: Tensor, power: float = 0.5) -> Tensor:
    """Return a power of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=1e-6) ** power) @ vectors.T


def ratio_of(cheap: Tensor, exact: Tensor) -> Tensor:
    """Elementwise."""
    return exact / cheap


def held_of(cheap: Tensor, exact: Tensor) -> Tensor:
    """The exact Gramian itself."""
    return exact


def norms_of(cheap: Tensor, exact: Tensor) -> Tensor:
    """The logarithm of the norms' ratio."""
    return (norms(exact) / norms(cheap)).log()


def norms_and(part: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The norms' ratio in the first row, something of the cosines in the others."""
    return lambda cheap, exact: torch.cat([norms_of(cheap, exact)[None], part(cosines(cheap), cosines(exact))])


def congruence(cheap: Tensor, exact: Tensor) -> Tensor:
    """Return the symmetric C >= 0 with C cheap C = exact."""
    ridge = 1e-3 * cheap.diagonal().mean() * torch.eye(len(cheap))
    middle, out = root(cheap + ridge), root(cheap + ridge, -0.5)
    return out @ root(middle @ (exact + ridge) @ middle) @ out


def rescaled(gramian: Tensor, logarithm: Tensor) -> Tensor:
    """Multiply the norms."""
    return gramian * logarithm.exp()[:, None] * logarithm.exp()


def with_cosines(cheap: Tensor, new: Tensor, logarithm: Tensor) -> Tensor:
    """Return the Gramian with new cosines, made positive semi-definite, and the corrected norms of `cheap`."""
    values, vectors = torch.linalg.eigh((new + new.T) / 2)
    valid = cosines((vectors * values.clamp(min=0)) @ vectors.T)
    return rescaled(valid * norms(cheap)[:, None] * norms(cheap), logarithm)


Learn, Apply = Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]
CORRECTIONS: dict[str, tuple[float, Learn, Apply]] = {
    **{f"norms, {decay}": (decay, norms_of, rescaled) for decay in (0.0, 0.5, 0.8)},
    **{
        f"norms, and cosines shifted, {decay}": (
            decay,
            norms_and(lambda cheap, exact: exact - cheap),
            lambda cheap, kept: with_cosines(cheap, cosines(cheap) + kept[1:], kept[0]),
        )
        for decay in (0.5, 0.8)
    },
    "norms, and cosines half held, 0.8": (
        0.8,
        norms_and(lambda cheap, exact: exact),
        lambda cheap, kept: with_cosines(cheap, (cosines(cheap) + kept[1:]) / 2, kept[0]),
    ),
    "norms, and cosines by congruence, 0.8": (
        0.8,
        norms_and(congruence),
        lambda cheap, kept: with_cosines(cheap, kept[1:] @ cosines(cheap) @ kept[1:], kept[0]),
    ),
    "congruence of the Gramians, 0.8": (0.8, congruence, lambda cheap, kept: kept @ cheap @ kept),
    "elementwise ratio, 0.0": (0.0, ratio_of, lambda cheap, kept: cheap * kept),
    "the last exact Gramian, held": (0.0, held_of, lambda cheap, kept: kept),
}


# -- how near ---------------------------------------------------------------------------------------------------
def distance(exact: Tensor, weights: Tensor, other: Tensor) -> Tensor:
    """Return direction, weights and length, as above."""

    def length(w: Tensor) -> Tensor:
        return (w @ exact @ w).clamp(min=1e-30).sqrt()

    cosine = (weights @ exact @ other) / length(weights) / length(other)
    return torch.stack(
        [1 - cosine, (weights - other).abs().sum() / other.abs().sum(), (length(weights) / length(other)).log().abs()]
    )


def mean_distance(balancer: Balancer, steps: Steps, cheap: str, every: int, correction: str | None) -> list[float]:
    """Return the mean distances of one cheap Gramian, corrected or not."""
    kept, found = None, []
    for step, (exact, gramian) in enumerate(zip(steps["exact"], steps[cheap], strict=True)):
        if correction is not None:
            decay, learn, apply = CORRECTIONS[correction]
            if step % every == 0:
                fresh = learn(gramian, exact)
                kept = fresh if kept is None else fresh.lerp(kept, decay)
            assert kept is not None
            gramian = apply(gramian, kept)
        if step % every and step >= BURN_IN:
            found.append(distance(exact, balancer.weights(gramian), balancer.weights(exact)))
    return torch.stack(found).mean(0).tolist()


def main() -> None:
    """Print a table for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=["log + MGDA", "Aligned-MTL", "IMTL-G"], choices=list(METHODS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--raw", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits, labels = read_digits(options.data, "train")
    scenes = make_scenes(digits[HELD_OUT:], labels[HELD_OUT:], SCENES, 0, options.raw)
    for method in options.methods:
        steps, balancer = follow(method, scenes, options.epochs), inner(method)[0]
        print(f"\n| {method} | direction | weights | length |\n|---|---|---|---|")
        rows = [(name, name, None) for name in steps if name != "exact"]
        rows += [(f"fork_layer; {name}", "fork_layer", name) for name in CORRECTIONS]
        for words, cheap, correction in rows:
            found = mean_distance(balancer, steps, cheap, options.every, correction)
            print(f"| {words} | " + " | ".join(f"{value:.4f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    main()
