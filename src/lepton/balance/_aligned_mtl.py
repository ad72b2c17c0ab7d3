from __future__ import annotations

from typing import Literal, final, get_args

import torch
from torch import Tensor

from lepton.balance.base import GradientBalancer
from lepton.errors import require
from lepton.linalg import count, normalize, present_tasks, symmetric_eigen

__all__ = ["AlignedMTL", "AlignedScale", "aligned_mtl_weights"]

AlignedScale = Literal["min", "median", "rmse"]


def aligned_mtl_weights(gramian: Tensor, scale: AlignedScale = "min") -> Tensor:
    """Return the weights [T] of the mean of the gradients after their principal components were made equal.

    Args:
        gramian: [T, T], inner products of the gradients; zero rows are absent tasks.
        scale: which of the singular values all are set to.
    """
    present = present_tasks(gramian)
    values, vectors = symmetric_eigen(normalize(gramian))
    kept = values > values[-1:] * len(values) * torch.finfo(gramian.dtype).eps
    rank = kept.sum().clamp_min(1)
    first = len(values) - rank  # values ascend: those that are kept are the last ones
    if scale == "rmse":
        target = torch.where(kept, values, 0.0).sum() / rank
    else:
        place = first if scale == "min" else first + (rank - 1) // 2
        target = values.gather(0, place[None])[0]
    inverse = torch.where(kept, torch.where(kept, values, 1.0).rsqrt(), 0.0)
    mean = present / count(present)
    weights = target.clamp_min(0).sqrt() * (vectors @ (inverse * (vectors.mT @ mean)))
    return torch.where(present, weights, 0.0).to(gramian.dtype)


@final
class AlignedMTL(GradientBalancer):
    r"""Independent component alignment: the gradients' principal components are made equally long.

    With G = V diag(l) V' over its r positive eigenvalues, the transformed gradients B J, B = sqrt(s) V diag(l^-1/2) V',
    are orthogonal and of equal length, the nearest ones to J that are. The trunk gets their mean, hence

        w = sqrt(s) V diag(l)^(-1/2) V' 1/n

    Senushkin 2023, with s the smallest eigenvalue, as its convergence proof wants; the paper's other choices are the
    median and the mean.

    - `loss_weight`: cancels where gradients are orthogonal, but for the common s.
    - The weights sum to at most one for `"min"`, and single ones may be negative. They do not change with the scale of
      all losses.
    - An eigenvalue below T times the rounding of the Gramian's type, relative to the largest, counts as zero.

    Args:
        scale: s: `"min"`, `"median"` (the lower of two) or `"rmse"` (the mean of the eigenvalues, hence the root mean
            square of the singular values).

    Example:
        >>> import torch
        >>> AlignedMTL().weights(torch.tensor([[1.0, 0.0], [0.0, 9.0]]))
        tensor([0.5000, 0.1667])
    """

    aliases = ("aligned",)

    def __init__(self, scale: AlignedScale = "min") -> None:
        super().__init__()
        allowed = get_args(AlignedScale)
        require(scale in allowed, "AlignedMTL", "scale", scale, f"one of {allowed}")
        self.scale = scale

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return w [T]; see `Balancer.weights`."""
        del losses
        return aligned_mtl_weights(gramian, self.scale)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"scale={self.scale!r}"
