"""`NotedInputs`: what a penalty needs that looks at the inputs of a batch again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lepton.errors import TrainingError

__all__ = ["NotedInputs"]


class NotedInputs:
    """The inputs of a model's last forward pass in training, for a `Penalty` that shows them to another model.

    Args:
        owner: the penalty, as messages say it.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Regression
        >>> model = lepton.LeptonModel(torch.nn.Linear(2, 4), [Regression("size")])
        >>> noted = NotedInputs("Mine")
        >>> handle = noted.watch(model)
        >>> outputs, task_weights = model(torch.ones(1, 2))
        >>> noted.take()
        tensor([[1., 1.]])
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._inputs: Any = None

    def watch(self, model: nn.Module) -> RemovableHandle:
        """Note the inputs of every forward pass in training, until `remove()` of what is returned."""
        return model.register_forward_pre_hook(self._note, with_kwargs=True)

    def take(self) -> Any:
        """Return the inputs, once.

        Raises:
            TrainingError: there was no forward pass since they were taken.
        """
        if self._inputs is None:
            raise TrainingError(
                f"{self.owner}: these outputs come from no new forward pass: call the model that the criterion was "
                "made for, in training mode, once for each loss."
            )
        inputs, self._inputs = self._inputs, None
        return inputs

    def _note(self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            self._inputs = inputs[0] if inputs else named["inputs"]
