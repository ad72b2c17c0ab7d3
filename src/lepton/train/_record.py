"""Sums of an epoch, kept on the device and read once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lepton.nn import LeptonModel
from lepton.train._step import StepResult

__all__ = ["EpochRecord"]


class EpochRecord:
    """Adds up what the steps of an epoch leave, without waiting for the device before `row`.

    Args:
        model: whose fork is read after each step.
    """

    def __init__(self, model: LeptonModel) -> None:
        self.model = model
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._left_out = model.fork.left_out
        self.steps = 0

    def add(self, result: StepResult) -> None:
        """Add one step."""
        self.steps += 1
        present = result.present.to(result.losses)
        self._add("loss", result.losses * present, present)
        fork = self.model.fork
        weights = result.factors if fork.weights is None else result.factors * fork.weights
        self._add("weight", weights * present, present)
        finite = torch.isfinite(result.grad_norm)
        self._add("grad_norm", torch.where(finite, result.grad_norm, 0), finite.to(result.grad_norm))
        if fork.gramian is not None:
            norms = fork.gramian.diagonal() > 0
            self._add("conflict", fork.cosines, (norms[:, None] & norms[None]).to(fork.gramian))

    def _add(self, key: str, value: Tensor | None, count: Tensor) -> None:
        assert value is not None
        self._sums[key] = self._sums[key] + value if key in self._sums else value
        self._counts[key] = self._counts[key] + count if key in self._counts else count

    def row(self) -> dict[str, float]:
        """Return the means: `train/<task>/loss`, `train/<task>/weight`, `train/grad_norm`, `conflict/<a>/<b>`;
        and the number of steps that a task was left out of, `train/<task>/left_out`.

        The weight is the factor on the task's gradient in the trunk: the loss side's times the fork's.
        """
        means: dict[str, Any] = {key: (total / self._counts[key]).tolist() for key, total in self._sums.items()}
        names = self.model.task_names
        left_out = self.model.fork.left_out
        row: dict[str, float] = {"train/grad_norm": means["grad_norm"]}
        for place, name in enumerate(names):
            row[f"train/{name}/loss"] = means["loss"][place]
            row[f"train/{name}/weight"] = means["weight"][place]
            row[f"train/{name}/left_out"] = left_out[name] - self._left_out[name]
        for a, cosines in enumerate(means.get("conflict", [])):
            for b in range(a + 1, len(names)):
                row[f"conflict/{names[a]}/{names[b]}"] = cosines[b]
        return row
