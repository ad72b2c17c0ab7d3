"""Rows into parts that share none."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lepton.errors import ConfigurationError

__all__ = ["split_rows"]


def split_rows(n_rows: int, fractions: Mapping[str, float], *, seed: int) -> dict[str, Tensor]:
    """Split the numbers 0 to `n_rows` - 1 at random into named parts.

    Args:
        n_rows: number of rows.
        fractions: name -> share of the rows; the shares add up to 1.
        seed: fixes the split.

    Returns:
        Name -> sorted row numbers; every row is in exactly one part.

    Raises:
        ConfigurationError: shares that are negative, do not add up to 1, or leave a part empty.

    Example:
        >>> parts = split_rows(10, {"train": 0.8, "test": 0.2}, seed=0)
        >>> len(parts["train"]), len(parts["test"])
        (8, 2)
    """
    if abs(sum(fractions.values()) - 1) > 1e-6 or min(fractions.values()) <= 0:
        raise ConfigurationError(
            f"the fractions of a split must be positive and add up to 1, but are {dict(fractions)}."
        )
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    parts: dict[str, Tensor] = {}
    start, share = 0, 0.0
    for name, fraction in fractions.items():
        share += fraction
        stop = round(share * n_rows)
        parts[name] = order[start:stop].sort().values
        if stop == start:
            raise ConfigurationError(f"{n_rows} rows are too few for the split {dict(fractions)}: {name!r} is empty.")
        start = stop
    return parts
