"""The nearest point of the simplex."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["project_simplex"]


def project_simplex(values: Tensor, present: Tensor) -> Tensor:
    """Return the point w [T] nearest to `values` with w >= 0 and sum(w) = 1 (Duchi 2008).

    With the present values sorted downwards, u_1 >= u_2 >= ..., and j the last place with
    u_j > (u_1 + ... + u_j - 1) / j =: theta_j, it is w = max(values - theta_j, 0).

    Args:
        values: [T], finite.
        present: [T] bool, the entries that exist; the others are zero and change nothing.

    Example:
        >>> project_simplex(torch.tensor([0.5, 1.0, -3.0]), torch.tensor([True, True, True]))
        tensor([0.2500, 0.7500, 0.0000])
    """
    exact = values.double()
    lowest = torch.finfo(exact.dtype).min
    ordered = torch.where(present, exact, lowest).sort(descending=True).values
    real = torch.arange(len(values), device=values.device) < present.sum()
    places = torch.arange(1, len(values) + 1, device=values.device)
    thresholds = (torch.where(real, ordered, 0.0).cumsum(0) - 1) / places
    kept = (real & (ordered > thresholds)).sum().clamp_min(1)
    threshold = thresholds.gather(0, (kept - 1)[None])
    return torch.where(present, (exact - threshold).clamp_min(0), 0.0).to(values.dtype)
