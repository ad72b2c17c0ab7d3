"""The balancers' solvers alone, on random Gramians, in milliseconds of one core.

python benchmarks/solvers.py [--methods UPGrad]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from lepton.balance import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    GradientBalancer,
    GradVac,
    NashMTL,
    PCGrad,
    UPGrad,
)

SIZES = (2, 10, 40, 200)
METHODS = (MGDA, PCGrad, GradVac, CAGrad, IMTLG, NashMTL, FairGrad, AlignedMTL, ConFIG, DualProj, UPGrad)
KINDS = ("conflicting", "ill-conditioned", "rank-deficient")


def gramian(kind: str, n_tasks: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rank = max(1, n_tasks // 2) if kind == "rank-deficient" else 4 * n_tasks
    rows = torch.randn(n_tasks, rank, generator=generator)
    if kind == "conflicting":
        rows = rows - 0.9 * rows.mean(0)
    if kind == "ill-conditioned":
        rows = rows * torch.logspace(-3, 3, n_tasks)[:, None]
    return rows @ rows.T


def milliseconds(balancer: GradientBalancer, kind: str, n_tasks: int) -> tuple[float, float]:
    """Return the median and the 95th percentile over forty Gramians."""
    balancer.bind(n_tasks)
    times = []
    for seed in range(44):
        matrix = gramian(kind, n_tasks, seed)
        start = time.process_time()
        balancer.weights(matrix)
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times[4:]), sorted(times[4:])[37]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [make.__name__ for make in METHODS]
    parser.add_argument("--methods", nargs="*", choices=names, default=names)
    chosen = parser.parse_args().methods
    torch.set_num_threads(1)
    print("milliseconds, median (95th percentile) over 40 Gramians, one thread\n")
    print("| solver | Gramians | " + " | ".join(f"T = {n}" for n in SIZES) + " |")
    print("|---" * (2 + len(SIZES)) + "|")
    for make in (make for make in METHODS if make.__name__ in chosen):
        for kind in KINDS:
            cells = [milliseconds(make(), kind, n_tasks) for n_tasks in SIZES]
            print(
                f"| {make.__name__} | {kind} | " + " | ".join(f"{a:.2f} ({b:.2f})" for a, b in cells) + " |", flush=True
            )


if __name__ == "__main__":
    main()
