"""`EWC`: parameters that mattered before are pulled back to where they were."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lepton.errors import ConfigurationError, DataError, is_number, is_whole, require
from lepton.evaluate import checked_batch, to_device
from lepton.nn import Attached, LeptonModel, MultiTaskLoss, Penalty
from lepton.transfer._distribution import check_kinds, own_log_likelihood

__all__ = ["EWC", "FisherLabels"]

FisherLabels = Literal["model", "data"]
"""Where the labels come from that the Fisher information is taken over."""


class EWC(Penalty):
    """Elastic weight consolidation (Kirkpatrick et al., 2017, "Overcoming catastrophic forgetting in neural networks").

        penalty = strength / 2 * sum_t sum_i F_ti (theta_i - theta_ti)^2

    theta_t are the parameters after the training on tasks t, F_t the diagonal of the Fisher information there,
    F_ti = E[(d log p(y | x) / d theta_i)^2] with y drawn from the model's own distribution p(. | x). The sum over t is
    kept as one Fisher and one mean, which gives the same penalty in the memory of one: F = sum_t F_t and
    m = sum_t F_t theta_t / F, and a constant.

    A regression is taken as a normal distribution around the output, of standard deviation 1 in the units of the
    standardised targets.

    Args:
        strength: lambda of the paper, > 0. Compare several on validation rows of old and new tasks.

    Raises:
        ConfigurationError: a strength that is not allowed.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Classification
        >>> from lepton.transfer import EWC
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())
        >>> model = lepton.LeptonModel(trunk, [Classification("old", classes=3), Classification("new", classes=2)])
        >>> ewc = EWC(strength=100.0)
        >>> ewc.consolidate(model, [(torch.randn(6, 4), {"old": torch.arange(6) % 3})], tasks=["old"])
        6
        >>> criterion = lepton.MultiTaskLoss(model)
        >>> attached = ewc.attach(criterion)  # from here on, `loss.backward()` remembers the old task
        >>> outputs, task_weights = model(torch.randn(2, 4))
        >>> criterion(outputs, {"new": torch.tensor([0, 1])}, task_weights).backward()
    """

    def __init__(self, strength: float) -> None:
        fits = is_number(strength) and 0 < strength < math.inf
        require(fits, "EWC", "strength", strength, "a number, positive and finite")
        self.strength = strength
        self.fisher: dict[str, Tensor] = {}
        self.mean: dict[str, Tensor] = {}
        self.constant = 0.0
        self._terms: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def consolidate(
        self,
        model: LeptonModel,
        batches: Iterable[tuple[Any, Mapping[str, Tensor]]],
        *,
        tasks: Sequence[str] | None = None,
        rows: int | None = None,
        labels: FisherLabels = "model",
        seed: int = 0,
    ) -> int:
        """Measure what matters for tasks as they are learned now, add it to what is remembered, and return the rows.

        Each row takes a forward and a backward pass by itself: a square of a mean is no mean of squares.

        Args:
            model: the model after its training.
            batches: pairs (inputs, targets) of its training rows.
            tasks: the tasks that were learned; None for all.
            rows: number of rows to look at; None for all.
            labels: `"model"` draws labels from the model's distribution, as the paper; `"data"` takes those of the
                rows (the empirical Fisher information), for tasks of any kind.
            seed: of the draws.

        Raises:
            ConfigurationError: a task that the model does not have, or of a kind that has no distribution.
            DataError: there is no row.
        """
        require(rows is None or is_whole(rows), "EWC", "rows", rows, "a whole number of at least 1, or None")
        names = get_args(FisherLabels)
        require(labels in names, "EWC", "labels", labels, f"one of {names}")
        chosen = list(model.task_names if tasks is None else tasks)
        if labels == "model":
            check_kinds("EWC", [model.task(name) for name in chosen])
        fisher, seen = _fisher(model, _single_rows(batches, model.device, rows), chosen, labels, seed)
        self._remember(fisher, {name: parameter.detach().clone() for name, parameter in _learned(model)})
        return seen

    def attach(self, criterion: MultiTaskLoss) -> Attached:
        """Add the penalty to the loss of a training, of the same model or of one with more tasks.

        Args:
            criterion: that of the training; a Trainer's is `trainer.step.criterion`.

        Raises:
            ConfigurationError: nothing was consolidated, or the model lacks a parameter that is remembered.
        """
        if not self.fisher:
            raise ConfigurationError("EWC remembers nothing yet: call consolidate(model, batches) after a training.")
        there = dict(criterion.model.named_parameters())
        for name, fisher in self.fisher.items():
            if name not in there or there[name].shape != fisher.shape:
                found = list(there[name].shape) if name in there else "nothing"
                raise ConfigurationError(
                    f"EWC remembers the parameter {name!r} {list(fisher.shape)}, but this model has {found} there: "
                    "attach it to the model that it was consolidated on, or to one with more tasks."
                )
        self._terms = [
            (there[name], fisher.to(there[name].device), self.mean[name].to(there[name].device))
            for name, fisher in self.fisher.items()
        ]
        return Attached(criterion.register_penalty(self))

    def __call__(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the penalty, 0-d."""
        distance = torch.stack([(fisher * (p - mean).square()).sum() for p, fisher, mean in self._terms]).sum()
        return self.strength / 2 * (distance + self.constant)

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered: by parameter the Fisher information and the mean, and the constant."""
        return {"fisher": dict(self.fisher), "mean": dict(self.mean), "constant": self.constant}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what was saved; attach afterwards."""
        self.fisher, self.mean = dict(state["fisher"]), dict(state["mean"])
        self.constant = float(state["constant"])

    def _remember(self, fisher: Mapping[str, Tensor], theta: Mapping[str, Tensor]) -> None:
        for name, new in fisher.items():
            if name not in self.fisher:
                self.fisher[name], self.mean[name] = new, theta[name]
                continue
            old, mean = self.fisher[name], self.mean[name]
            total = old + new
            # Where both are zero, the parameter is free, and any mean will do.
            merged = torch.where(total > 0, (old * mean + new * theta[name]) / total.clamp(min=1e-38), theta[name])
            spread = old * (mean - merged).square() + new * (theta[name] - merged).square()
            self.constant += float(spread.sum())
            self.fisher[name], self.mean[name] = total, merged


def _learned(model: LeptonModel) -> list[tuple[str, nn.Parameter]]:
    """Return the network's parameters that learn; those of the balancer are none."""
    named = model.named_parameters()
    return [(name, p) for name, p in named if p.requires_grad and not name.startswith("fork.")]


def _fisher(
    model: LeptonModel,
    batches: Iterable[tuple[Any, Mapping[str, Tensor]]],
    tasks: Sequence[str],
    labels: str,
    seed: int,
) -> tuple[dict[str, Tensor], int]:
    """Return the mean over rows of the squared gradients of the log-likelihood, and the number of rows."""
    named = _learned(model)
    generator = torch.Generator(model.device).manual_seed(seed)
    sums = [torch.zeros_like(p) for _, p in named]
    seen, modes = 0, [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for inputs, targets in batches:
            likelihood = _log_likelihood(model, inputs, targets, tasks, labels, generator)
            seen += 1
            if likelihood is None:
                continue
            found = torch.autograd.grad(likelihood, [p for _, p in named], allow_unused=True)
            for total, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    total += gradient.square()
    finally:
        for module, training in modes:
            module.training = training
    if not seen:
        raise DataError("EWC: there are no rows to consolidate on.")
    return {name: total / seen for (name, _), total in zip(named, sums, strict=True)}, seen


def _log_likelihood(
    model: LeptonModel,
    inputs: Any,
    targets: Mapping[str, Tensor],
    tasks: Sequence[str],
    labels: str,
    generator: torch.Generator,
) -> Tensor | None:
    """Return the log-likelihood of one row's labels; None if it has none."""
    with torch.enable_grad():
        outputs = model.outputs_of(inputs, tasks)
        if labels == "model":
            return torch.stack([own_log_likelihood(model.task(n), outputs[n], generator) for n in tasks]).sum()
        found = []
        for name in (name for name in tasks if name in targets):
            task = model.task(name)
            loss, count = task.total_loss(outputs[name], task.check_target(outputs[name], targets[name]))
            found += [-loss] if count > 0 else []
        return torch.stack(found).sum() if found else None


def _single_rows(
    batches: Iterable[tuple[Any, Mapping[str, Tensor]]], device: torch.device, limit: int | None
) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """Yield batches of one row each."""
    done = 0
    for batch in batches:
        inputs, targets = to_device(checked_batch(batch), device)
        size = len(pytree.tree_leaves(inputs)[0])
        for row in range(size):
            if done == limit:
                return
            done += 1
            part = pytree.tree_map(lambda x, row=row: x[row : row + 1] if isinstance(x, Tensor) else x, inputs)
            yield part, {name: target[row : row + 1] for name, target in targets.items()}
