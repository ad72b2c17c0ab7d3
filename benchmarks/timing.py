"""Ratios of process times, measured in turns (A B C A B C ...) so that a slow minute hits all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Step = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """Median of per-round ratios to the base, with a 95 % bootstrap interval; median milliseconds."""

    value: float
    low: float
    high: float
    milliseconds: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def measure(steps: dict[str, Step], base: str, rounds: int = 15, slow: float = 0.5) -> dict[str, Ratio]:
    """Time every step in turns, on one thread; a step that takes longer than `slow` seconds gets 3 rounds.

    Args:
        steps: name -> a function that takes one training step.
        base: the step that the others are divided by.
        rounds: number of turns.
        slow: seconds.
    """
    torch.set_num_threads(1)
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):  # the first turn warms up
        for name, step in steps.items():
            if turn > 3 and statistics.median(times[name]) > slow:
                continue
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    times = {name: found[1:] for name, found in times.items()}
    return {name: _ratio(found, times[base]) for name, found in times.items()}


def _ratio(found: list[float], base: list[float]) -> Ratio:
    ratios = [a / b for a, b in zip(found, base, strict=False)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(1000))
    return Ratio(statistics.median(ratios), medians[25], medians[974], 1e3 * statistics.median(found))


def describe() -> str:
    """Return what the figures were measured on."""
    return (
        f"torch {torch.__version__}, one thread, process time, medians of alternating rounds, 95 % bootstrap intervals"
    )
