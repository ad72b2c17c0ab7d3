"""What several processes send each other in a step: formulas, to plan with before there are so many processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from lepton.errors import require
from lepton.train._processes import ParallelName

__all__ = ["Traffic", "step_traffic"]

FLOAT = 4
"""Bytes of a number: gradients are float32, what balancing adds up is float32 at least."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that each process sends in one optimiser step.

    Attributes:
        gradients: for the gradients, as without balancing; with `"fsdp"` for the parameters too.
        losses: for the sums and counts of the tasks' losses, and the flags of what is not finite.
        balancing: for what the balancer looks at, by view.
    """

    gradients: float
    losses: float
    balancing: dict[str, float]


def step_traffic(
    tasks: int,
    features: int,
    parameters: int,
    processes: int,
    *,
    linear: bool = False,
    outputs: int = 1,
    parallel: ParallelName = "ddp",
) -> Traffic:
    """Return the bytes that each of N processes sends in an optimiser step of one micro-batch.

    A sum of b bytes over a ring of processes (Patarasuk and Yuan 2009) makes each send 2 b (N - 1) / N; a sum of which
    each gets its share, or gathering the shares, half of that. With T tasks, D features at the fork, C outputs of each
    task and P parameters, of 4 bytes each, b is

        gradients           4 P     "fsdp": 4 P twice, once to gather the parameters and once to scatter the gradients
        losses              16 T    sums, counts, and flags of what is not finite, too
        features            4 T^2
        fork_layer          4 T D^2, or 4 T C D where all heads are linear
        parameters          4 T P

    A loss balancer sends nothing but the losses, and so does any balancer before it sees a gradient.

    Args:
        tasks: T.
        features: D.
        parameters: P, the heads' included; the view `parameters` needs those of the trunk only, which is nearly all.
        processes: N.
        linear: whether all heads are linear ones, without a module of their own.
        outputs: C.
        parallel: `"ddp"` or `"fsdp"`.

    Raises:
        ConfigurationError: a number below 1.

    Example:
        >>> found = step_traffic(tasks=10, features=512, parameters=25_000_000, processes=8, linear=True)
        >>> f"{found.gradients:.3g} {found.balancing['fork_layer']:.3g} {found.balancing['parameters']:.3g}"
        '1.75e+08 3.58e+04 1.75e+09'
    """
    numbers = {"tasks": tasks, "features": features, "parameters": parameters, "processes": processes}
    for name, number in {**numbers, "outputs": outputs}.items():
        require(number >= 1, "step_traffic", name, number, "at least 1")
    names = get_args(ParallelName)
    require(parallel in names, "step_traffic", "parallel", parallel, f"one of {list(names)}")
    ring = 2 * (processes - 1) / processes
    layer = tasks * outputs * features if linear else tasks * features**2
    views = {"features": tasks**2, "fork_layer": layer, "parameters": tasks * parameters}
    # Gathering and scattering are half a sum each: the whole is as much as one.
    return Traffic(
        ring * FLOAT * parameters, ring * 4 * FLOAT * tasks, {view: ring * FLOAT * n for view, n in views.items()}
    )
