"""How many rows of each set every batch of an epoch holds, known before any row is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lepton.data._loading import seeded_generator
from lepton.errors import is_number, require

__all__ = ["STRATEGIES", "BatchesName", "StopName", "StrategyName", "plan_of", "probabilities_of"]

StrategyName: TypeAlias = Literal["proportional", "uniform", "temperature", "round_robin", "sequential"]
StopName: TypeAlias = Literal["first_exhausted", "all_exhausted"]
BatchesName: TypeAlias = Literal["mixed", "single"]

STRATEGIES: tuple[StrategyName, ...] = ("proportional", "uniform", "temperature", "round_robin", "sequential")

HELD = 1 << 18
"""Draws times sets that are held at a time."""


def probabilities_of(
    sizes: Sequence[int], strategy: StrategyName, temperature: float = 2.0, weights: Sequence[float] | None = None
) -> Tensor:
    """Return the probability that a row comes from each set.

    With N_k rows and the weight w_k it is p_k = w_k N_k^(1/T) / sum_l w_l N_l^(1/T), where T is 1 for `"proportional"`,
    the temperature for `"temperature"` (Devlin 2019; Arivazhagan 2019), and infinite for `"uniform"`.

    Args:
        sizes: rows of each set [K].
        strategy: one of the three.
        temperature: T, at least 1: from 1, proportional, towards uniform.
        weights: factors [K]; by default 1.

    Returns:
        Probabilities [K], float64.

    Example:
        >>> [round(p, 3) for p in probabilities_of([900, 100], "temperature", 2.0).tolist()]
        [0.75, 0.25]
    """
    power = {"proportional": 1.0, "uniform": 0.0, "temperature": 1 / temperature}[strategy]
    shares = torch.tensor(list(sizes), dtype=torch.float64) ** power
    if weights is not None:
        shares = shares * torch.tensor(list(weights), dtype=torch.float64)
    return shares / shares.sum()


def check_positive(owner: str, name: str, numbers: Sequence[float]) -> None:
    """Refuse numbers of which one is not positive and finite."""
    fit = all(is_number(number) and 0 < number < math.inf for number in numbers)
    require(fit, owner, name, list(numbers), "positive and finite for each set")


def plan_of(
    sizes: Sequence[int],
    batch_size: int,
    *,
    strategy: StrategyName,
    probabilities: Tensor | None,
    stop: StopName,
    batches: BatchesName,
    seed: int,
) -> Tensor:
    """Return how many rows of each set every batch holds.

    Args:
        sizes: rows of each set [K].
        batch_size: rows of a batch.
        strategy: the order of the sets where there are no probabilities.
        probabilities: of the sets [K]; None for `round_robin` and `sequential`.
        stop: when the epoch ends.
        batches: `"mixed"`, or `"single"` for one set in each batch.
        seed: fixes the draws.

    Returns:
        Rows [G, K], int64. A batch that is not full is the last one, except that with `"single"` and `sequential` it
        is the last one of each set.
    """
    unit = batch_size if batches == "single" else 1
    turns = [-(-size // unit) for size in sizes]
    in_order = strategy == "sequential"
    draws = _Draws(turns, strategy, probabilities, seed)
    found = _until(draws, turns, stop, batch_size // unit, whole=not in_order and stop == "all_exhausted")
    plan = found * unit
    if unit > 1 and (in_order or stop == "first_exhausted"):
        for place, (size, number) in enumerate(zip(sizes, turns, strict=True)):
            if found[:, place].sum() == number:  # its last batch holds what is left
                plan[found[:, place].nonzero()[-1], place] = size - (number - 1) * unit
    return plan


class _Draws:
    """The sets in the order of their turns.

    Args:
        turns: of each set in one pass over it [K].
        strategy: the order where there are no probabilities.
        probabilities: of the sets [K].
        seed: fixes the draws.
    """

    def __init__(self, turns: Sequence[int], strategy: StrategyName, probabilities: Tensor | None, seed: int) -> None:
        self.ends = torch.tensor(list(turns)).cumsum(0)
        self.strategy = strategy
        self.probabilities = probabilities
        self.generator = seeded_generator(seed, 0, 0)
        self.place = 0

    def next(self, number: int) -> Tensor:
        """Return the sets [M] of the next turns: so many, or as many as there are in order."""
        first, self.place = self.place, self.place + number
        if self.probabilities is not None:
            return torch.multinomial(self.probabilities, number, replacement=True, generator=self.generator)
        if self.strategy == "round_robin":
            return torch.arange(first, first + number) % len(self.ends)
        places = torch.arange(first, min(first + number, int(self.ends[-1])))
        return torch.searchsorted(self.ends, places, right=True)


def _until(draws: _Draws, turns: Sequence[int], stop: StopName, size: int, *, whole: bool) -> Tensor:
    """Return the turns of each set in batches of `size` [G, K], up to the one that ends the epoch.

    Args:
        draws: the sets in their order.
        turns: after which each set is exhausted [K].
        stop: whether the first set that is ends the epoch, or the last.
        size: turns of a batch.
        whole: whether the last batch is filled up.
    """
    wanted, sets = torch.tensor(list(turns)), torch.arange(len(turns))
    number = size * max(1, HELD // (size * len(turns)))
    counts = torch.zeros(len(turns), dtype=torch.int64)
    found: list[Tensor] = []
    while True:
        drawn = draws.next(number)[:, None] == sets
        course = drawn.cumsum(0) + counts
        exhausted = course >= wanted
        over = exhausted.any(1) if stop == "first_exhausted" else exhausted.all(1)
        if over.any():
            end = int(over.int().argmax()) + 1
            end = -(-end // size) * size if whole else end
            return torch.cat([*found, _in_batches(drawn[:end], size)])
        found.append(_in_batches(drawn, size))
        counts = course[-1]


def _in_batches(drawn: Tensor, size: int) -> Tensor:
    """Return how often each set was drawn [M, K] in every batch [G, K]."""
    rest = -len(drawn) % size
    return torch.nn.functional.pad(drawn.long(), (0, 0, 0, rest)).view(-1, size, drawn.shape[1]).sum(1)
