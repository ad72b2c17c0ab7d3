"""Learning-rate schedules: a name to a warm-up and a course after it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lepton.errors import ConfigurationError, is_number, is_whole, nearest, require

__all__ = ["Schedule", "ScheduleName", "check_schedule", "warmup_cosine"]

ScheduleName = Literal["cosine", "linear", "constant", "step", "one_cycle", "plateau"]
"""Courses of the learning rate after the warm-up."""


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, max_steps: int, final: float = 0.0) -> LambdaLR:
    """Return a schedule that rises linearly for `warmup_steps` and falls along a half cosine to `final`.

    At step s the learning rate is multiplied by (s + 1) / warmup_steps while s < warmup_steps, and afterwards by
    final + (1 - final) (1 + cos(pi p)) / 2, where p is the part of the remaining steps that is done.

    Args:
        optimizer: whose learning rates are multiplied.
        warmup_steps: steps of the rise.
        max_steps: step at which `final` is reached.
        final: last factor.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = warmup_cosine(optimizer, warmup_steps=2, max_steps=4)
        >>> schedule.get_last_lr()
        [0.5]
    """
    for argument, steps in (("warmup_steps", warmup_steps), ("max_steps", max_steps)):
        require(is_whole(steps, 0), "warmup_cosine", argument, steps, "a whole number, at least 0")
    course = partial(_cosine, final=final)
    return LambdaLR(optimizer, partial(_factor, warmup_steps=warmup_steps, max_steps=max_steps, course=course))


def _factor(step: int, warmup_steps: int, max_steps: int, course: Callable[[float], float]) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return course(min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps)))


def _cosine(done: float, final: float = 0.0) -> float:
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def _linear(done: float) -> float:
    return 1 - done


def _constant(done: float) -> float:
    return 1.0


def _stairs(done: float) -> float:
    return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01


_COURSES: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "step": _stairs,
    "plateau": _constant,  # until the monitored value tells
}


class Schedule:
    """The learning rate over a training: told of every step, and of every value of the monitored quantity.

    With p the part of the steps after the warm-up that is done, the peak learning rate is multiplied by
    (1 + cos(pi p)) / 2 for `"cosine"`, 1 - p for `"linear"`, 1 for `"constant"`, and for `"step"` by 1, by 0.1 from
    p = 1/2 and by 0.01 from p = 3/4. `"one_cycle"` is `torch.optim.lr_scheduler.OneCycleLR` (Smith and Topin 2018)
    with the warm-up as its rising part. `"plateau"` is `ReduceLROnPlateau` after the warm-up.

    Args:
        name: the course.
        optimizer: whose learning rates are the peaks.
        warmup: share of the steps in which the learning rate rises.
        max_steps: optimiser steps of the whole training.
        mode: whether the monitored value is better when smaller, `"min"`, or when larger; for `"plateau"`.
        factor: what `"plateau"` multiplies by.
        patience: evaluations without a better value that `"plateau"` waits for.

    Raises:
        ConfigurationError: an unknown name.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = Schedule("linear", optimizer, warmup=0.0, max_steps=4)
        >>> found = [schedule.learning_rate]
        >>> for _ in range(4):
        ...     optimizer.step()
        ...     schedule.after_step()
        ...     found.append(schedule.learning_rate)
        >>> found
        [1.0, 1.0, 0.6666666666666667, 0.33333333333333337, 0.0]
    """

    def __init__(
        self,
        name: ScheduleName,
        optimizer: Optimizer,
        *,
        warmup: float,
        max_steps: int,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 5,
    ) -> None:
        check_schedule(name, warmup, factor, patience)
        self.name = name
        self.optimizer = optimizer
        self._warming = max(1, round(warmup * max_steps))
        self._plateau: ReduceLROnPlateau | None = None
        self._steps: LRScheduler
        # A course starts from the rates given, also when the optimiser has been on a course before.
        for group in optimizer.param_groups:
            group["lr"] = group.get("initial_lr", group["lr"])
        if name == "one_cycle":
            self._steps = _one_cycle(optimizer, warmup, max_steps)
            return
        course = _COURSES[name]
        factors = partial(_factor, warmup_steps=self._warming, max_steps=max_steps, course=course)
        self._steps = LambdaLR(optimizer, factors)
        if name == "plateau":
            self._plateau = ReduceLROnPlateau(optimizer, mode, factor=factor, patience=patience)

    @property
    def follows_evaluations(self) -> bool:
        """Whether the course depends on the monitored value."""
        return self._plateau is not None

    @property
    def learning_rate(self) -> float:
        """The learning rate of the optimiser's first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Set the learning rates for the next step."""
        # Once warm, plateau's reductions are all there is: the other course would undo them.
        if self._plateau is not None and self._steps.last_epoch >= self._warming:
            return
        with nullcontext() if self._steps.last_epoch else warnings.catch_warnings():
            if not self._steps.last_epoch:  # a first step may be skipped, and torch takes that for a wrong order
                warnings.simplefilter("ignore", UserWarning)
            self._steps.step()

    def after_evaluation(self, value: float) -> None:
        """Take note of the monitored value; one that is not finite is passed over."""
        if self._plateau is not None and math.isfinite(value) and self._steps.last_epoch >= self._warming:
            self._plateau.step(value)

    def state_dict(self) -> dict[str, Any]:
        """Return numbers and names from which `load_state_dict` goes on."""
        plateau = None if self._plateau is None else self._plateau.state_dict()
        return {"name": self.name, "steps": self._steps.state_dict(), "plateau": plateau}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, towards this schedule's own end.

        Raises:
            ValueError: it is of another course.
        """
        if state["name"] != self.name:
            raise ValueError(f"schedule was {state['name']!r} and is {self.name!r}")
        laid_out = ("total_steps", "_schedule_phases")
        kept = {key: value for key, value in self._steps.__dict__.items() if key in laid_out}
        self._steps.load_state_dict({key: value for key, value in state["steps"].items() if key not in laid_out} | kept)
        if self._plateau is not None:
            self._plateau.load_state_dict(state["plateau"])


def check_schedule(name: str, warmup: float, factor: float, patience: int) -> None:
    """Refuse a name that is no schedule, and options that are out of range."""
    names = get_args(ScheduleName)
    if name not in names:
        raise ConfigurationError(
            f"Trainer: schedule must be one of {list(names)}, but it is {name!r}.{nearest(str(name), names)}"
        )
    require(is_number(warmup) and 0 <= warmup <= 1, "Trainer", "warmup", warmup, "a number between 0 and 1")
    require(0 < factor < 1, "Trainer", "plateau_factor", factor, "between 0 and 1")
    whole = is_whole(patience, 0)
    require(whole, "Trainer", "plateau_patience", patience, "a whole number of at least 0")


def _one_cycle(optimizer: Optimizer, warmup: float, max_steps: int) -> OneCycleLR:
    peaks = [group["lr"] for group in optimizer.param_groups]
    cycles = any(option in optimizer.defaults for option in ("betas", "momentum"))
    return OneCycleLR(optimizer, peaks, total_steps=max_steps, pct_start=warmup, cycle_momentum=cycles)
