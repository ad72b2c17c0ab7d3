from __future__ import annotations

from typing import final

from lepton.balance.base import LossBalancer

__all__ = ["Equal"]


@final
class Equal(LossBalancer):
    """The plain sum of the losses: equal weighting, the baseline of every comparison.

    The loss is sum_k L_k over the present tasks.

    - `loss_weight`: linear, it is the only weight.
    - The weights are ones and sum to the number of tasks. The gradient scales with the losses.

    Example:
        >>> import torch
        >>> balancer = Equal().bind(2)
        >>> balancer.combine(torch.tensor([1.0, 2.0]), balancer.task_weights(), torch.tensor([True, True]))
        tensor(3.)
    """

    aliases = ("ew", "ls", "sum")
