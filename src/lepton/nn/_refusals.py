"""What went wrong inside a trunk or a head, said with the task, the shapes and the way out.

Nothing here runs in a step that works: torch finds the fault, and these functions look for its reason afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lepton.errors import ConfigurationError, DataError, ForkError, LeptonError
from lepton.nn._adapted_trunk import plain_trunk
from lepton.nn._chain import Chain
from lepton.nn._layout import Layout
from lepton.nn._reading import ReadingHead
from lepton.tasks import Task

__all__ = [
    "MODULE_ERRORS",
    "checked_output",
    "checked_tasks",
    "explain_features",
    "explain_head",
    "explain_inputs",
    "inplace_message",
    "refuse_size",
]

MODULE_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)
"""What modules raise when they are given something that they cannot compute with."""


def checked_tasks(trunk: nn.Module, tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks as a list, refusing anything but a module and tasks."""
    several = isinstance(tasks, Iterable) and not isinstance(tasks, (str, nn.Module))
    found: list[Any] = list(tasks) if several else [tasks]
    strangers = [task for task in found if not isinstance(task, Task)]
    if strangers or not several or not isinstance(trunk, nn.Module):
        wrong = strangers[0] if strangers else trunk if several else tasks
        raise ConfigurationError(
            f"LeptonModel takes a module and a list of tasks, such as [Regression('price')], but got {wrong!r}."
        )
    return found


# -- trunk --------------------------------------------------------------------------------------------------------
def explain_inputs(error: Exception, trunk: nn.Module, inputs: Any) -> None:
    """Raise a `DataError` if the inputs are the reason why the trunk failed."""
    if isinstance(error, (LeptonError, torch.OutOfMemoryError)):
        return
    reason = _names_differ(trunk, inputs) or _place_differs(trunk, inputs) or _no_tensor(error, inputs)
    if reason:
        raise DataError(f"the trunk {type(trunk).__name__} cannot compute with these inputs: {reason}") from error


def _names_differ(trunk: nn.Module, inputs: Any) -> str:
    if not isinstance(inputs, Mapping):
        return ""
    signature = inspect.signature(plain_trunk(trunk).forward)
    try:
        signature.bind(**inputs)
    except TypeError as error:
        return f"a mapping of inputs calls trunk(**inputs), but {error}; it takes {signature} and got {list(inputs)}."
    return ""


def _place_differs(trunk: nn.Module, inputs: Any) -> str:
    parameter = next(trunk.parameters(), None)
    if parameter is None:
        return ""
    for tensor in (leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)):
        if tensor.device != parameter.device:
            return f"they are on {tensor.device}, the model is on {parameter.device}: move them, inputs.to(device)."
        if tensor.is_floating_point() and tensor.dtype != parameter.dtype:
            return f"they are {tensor.dtype}, the model's parameters {parameter.dtype}: cast them, inputs.to(dtype)."
    return ""


def _no_tensor(error: Exception, inputs: Any) -> str:
    arrays = [
        leaf for leaf in pytree.tree_leaves(inputs) if hasattr(leaf, "__array__") and not isinstance(leaf, Tensor)
    ]
    if not arrays:
        return ""
    kind = type(arrays[0])
    return f"{kind.__module__}.{kind.__name__} where a tensor is needed: use torch.as_tensor. ({error})"


# -- heads --------------------------------------------------------------------------------------------------------
def explain_head(error: Exception, name: str, head: nn.Module, features: Any, outputs: Mapping[str, Tensor]) -> None:
    """Raise a `ForkError` that names the task whose head failed, and the shape of what it was given."""
    if "is a view and is being modified inplace" in str(error):
        raise ForkError(inplace_message([name])) from error
    if isinstance(error, (LeptonError, torch.OutOfMemoryError)):
        return
    given = f"features {_shapes(features)}"
    if isinstance(head, Chain):
        given += f" and, beside them, the output {_shapes(outputs.get(head.upstream))} of {head.upstream!r}"
    elif isinstance(head, ReadingHead):
        given += f", beside the inputs {list(head.inputs)} and the outputs {list(head.outputs)}"
    raise ForkError(f"the head of {name!r}, a {type(head).__name__}, failed on {given}: {error}") from error


def checked_output(name: str, output: Any) -> Tensor:
    """Return what the head of a task returned, refusing anything but a real tensor."""
    if not isinstance(output, Tensor) or output.is_complex():
        found = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise ConfigurationError(
            f"the head of {name!r} must return one tensor of real numbers, but it returned a {found}: wrap it in a "
            "module that picks the tensor."
        )
    return output


def explain_features(error: Exception, features: Any, layout: Layout) -> None:
    """Raise a `ForkError` if features and linear heads do not go together."""
    if isinstance(error, (LeptonError, torch.OutOfMemoryError)) or not (layout.fused and isinstance(features, Tensor)):
        return
    weight = layout.heads[0].weight
    there, here = (features.device, weight.device), (features.dtype, weight.dtype)
    for got, wanted in (there, here):
        if got != wanted:
            raise ForkError(
                f"the trunk gives features {list(features.shape)} in {got}, but the head of {layout.fused[0]!r} is in "
                f"{wanted}: bring the whole model there, model.to({got})."
            ) from error


def inplace_message(names: Sequence[str]) -> str:
    """Say that a head overwrites what the other tasks read."""
    return (
        f"a head among {list(names)} changes the shared features in place, which would change them for the other "
        "tasks: make its first layer out-of-place, for example nn.ReLU() instead of nn.ReLU(inplace=True)."
    )


def refuse_size(features: Tensor, layout: Layout, own: Mapping[str, bool]) -> None:
    """Name the linear head that was built for another number of features."""
    size = features.shape[-1]
    for name, head in zip(layout.fused, layout.heads, strict=True):
        if head.in_features != size:
            way_out = "build it for that number" if own[name] else f"pass features={size} to LeptonModel"
            raise ConfigurationError(
                f"the trunk gives features of size {size} ({list(features.shape)}), but the head of {name!r} was built "
                f"for {head.in_features}: {way_out}."
            )


def _shapes(nest: Any) -> str:
    """Say the shapes in a nest of tensors."""
    if isinstance(nest, Tensor):
        return str(list(nest.shape))
    leaves = [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Tensor)]
    return f"{type(nest).__name__} of {[list(leaf.shape) for leaf in leaves]}" if leaves else repr(nest)
