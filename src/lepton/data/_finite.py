"""Rows whose inputs are not finite: one of them would turn every gradient of its batch into NaN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["drop_rows_not_finite"]


def drop_rows_not_finite(inputs: Any, targets: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor], int]:
    """Return inputs and targets without the rows that hold NaN or infinity in an input, and their number.

    Looks at tensors on the CPU only, where reading waits for nothing.

    Args:
        inputs: a tensor [B, ...] or a mapping of such tensors.
        targets: name -> tensor [B, ...].

    Example:
        >>> import torch
        >>> inputs = torch.tensor([[1.0], [float("nan")]])
        >>> inputs, targets, dropped = drop_rows_not_finite(inputs, {"a": torch.zeros(2)})
        >>> inputs.tolist(), len(targets["a"]), dropped
        ([[1.0]], 1, 1)
    """
    tensors = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    good: Tensor | None = None
    for tensor in tensors:
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.device.type == "cpu"):
            continue
        # A sum is finite if its terms are, and reads the batch once; only a suspect batch is looked at row by row.
        if bool(torch.isfinite(tensor.sum())):
            continue
        rows = torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
        good = rows if good is None else good & rows
    if good is None or bool(good.all()):
        return inputs, dict(targets), 0
    kept = {key: value[good] for key, value in inputs.items()} if isinstance(inputs, Mapping) else inputs[good]
    return kept, {name: target[good] for name, target in targets.items()}, int((~good).sum())
