"""What a text model of any architecture consists of, found out by letting it read two tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Anatomy", "hidden_states"]


def hidden_states(model: Any, tokens: Tensor, inside: Tensor, *, all_layers: bool = True) -> tuple[Tensor, ...]:
    """Return all hidden states [B, S, D], the embeddings first, or only the last; outside of `inside` is no token."""
    found = model(input_ids=tokens, attention_mask=inside.long(), output_hidden_states=all_layers, return_dict=True)
    return tuple(found.hidden_states) if all_layers else (found.last_hidden_state,)


class Anatomy:
    """Sizes, direction and layers of a model.

    The architectures have no common interface that tells them, but their gradients do: what a hidden state depends on,
    has a gradient.

    Args:
        model: a model of transformers that reads `input_ids`, in eval mode.
        padding: an id that is no token.

    Attributes:
        depth: number of layers.
        out_features: size D of the hidden states.
        causal: whether a token's state does not depend on those to its right.
        layers: for each layer, its modules; empty if the layers share their parameters.
    """

    def __init__(self, model: Any, padding: int) -> None:
        first, second, third = [token for token in range(4) if token != padding][:3]
        tokens = torch.tensor([[first, second]])
        inside = torch.ones_like(tokens, dtype=torch.bool)
        with torch.enable_grad():
            self._states = hidden_states(model, tokens, inside)
        with torch.no_grad():
            others = hidden_states(model, torch.tensor([[first, third]]), inside)
        self._parameters = list(model.parameters())
        self.depth = len(self._states) - 1
        self.out_features = self._states[-1].shape[-1]
        self.causal = torch.equal(self._states[-1][:, 0], others[-1][:, 0])
        self.layers = _layers(model, self.depth)

    def below(self, count: int) -> list[nn.Parameter]:
        """Return the parameters of the embeddings and of the `count` lowest layers."""
        outside = self._outside(self.layers)
        return [*self._reached(self._states[0], outside), *_parameters(self.layers[:count])]

    def used(self, layer: int | None) -> list[nn.Parameter]:
        """Return the parameters on which the states after `layer` layers depend, or with None any states."""
        read = self._states if layer is None else self._states[layer : layer + 1]
        layers = self.layers[:layer]
        # A layer is taken as a whole: of its experts, two tokens need not have met all.
        return [*self._reached(torch.stack(read).sum(), self._outside(self.layers)), *_parameters(layers)]

    def _outside(self, layers: Iterable[list[nn.Module]]) -> list[nn.Parameter]:
        inside = {id(each) for each in _parameters(layers)}
        return [each for each in self._parameters if id(each) not in inside]

    def _reached(self, output: Tensor, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
        found = torch.autograd.grad(output.sum(), parameters, allow_unused=True, retain_graph=True)
        return [each for each, gradient in zip(parameters, found, strict=True) if gradient is not None]


def _layers(model: nn.Module, depth: int) -> list[list[nn.Module]]:
    """Return the modules of each layer: they stand in one list of that length, or in several side by side."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    nested = {id(inner) for outer in lists for inner in outer.modules() if inner is not outer}
    stacks = [each for each in lists if id(each) not in nested]
    return [[stack[place] for stack in stacks] for place in range(depth)] if stacks else []


def _parameters(layers: Iterable[list[nn.Module]]) -> list[nn.Parameter]:
    return [each for layer in layers for module in layer for each in module.parameters()]
