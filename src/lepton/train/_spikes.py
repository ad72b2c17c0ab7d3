"""Loss spikes: a step whose loss leaps out of the course of the last ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lepton.errors import is_number, nearest, require

__all__ = ["SpikeGuard", "SpikePolicy"]

SpikePolicy = Literal["skip", "rollback", "stop"]
"""What happens at a loss spike."""

WINDOW = 64
"""Losses of each task that a new one is compared with."""

ENOUGH = 16
"""Losses of a task before one of it can be a spike."""

NORMAL = 1.4826
"""The standard deviation of a normal distribution by its median absolute deviation."""

MOST = 100
"""So many times the median of positive losses is a spike in any noise."""


class SpikeGuard:
    """Tells a spike: a step in which the loss l of some task is far above the last 64 that were none. Where they and
    it are positive,

        log l - m > min(factor max(1.4826 MAD, log(2) / 10), log(100)),    m = median log l_i,
                                                                           MAD = median |log l_i - m|

    and otherwise l - m > factor max(1.4826 MAD, |m| / 10) without logarithms. Noise multiplies most losses: without
    the logarithm those of small batches have far outliers, which are none with it; over a hundred times the median is a
    spike in any noise. The median and its deviation do not feel the spikes themselves (Hampel 1974), and a slow rise
    is none. Nothing is judged before a task has had 16 losses, and nothing waits for the device.

    Args:
        n_tasks: T.
        policy: what happens at a spike.
        factor: see above.
        device: where the losses are.

    Raises:
        ConfigurationError: an unknown policy, or a factor that is not positive.

    Example:
        >>> import torch
        >>> guard, here = SpikeGuard(1, "skip", 10.0, torch.device("cpu")), torch.tensor([True])
        >>> for loss in torch.linspace(2.0, 1.0, 32):
        ...     _ = guard.judge(loss[None], here)
        ...     guard.keep(loss[None], here)
        >>> [bool(guard.judge(torch.tensor([loss]), here).any()) for loss in (1.0, 2.0, 100.0)]
        [False, False, True]
    """

    def __init__(self, n_tasks: int, policy: SpikePolicy, factor: float, device: torch.device) -> None:
        names = get_args(SpikePolicy)
        known = policy in names
        require(known, "Trainer", "on_spike", policy, f"one of {list(names)}, or None{nearest(str(policy), names)}")
        high = is_number(factor) and 0 < factor < math.inf
        require(high, "Trainer", "spike_factor", factor, "a number, positive and finite")
        self.policy = policy
        self.factor = factor
        self._losses = torch.full((WINDOW, n_tasks), math.inf, device=device)
        self._counts = torch.zeros(n_tasks, dtype=torch.int64, device=device)

    @property
    def medians(self) -> Tensor:
        """[T] medians of the losses that are compared with; infinite before the first."""
        return self._middle(self._losses)

    def _middle(self, values: Tensor) -> Tensor:
        """Return the (lower) median of each column; what is not filled is infinite, and comes last."""
        places = (self._counts.clamp(1, WINDOW) - 1) // 2
        return values.sort(0).values.gather(0, places[None])[0]

    @torch.no_grad()
    def judge(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return of which tasks [T] these losses [T] are spikes, among those that are present [T]."""
        positive = (self._losses > 0).all(0) & (losses > 0)
        middle, spread = self._course(self._losses.log())
        far = losses.log() - middle > (self.factor * spread.clamp(min=math.log(2) / 10)).clamp(max=math.log(MOST))
        middle, spread = self._course(self._losses)
        far_without = losses - middle > self.factor * torch.maximum(spread, middle.abs() / 10)
        return present & (self._counts >= ENOUGH) & torch.where(positive, far, far_without)

    def _course(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Return the median of losses [64, T] and their robust standard deviation, each [T]."""
        medians = self._middle(losses)
        return medians, NORMAL * self._middle((losses - medians).abs().nan_to_num(nan=math.inf))

    @torch.no_grad()
    def keep(self, losses: Tensor, usable: Tensor) -> None:
        """Enter the losses [T] of those tasks that are usable [T]: present, finite and no spikes."""
        rows = (self._counts % WINDOW)[None]
        kept = torch.where(usable, losses.to(self._losses), self._losses.gather(0, rows)[0])
        self._losses.scatter_(0, rows, kept[None])
        self._counts += usable

    def restart(self) -> None:
        """Begin a training."""
        self._losses.fill_(math.inf)
        self._counts.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return the losses that a new one is compared with."""
        return {"losses": self._losses, "counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved losses."""
        self._losses.copy_(state["losses"])
        self._counts.copy_(state["counts"])

    def message(self, spikes: Tensor, losses: Tensor, names: Sequence[str], step: int) -> str:
        """Return what to say of the losses [T] of a step that was a spike; reads the device.

        Args:
            spikes: what `judge` returned.
            losses: see there.
            names: of the tasks.
            step: its number.
        """
        each = zip(names, spikes.tolist(), losses.tolist(), self.medians.tolist(), strict=True)
        leaps = [
            f"{name!r} has {loss:.4g} after a median of {median:.4g}" for name, spike, loss, median in each if spike
        ]
        return f"step {step} is a loss spike: {', '.join(leaps)}."
