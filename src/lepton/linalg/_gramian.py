"""What a Gramian says before any problem is solved on it."""

from __future__ import annotations

import torch
from torch import Tensor

from lepton.errors import ForkError
from lepton.linalg._device import readable

__all__ = ["EXACT_SIZE", "cosines", "count", "normalize", "present_tasks", "ridge", "rounded_trace", "solver_dtype"]


def present_tasks(gramian: Tensor) -> Tensor:
    """Return [..., T] bool: the tasks whose gradient is not zero, by the diagonal of `gramian` [..., T, T].

    Raises:
        ForkError: values are not finite, as far as that is known without synchronisation, up to `EXACT_SIZE` tasks.
    """
    if gramian.shape[-1] <= EXACT_SIZE and readable(gramian) and not bool(torch.isfinite(gramian).all()):
        wrong = (~torch.isfinite(gramian)).reshape(-1, *gramian.shape[-2:]).any(0).any(-1)
        raise ForkError(
            f"the Gramian has values that are not finite in the rows of the tasks {wrong.nonzero()[:, 0].tolist()}, "
            "counted from 0: their gradients overflowed or are NaN. A model's fork leaves such tasks out of the step; "
            "where you form the Gramian yourself, put their rows and columns to zero."
        )
    return torch.diagonal(gramian, dim1=-2, dim2=-1) > 0


def count(present: Tensor) -> Tensor:
    """Return [..., 1] float64: how many tasks are present, at least one so that it can divide."""
    return present.sum(-1, keepdim=True).clamp_min(1).double()


EXACT_SIZE = 64
"""Up to this many tasks a problem is solved in float64 and exactly; beyond it that costs more than the step saves."""


def solver_dtype(gramian: Tensor) -> torch.dtype:
    """Return the precision to solve in: a thousand tasks fill megabytes, which float64 doubles."""
    return torch.float64 if gramian.shape[-1] <= EXACT_SIZE else gramian.dtype


def normalize(gramian: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return `gramian` [..., T, T] in `dtype`, with a trace of one (or all zero if it was zero)."""
    exact = gramian.to(dtype)
    trace = torch.diagonal(exact, dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return exact / torch.where(trace > 0, trace, 1.0)


def rounded_trace(gramian: Tensor) -> Tensor:
    """Return the power of two, float64, that is nearest to the trace of `gramian` [T, T]; one if that is zero.

    To divide by it rounds nothing, so that what is solved then is the same to the last bit with an absent task.
    """
    trace = torch.diagonal(gramian.double()).sum()
    return torch.where(trace > 0, trace, 1.0).log2().round().exp2()


def cosines(gramian: Tensor) -> Tensor:
    """Return [..., T, T] float64: the cosines between the tasks' gradients, zero where a task is absent."""
    exact = gramian.double()
    squares = torch.diagonal(exact, dim1=-2, dim2=-1)
    inverse = torch.where(squares > 0, squares, torch.inf).rsqrt()
    return exact * inverse[..., :, None] * inverse[..., None, :]


def ridge(gramian: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `gramian` [..., T, T] made positive definite against the rounding of `dtype`, in which it was formed.

    Each diagonal entry grows by the same small ratio, so a task with a small gradient is not drowned.
    """
    ratio = max(8 * torch.finfo(dtype).eps, 1e-10)
    return gramian + ratio * torch.diag_embed(torch.diagonal(gramian, dim1=-2, dim2=-1))
