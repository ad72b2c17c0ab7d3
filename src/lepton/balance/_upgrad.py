from __future__ import annotations

from typing import final

from torch import Tensor

from lepton.balance._dual_cone import DualConeBalancer, regularized
from lepton.linalg import count, present_tasks, solve_nonnegative

__all__ = ["UPGrad", "upgrad_weights"]


def upgrad_weights(gramian: Tensor, regularization: float = 1e-4) -> Tensor:
    """Return the weights [T] of the mean of the gradients, each projected onto the dual cone of all.

    Args:
        gramian: [T, T], inner products of the gradients; zero rows are absent tasks.
        regularization: added to the diagonal of the Gramian after its trace was scaled to one.
    """
    present = present_tasks(gramian)
    matrix = regularized(gramian, regularization)
    # v = u + x with x >= 0 turns  min v'Gv, v >= u  into the program that is solved, one row for each u = e_i.
    extra = solve_nonnegative(matrix, matrix, present)
    total = present.double() + (extra * present[:, None]).sum(0)
    return (total / count(present)).to(gramian.dtype)


@final
class UPGrad(DualConeBalancer):
    r"""The mean of the gradients, each first freed of its conflicts: unconflicting projection of gradients.

    With J the task gradients as rows, G = J J' and u_i = e_i / n, n the number of present tasks,

        w = sum_i v_i,    v_i = argmin  v' (G / trace(G) + r I) v    over  v >= u_i

    J' v_i is the projection of g_i / n onto the dual cone {d : J d >= 0}, so the sum decreases no loss's
    progress to first order. Quinton and Rey 2024.

    - Default: r = 1e-4, which makes the programs strictly convex.
    - `loss_weight`: linear where nothing conflicts, as in the plain mean; a long gradient is projected onto the
      cone of short ones and not the other way round.
    - The weights sum to at least one, and are 1/n each where no two gradients conflict.
    - They do not change with the scale of all losses.

    Args:
        regularization: r; the larger, the less of a conflict is taken out.

    Example:
        >>> import torch
        >>> UPGrad(regularization=1e-9).weights(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
        tensor([0.7500, 0.7500])
    """

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return w [T]; see `Balancer.weights`."""
        del losses
        return upgrad_weights(gramian, self.regularization)
