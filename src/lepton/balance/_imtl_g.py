from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance.base import GradientBalancer
from lepton.linalg import count, normalize, present_tasks, solve_smallest, solver_dtype

__all__ = ["IMTLG", "imtl_g_weights"]


def imtl_g_weights(gramian: Tensor) -> Tensor:
    """Return the weights [T] whose sum of gradients has equal projections on all gradients' directions.

    Args:
        gramian: [T, T], inner products of the gradients; zero rows are absent tasks.
    """
    present = present_tasks(gramian)
    scaled = normalize(gramian, solver_dtype(gramian))
    cutoff = max(40 * torch.finfo(gramian.dtype).eps, 1e-8)
    raw = solve_smallest(scaled, torch.diagonal(scaled).clamp_min(0).sqrt(), cutoff)
    total = raw.sum()
    settled = total.abs() > 1e-9 * raw.abs().sum()
    equal = 1 / count(present).to(raw)
    weights = torch.where(settled, raw / torch.where(settled, total, 1.0), equal)
    return torch.where(present, weights, 0.0).to(gramian.dtype)


@final
class IMTLG(GradientBalancer):
    r"""Impartial gradients: the sum has the same projection on every task's gradient direction.

    With the unit gradients u_k = g_k / ||g_k|| the weights solve

        <sum_l w_l g_l, u_k> = the same for all k,    sum_k w_k = 1

    in Gramian form w = G^+ d / sum(G^+ d), d_k = ||g_k||, G^+ the pseudo-inverse, which also serves linearly
    dependent gradients (Quinton and Rey 2024). IMTL-G, Liu 2021; no hyperparameters.

    - `loss_weight`: cancels, the contribution w_k g_k stays as it is.
    - The weights sum to one and may be negative. They do not change with the scale of all losses.
    - Equal weights where no weights meet the condition. Directions whose eigenvalue is below 1e-8 of the trace
      (5e-6 for a float32 Gramian, its rounding) count as dependent.

    Example:
        >>> import torch
        >>> IMTLG().weights(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
        tensor([0.6667, 0.3333])
    """

    aliases = ("imtl_g",)

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return w [T]; see `Balancer.weights`."""
        del losses
        return imtl_g_weights(gramian)
