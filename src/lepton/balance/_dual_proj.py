from __future__ import annotations

from typing import final

from torch import Tensor

from lepton.balance._dual_cone import DualConeBalancer, regularized
from lepton.linalg import count, present_tasks, solve_nonnegative

__all__ = ["DualProj", "dual_proj_weights"]


def dual_proj_weights(gramian: Tensor, regularization: float = 1e-4) -> Tensor:
    """Return the weights [T] of the mean gradient, projected onto the dual cone of all gradients.

    Args:
        gramian: [T, T], inner products of the gradients; zero rows are absent tasks.
        regularization: added to the diagonal of the Gramian after its trace was scaled to one.
    """
    present = present_tasks(gramian)
    matrix = regularized(gramian, regularization)
    mean = present / count(present)
    # v = mean + x with x >= 0 turns  min v'Gv, v >= mean  into the program that is solved.
    return (mean + solve_nonnegative(matrix, matrix @ mean, present)).to(gramian.dtype)


@final
class DualProj(DualConeBalancer):
    r"""The mean gradient, freed of its conflicts: its projection onto the dual cone of the gradients.

    With J the task gradients as rows, G = J J' and u = 1/n for each of the n present tasks,

        w = argmin  v' (G / trace(G) + r I) v    over  v >= u

    J' w is the nearest direction to the mean gradient in {d : J d >= 0}. The projection of Lopez-Paz and Ranzato 2017
    (GEM), where the gradients are those of earlier tasks; as an aggregator see Quinton and Rey 2024.

    - Default: r = 1e-4, which makes the program strictly convex.
    - `loss_weight`: linear where nothing conflicts, as in the plain mean.
    - The weights sum to at least one, and are 1/n each where the mean conflicts with no gradient.
    - They do not change with the scale of all losses.

    Args:
        regularization: r; the larger, the less of a conflict is taken out.

    Example:
        >>> import torch
        >>> DualProj(regularization=1e-9).weights(torch.tensor([[1.0, -2.0], [-2.0, 9.0]]))
        tensor([1.0000, 0.5000])
    """

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return w [T]; see `Balancer.weights`."""
        del losses
        return dual_proj_weights(gramian, self.regularization)
