from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lepton.balance.base import Balancer
from lepton.errors import is_number, is_whole, require
from lepton.linalg import counter_uniform

__all__ = ["GradDrop", "grad_drop_masks"]


def grad_drop_masks(pulls: Tensor, draws: Tensor, leak: float = 0.0) -> Tensor:
    """Return the share [T, D] of each task's gradient that passes each feature.

    Args:
        pulls: [T, D], what each task wants of each feature, summed over the batch; zero rows are absent tasks.
        draws: [D], uniform in [0, 1).
        leak: share that passes where the sign was not picked.
    """
    total = pulls.abs().sum(0)
    purity = (1 + pulls.sum(0) / torch.where(total > 0, total, 1.0)) / 2
    positive = purity > draws
    picked = torch.where(positive, pulls > 0, pulls < 0)
    present = (pulls != 0).any(1, keepdim=True)
    return torch.where(present, leak + (1 - leak) * picked, 0.0).to(pulls.dtype)


@final
class GradDrop(Balancer):
    r"""Gradient sign dropout: at every feature one sign is picked, and only the tasks that pull that way pass.

    With the features z [N, D] and the cotangents c_k [N, D], task k pulls feature d by

        q_kd = sum_n sign(z_nd) c_knd,    P_d = (1 + sum_k q_kd / sum_k |q_kd|) / 2

    and with one draw u_d, uniform in [0, 1), for each feature, the trunk gets sum_k m_kd c_knd,

        m_kd = leak + (1 - leak) ([P_d > u_d] [q_kd > 0] + [P_d <= u_d] [q_kd < 0])

    Chen 2020, no leak; its layer stands where the fork does, at the last shared features.

    - `loss_weight`: linear in how likely a task's sign is picked, and in what passes.
    - The weights that are recorded are the shares of the features at which each task passed; they sum to no fixed
      number. They do not change with the scale of all losses.
    - It needs the cotangents and not only their products: the option `gradients` does not matter, there is no Gramian,
      and `max_task_grad_norm`, which would need one, is refused.
    - The draws come from `seed` and a counter in the state, equal on all devices and processes.

    Args:
        leak: share of a gradient that passes where its sign was not picked, in [0, 1].
        seed: of the draws.

    Example:
        >>> import torch
        >>> GradDrop().masks(torch.tensor([[1.0, -1.0], [3.0, -2.0]]))  # no conflict: everything passes
        tensor([[1., 1.],
                [1., 1.]])
    """

    uses_signs = True
    _step: Tensor

    def __init__(self, leak: float = 0.0, *, seed: int = 0) -> None:
        super().__init__()
        require(is_number(leak) and 0 <= leak <= 1, "GradDrop", "leak", leak, "a number in [0, 1]")
        require(is_whole(seed, 1 - 2**63) and seed < 2**63, "GradDrop", "seed", seed, "an integer of 64 bits")
        self.leak = leak
        self.seed = seed
        self.register_buffer("_step", torch.zeros((), dtype=torch.int64))

    def masks(self, pulls: Tensor) -> Tensor:
        """Return m [T, D]; see `Balancer.masks`."""
        features = torch.arange(pulls.shape[1], device=pulls.device)
        draws = counter_uniform(self.seed, self._step.to(pulls.device), features)
        self._step += 1
        return grad_drop_masks(pulls, draws, self.leak)

    def extra_repr(self) -> str:
        """Return the hyperparameters."""
        return f"leak={self.leak}, seed={self.seed}"
