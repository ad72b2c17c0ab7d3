"""What the kinds share that label every position of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from lepton.tasks._categorical import Categorical


class PositionLabels(Categorical):
    """One of C classes per position of a sequence: logits [B, L, C], labels [B, L]."""

    class_dim = -1

    def _way_out(self, target: Tensor, expected: torch.Size) -> str:
        said = super()._way_out(target, expected)
        plain = said == f"{list(expected)} is expected"
        if plain and target.ndim == len(expected) + 1:
            return (
                f"{said}, because the trunk gave this task one state per text; labels of positions need a trunk that "
                "gives it one state per position"
            )
        if plain and target.ndim == len(expected) - 1:
            return f"{said}, one label per position; for one label per text use Classification"
        if plain and target.ndim == len(expected):
            return f"{said}, one label per position; where a position has none, pad with {int(self.missing)}"
        return said
