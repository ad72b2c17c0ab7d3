"""A name, learning rates and a decay to a torch optimiser with the right groups of parameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from lepton.errors import ConfigurationError, is_number, nearest, require
from lepton.nn import LeptonModel

__all__ = ["OptimizerName", "make_optimizer", "parameter_groups"]

OptimizerName = Literal[
    "adamw", "adam", "nadam", "radam", "adamax", "adagrad", "adadelta", "adafactor", "rmsprop", "asgd", "sgd"
]
"""The optimisers of torch that take a dense gradient, one step at a time, for parameters of any shape."""

_CLASSES = {
    "adamw": "AdamW",
    "adam": "Adam",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adamax": "Adamax",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "adafactor": "Adafactor",
    "rmsprop": "RMSprop",
    "asgd": "ASGD",
    "sgd": "SGD",
}

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Normalisations, whose scales may have several dimensions. Others are recognised by their one-dimensional ones."""


def make_optimizer(
    model: LeptonModel,
    optimizer: OptimizerName | Optimizer = "adamw",
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
    learning_rates: Mapping[str, float] | None = None,
) -> Optimizer:
    """Return a torch optimiser over a model's trainable parameters, fused where torch offers that.

    Args:
        model: the model.
        optimizer: a name, or an optimiser of your own, which is returned as it is.
        learning_rate: of every parameter that no prefix names.
        weight_decay: of weights with two or more dimensions; see `parameter_groups`.
        momentum: for `"sgd"` (by default 0.9) and `"rmsprop"`.
        betas: for the optimisers of Adam's family.
        learning_rates: prefix of a parameter's name -> learning rate.

    Raises:
        ConfigurationError: an unknown name, a prefix that names nothing, an option that the optimiser does not have,
            or nothing to train.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Regression
        >>> model = lepton.LeptonModel(torch.nn.Linear(2, 4), [Regression("size")])
        >>> optimizer = make_optimizer(model, "sgd", learning_rates={"trunk": 1e-4})
        >>> type(optimizer).__name__, sorted({group["lr"] for group in optimizer.param_groups})
        ('SGD', [0.0001, 0.001])
    """
    moves = is_number(learning_rate) and 0 < learning_rate < math.inf
    require(moves, "Trainer", "learning_rate", learning_rate, "a number, positive and finite")
    decays = is_number(weight_decay) and 0 <= weight_decay < math.inf
    require(decays, "Trainer", "weight_decay", weight_decay, "a number, at least 0 and finite")
    if isinstance(optimizer, Optimizer):
        given = {"momentum": momentum, "betas": betas, "learning_rates": learning_rates}
        for option, value in given.items():
            require(
                value is None, "Trainer", option, value, "None beside an optimizer object: set it in its own groups"
            )
        _check_parameters(model, optimizer)
        return optimizer
    if not isinstance(optimizer, str) or optimizer not in _CLASSES:
        raise ConfigurationError(
            f"Trainer: optimizer must be one of {list(get_args(OptimizerName))} or a torch optimiser, but it is "
            f"{optimizer!r}.{nearest(str(optimizer).lower(), _CLASSES)}"
        )
    kind = getattr(torch.optim, _CLASSES[optimizer])
    takes = inspect.signature(kind).parameters
    options: dict[str, Any] = {"fused": True} if "fused" in takes else {}
    if optimizer == "sgd" and momentum is None:
        momentum = 0.9
    for option, chosen in (("momentum", momentum), ("betas", None if betas is None else tuple(betas))):
        if chosen is not None:
            require(option in takes, "Trainer", option, chosen, f"None with optimizer={optimizer!r}, which has none")
            options[option] = chosen
    groups = parameter_groups(model, learning_rate, weight_decay, learning_rates or {})
    try:
        found: Optimizer = kind(groups, lr=learning_rate, **options)
    except ValueError as error:  # momentum or betas out of range
        raise ConfigurationError(f"Trainer: optimizer={optimizer!r} refuses its options: {error}.") from error
    return found


def parameter_groups(
    model: LeptonModel, learning_rate: float, weight_decay: float, learning_rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return the groups of a model's trainable parameters that share a learning rate and a weight decay.

    Biases, the parameters of normalisations, other parameters of one dimension and those of the balancer do not
    decay: pulling them to zero does not make a network simpler, and a balancer's are no weights of the network.

    Args:
        model: the model.
        learning_rate: of every parameter that no prefix names.
        weight_decay: of all others.
        learning_rates: prefix of a parameter's name, ending at a dot -> learning rate; the longest prefix counts.

    Raises:
        ConfigurationError: nothing is trainable, or a prefix names no parameter.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not named:
        raise ConfigurationError("the model has no trainable parameter.")
    _check_prefixes(learning_rates, [name for name, _ in named])
    undecayed = {id(parameter) for parameter in _undecayed(model)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        rate = learning_rates[found] if (found := _longest(name, learning_rates)) else learning_rate
        key = (rate, 0.0 if id(parameter) in undecayed else weight_decay)
        groups.setdefault(key, []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]


def _undecayed(model: LeptonModel) -> Iterator[nn.Parameter]:
    for module in model.modules():
        own = isinstance(module, _NORMS)
        for name, parameter in module.named_parameters(recurse=False):
            if own or parameter.ndim < 2 or name == "bias":
                yield parameter
    yield from model.balancer.parameters()


def _longest(name: str, prefixes: Iterable[str]) -> str | None:
    return max((p for p in prefixes if name == p or name.startswith(p + ".")), key=len, default=None)


def _check_prefixes(learning_rates: Mapping[str, float], names: list[str]) -> None:
    for prefix, rate in learning_rates.items():
        fits = isinstance(rate, (int, float)) and 0 < rate < float("inf")
        require(fits, "Trainer", f"learning_rates[{prefix!r}]", rate, "positive and finite")
        if not any(_longest(name, [prefix]) for name in names):
            known = {
                ".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, 1 + len(parts))
            }
            stacked = prefix.startswith("heads.") and "stacked_heads.weight" in names
            hint = " So many linear heads are one parameter: 'stacked_heads'." if stacked else nearest(prefix, known)
            raise ConfigurationError(
                f"Trainer: learning_rates names {prefix!r}, but no trainable parameter begins with it; the first ones "
                f"are {names[:4]}.{hint}"
            )


def _check_parameters(model: LeptonModel, optimizer: Optimizer) -> None:
    mine = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in mine for group in optimizer.param_groups for parameter in group["params"]):
        raise ConfigurationError("the optimizer holds no parameter of this model: it would train nothing.")
