"""A head that reads more than its features: inputs of the batch, and what tasks before it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lepton.errors import DataError, nearest

__all__ = ["ReadingHead"]


class ReadingHead(nn.Module):
    """A head that reads, beside its features, inputs of the batch and outputs of tasks before it.

    The outputs are detached: this task's loss reaches the trunk through its own features only, so that the fork counts
    it for this task. Inputs that heads read and the trunk has no argument for are not given to the trunk. Derive a
    class from this one, and name what it reads.

    Attributes:
        inputs: names of the inputs that it reads; the model must be given a mapping that has them.
        outputs: names of tasks, all of them before its own, whose finished outputs it reads.

    Example:
        >>> import torch, lepton
        >>> from lepton.nn import ReadingHead
        >>> from lepton.tasks import Regression
        >>> class Priced(ReadingHead):
        ...     inputs = ("amount",)
        ...
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(8, 1)
        ...
        ...     def forward(self, features, context):
        ...         return self.layer(features) * context["amount"][:, None]
        >>> model = lepton.LeptonModel(torch.nn.Linear(4, 8), [Regression("price", head=Priced())])
        >>> outputs, task_weights = model({"input": torch.ones(3, 4), "amount": torch.tensor([0.0, 1.0, 2.0])})
        >>> outputs["price"].shape, outputs["price"][0].item()
        (torch.Size([3]), 0.0)
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def context(self, inputs: Any, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what `forward` gets beside the features: name -> tensor.

        Args:
            inputs: the batch's inputs, a mapping if the head reads any.
            outputs: the outputs computed so far.

        Raises:
            DataError: an input that the head reads is not there.
        """
        given = inputs if isinstance(inputs, Mapping) else {}
        for name in self.inputs:
            if name not in given:
                raise DataError(
                    f"{type(self).__name__} reads the input {name!r}, but the batch has {list(given) or 'no names'}: "
                    f"give the model a mapping of inputs with it.{nearest(name, given)}"
                )
        found = {name: given[name] for name in self.inputs}
        return found | {name: outputs[name].detach() for name in self.outputs}

    def forward(self, features: Any, context: Mapping[str, Tensor]) -> Tensor:
        """Return the raw output.

        Args:
            features: this task's branch of the fork.
            context: the inputs and outputs that the head names, by their names.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what it makes of its features: write forward.")
