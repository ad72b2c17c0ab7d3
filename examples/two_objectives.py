"""The two objectives of the papers: which methods reach the Pareto front from every start.

The problem is that of CAGrad (Liu 2021), with the first objective times 0.1 and the five starts as in Nash-MTL (Navon
2022) and FAMO (Liu 2023): one point of the plane is moved by Adam with a learning rate of 0.001. For x_2 > 0 the
objectives have narrow valleys, steep walls and gradients that conflict; the front lies near x_2 = -8.4,
-7 <= x_1 <= 7.

    python examples/two_objectives.py [--steps 50000] [--methods CAGrad,FAMO] [--picture two_objectives.png]

With `--paths FILE` the ways are kept, and methods whose way is there already are not run again.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lepton
from lepton.balance import (
    FAMO,
    IMTLG,
    MGDA,
    AlignedMTL,
    Balancer,
    CAGrad,
    Equal,
    FairGrad,
    LogSum,
    NashMTL,
    PCGrad,
    UPGrad,
)

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
SCALE = torch.tensor([0.1, 1.0])
LEAST = -21.0  # below both objectives before they are scaled: methods with logarithms need positive losses
STILL = 50
"""A way ends early when the point has moved less than 0.001 in so many of its recorded points."""
METHODS: dict[str, Callable[[], Balancer]] = {
    "Equal": Equal,
    "LogSum": LogSum,
    "FAMO": functools.partial(FAMO, decay=0.0),  # as its authors set it here, where the objectives do not change
    "MGDA": MGDA,
    "PCGrad": PCGrad,
    "CAGrad": CAGrad,
    "IMTLG": IMTLG,
    "UPGrad": UPGrad,
    "AlignedMTL": AlignedMTL,
    "NashMTL": NashMTL,
    "FairGrad": FairGrad,
}


def objectives(x: Tensor) -> Tensor:
    """Return both objectives [..., 2] at points [..., 2]."""
    first, second = x.unbind(-1)
    bend = torch.tanh(-second)
    above = torch.tanh(second / 2).clamp_min(0)
    below = torch.tanh(-second / 2).clamp_min(0)
    valley_one = (-(first + 7) / 2 - bend).abs().clamp_min(5e-6).log() + 6
    valley_two = ((3 - first) / 2 + bend + 2).abs().clamp_min(5e-6).log() + 6
    bowl = 0.1 * (second + 8).square()
    one = valley_one * above + (((first - 7).square() + bowl) / 10 - 20) * below
    two = valley_two * above + (((first + 7).square() + bowl) / 10 - 20) * below
    return torch.stack([one, two], -1) * SCALE


def positive(losses: Tensor, balancer: Balancer) -> Tensor:
    """Return losses [2] that a method with logarithms can take."""
    return losses - LEAST * SCALE if balancer.logarithmic else losses


@functools.cache
def front(points: int = 141) -> Tensor:
    """Return points [N, 2] of the Pareto front: the minima of w f_1 + (1 - w) f_2.

    Both objectives are convex there. The papers draw the front at x_2 = -8; the factor tanh(-x_2 / 2), which is not
    quite 1 yet at -8, moves it down to about -8.4.
    """
    weight = torch.linspace(0, 1, points, dtype=torch.float64)
    x = torch.stack([14 * weight - 7, torch.full_like(weight, -8.0)], -1).requires_grad_()
    optimizer = torch.optim.LBFGS([x], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = ((objectives(x) / SCALE) * torch.stack([weight, 1 - weight], -1)).sum()
        total.backward()
        return total

    optimizer.step(closure)  # type: ignore[arg-type]
    return x.detach().float()


def off_the_front(x: Tensor) -> float:
    """Return how far a point [2] is from the front."""
    return float((front() - x).norm(dim=-1).min())


def descend(balancer: Balancer, start: tuple[float, float], steps: int, every: int = 50) -> Tensor:
    """Return the points [N, 2] on the way from a start, one for every `every` steps."""
    point = torch.nn.Parameter(torch.tensor(start))
    balancer.bind(2).train()
    optimizer = torch.optim.Adam([point, *balancer.parameters()], lr=1e-3)
    path, both = [], torch.tensor([True, True])
    for step in range(steps):
        if step % every == 0:
            path.append(point.detach().clone())
        # The point is its own trunk: one row of features, so that the cotangents are the gradients.
        z = lepton.fork(point[None], ["one", "two"], balancer=balancer, gradients="features")
        losses = torch.stack([objectives(z[name][0])[place] for place, name in enumerate(z)])
        losses = positive(losses, balancer)
        loss = balancer.combine(losses, balancer.task_weights(), both)
        balancer.observe(losses.detach(), both)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if balancer.reevaluates:  # as published, and as the Trainer does: the losses at the new point
            balancer.reobserve(positive(objectives(point.detach()), balancer), both)
        if len(path) > STILL and bool((path[-1] - path[-1 - STILL]).norm() < 1e-3):
            return torch.stack(path + path[-1:] * (steps // every + 1 - len(path)))
    return torch.stack([*path, point.detach()])


def run(methods: list[str], steps: int, file: Path | None = None) -> dict[str, list[Tensor]]:
    """Return each method's paths from all starts, and print where they end."""
    kept = load_file(file) if file is not None and file.exists() else {}
    paths: dict[str, list[Tensor]] = {}
    print("distance from the front after", steps, "steps, from each start\n")
    print("| method | " + " | ".join(str(start) for start in STARTS) + " | starts that end on it |")
    print("|---" * (len(STARTS) + 2) + "|")
    for name in methods:
        if name not in kept:
            kept[name] = torch.stack([descend(METHODS[name](), start, steps) for start in STARTS])
            if file is not None:
                save_file(kept, file)
        paths[name] = list(kept[name])
        ends = [off_the_front(path[-1]) for path in paths[name]]
        print(
            f"| {name} | " + " | ".join(f"{end:.2f}" for end in ends) + f" | {sum(e < 0.25 for e in ends)} |",
            flush=True,
        )
    return paths


def draw(paths: dict[str, list[Tensor]], file: Path) -> None:
    """Draw every method's paths over the mean of the objectives."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    line = torch.linspace(-10.5, 10.5, 201)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    height = (objectives(grid) / SCALE).mean(-1)
    columns = min(4, len(paths))
    rows = -(-len(paths) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3 * columns, 3.1 * rows), squeeze=False, sharex=True, sharey=True
    )
    for axis in axes.flat[len(paths) :]:
        axis.set_visible(False)
    for axis, (name, found) in zip(axes.flat, paths.items(), strict=False):
        axis.contour(line, line, height, levels=12, cmap="Greys", linewidths=0.6, alpha=0.6)
        axis.plot(*front().T, color="0.4", linewidth=5, alpha=0.45, solid_capstyle="round")
        for path in found:
            reached = off_the_front(path[-1]) < 0.25
            color = "#1b7f5c" if reached else "#c8553d"
            axis.plot(path[:, 0], path[:, 1], color=color, linewidth=1.3)
            axis.plot(*path[0], "o", color="black", markersize=4)
            axis.plot(*path[-1], "*", color=color, markersize=11, markeredgecolor="white", markeredgewidth=0.6)
        axis.set_title(name, fontsize=10)
        axis.set_aspect("equal")
        axis.set_xticks([-10, 0, 10])
        axis.set_yticks([-10, 0, 10])
    figure.tight_layout()
    figure.savefig(file, dpi=130)


def main(arguments: list[str] | None = None) -> dict[str, list[Tensor]]:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--paths", type=Path, help="a safetensors file that the ways are kept in")
    told = parser.parse_args(arguments)
    torch.set_num_threads(1)
    paths = run(told.methods.split(","), told.steps, told.paths)
    if told.picture is not None:
        draw(paths, told.picture)
    return paths


if __name__ == "__main__":
    main()
