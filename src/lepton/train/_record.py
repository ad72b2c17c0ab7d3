"""Sums of an epoch, kept on the device and read once."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lepton.errors import DataError
from lepton.nn import LeptonModel
from lepton.train._step import StepResult

__all__ = ["EpochRecord"]

log = logging.getLogger("lepton")


class EpochRecord:
    """Adds up what the steps of an epoch leave, without waiting for the device before `row`.

    Args:
        model: whose fork is read after each step.
    """

    def __init__(self, model: LeptonModel) -> None:
        self.model = model
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._left_out = torch.zeros(len(model.task_names), dtype=torch.int64, device=model.device)
        self.steps = 0

    def add(self, result: StepResult) -> None:
        """Add one step."""
        self.steps += 1
        self._left_out = self._left_out + result.left_out
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
        left_out = self._left_out.tolist()
        row: dict[str, float] = {"train/grad_norm": means["grad_norm"]}
        for place, name in enumerate(names):
            row[f"train/{name}/loss"] = means["loss"][place]
            row[f"train/{name}/weight"] = means["weight"][place]
            row[f"train/{name}/left_out"] = left_out[place]
        for a, cosines in enumerate(means.get("conflict", [])):
            for b in range(a + 1, len(names)):
                row[f"conflict/{names[a]}/{names[b]}"] = cosines[b]
        return row

    def refuse_unlabelled(self, row: Mapping[str, float], resting: Collection[str]) -> None:
        """Name tasks that were left out of steps in the log.

        Args:
            row: what `row` returned.
            resting: tasks that are meant to have no label; those with a frozen head are, too.

        Raises:
            DataError: a task had no usable label in the whole epoch.
        """
        names = self.model.task_names
        for name in names:
            if row[f"train/{name}/left_out"] > 0:
                steps = row[f"train/{name}/left_out"]
                log.warning("task %r was left out of %d steps: its loss or gradient was not finite", name, steps)
        never = [name for name in names if math.isnan(row[f"train/{name}/loss"])]
        never = [name for name in never if name not in resting and not self._is_frozen(name)]
        if never:
            raise DataError(
                f"the tasks {never} had no usable label or no finite loss in a whole epoch: check the names and the "
                "missing values of their targets and the learning rate, or leave these tasks out."
            )

    def _is_frozen(self, name: str) -> bool:
        learns = [parameter.requires_grad for parameter, _ in self.model.head_state(name)]
        return bool(learns) and not any(learns)

    # -- saving -----------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the epoch under way."""
        return {"steps": self.steps, "sums": self._sums, "counts": self._counts, "left_out": self._left_out}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved sums."""
        device = self.model.device
        self.steps = state["steps"]
        self._sums = {key: value.to(device) for key, value in state["sums"].items()}
        self._counts = {key: value.to(device) for key, value in state["counts"].items()}
        self._left_out = state["left_out"].to(device)
