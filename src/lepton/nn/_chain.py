"""A task whose prediction is conditioned on another task's prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lepton.errors import require

__all__ = ["Chain"]


class Chain(nn.Module):
    """A head that reads the shared features and another task's output.

    Reading the other task's output as it stands would make this task's loss flow into the other task's branch, and
    the fork would count it as the other task's gradient. So by default the output is detached. With
    `detach=False` the other task's head is evaluated once more on this task's own branch of the fork: the loss then
    reaches that head and the trunk, and is counted for this task.

    Args:
        upstream: name of the task whose output is read.
        head: the module that gets the features [.., D] and the output [.., C] side by side, [.., D + C].
        detach: do not differentiate the upstream output.
        transform: applied to the upstream output before it is read, for example `torch.sigmoid`.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Classification, Regression
        >>> chain = lepton.Chain("digit", torch.nn.Linear(8 + 10, 1))
        >>> tasks = [Classification("digit", classes=10), Regression("slant", head=chain)]
        >>> model = lepton.LeptonModel(torch.nn.Linear(4, 8), tasks)
        >>> outputs, task_weights = model(torch.ones(3, 4))
        >>> outputs["slant"].shape
        torch.Size([3])
    """

    def __init__(
        self,
        upstream: str,
        head: nn.Module,
        *,
        detach: bool = True,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        require(isinstance(upstream, str), "Chain", "upstream", upstream, "the name of a task")
        require(isinstance(head, nn.Module), "Chain", "head", head, "a module")
        require(isinstance(detach, bool), "Chain", "detach", detach, "True or False")
        require(transform is None or callable(transform), "Chain", "transform", transform, "a function, or None")
        self.upstream = upstream
        self.head = head
        self.detach = detach
        self.transform = transform

    def forward(self, features: Tensor, outputs: Mapping[str, Tensor], upstream: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the raw output.

        Args:
            features: this task's branch of the fork, [.., D].
            outputs: the outputs computed so far.
            upstream: evaluates the upstream task's head on features.
        """
        read = outputs[self.upstream].detach() if self.detach else upstream(features)
        if self.transform is not None:
            read = self.transform(read)
        if read.ndim < features.ndim:
            read = read.unsqueeze(-1)
        return self.head(torch.cat([features, read.to(features.dtype)], dim=-1))  # type: ignore[no-any-return]
