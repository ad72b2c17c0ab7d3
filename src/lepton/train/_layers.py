"""Norms of the layers' gradients, and an alarm for layers that are dead or explode."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lepton.errors import is_whole, require
from lepton.nn import LeptonModel
from lepton.train._processes import local
from lepton.train._state import TrainState

__all__ = ["LayerNorms"]

DEAD = 1e-7
"""A layer whose largest norm in an epoch is this part of the median of all layers is dead."""
EXPLODING = 100.0
"""A layer whose mean norm is this many times that of the first epoch explodes."""

log = logging.getLogger("lepton")


class LayerNorms:
    """Samples the norm of every layer's gradient, and reads the sums from the device once an epoch.

    A layer is a module of the trunk or the heads that has parameters of its own, by its name in the model:
    `trunk.encoder.0`, `heads.price`.

    Args:
        model: the model.
        every: steps between two samples; None to take none. The first step of an epoch is one.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Regression
        >>> model = lepton.LeptonModel(torch.nn.Linear(2, 4), [Regression("size")])
        >>> norms = LayerNorms(model, every=1)
        >>> model.trunk.weight.grad = torch.full((4, 2), 0.5)
        >>> norms.sample()
        >>> norms.row()
        {'train/grad_norm/trunk': 1.4142135381698608, 'train/grad_norm/heads.size': 0.0}
    """

    def __init__(self, model: LeptonModel, every: int | None) -> None:
        counts = every is None or is_whole(every)
        require(counts, "Trainer", "grad_norm_every", every, "a whole number of at least 1, or None")
        self.every = every
        layers: dict[str, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not name.startswith("fork."):
                layers.setdefault(name.rpartition(".")[0], []).append(parameter)
        self.names = list(layers)
        self._parameters = [(place, p) for place, name in enumerate(self.names) for p in layers[name]]
        self._device = model.device
        self._places: dict[tuple[int, ...], Tensor] = {}
        self.begin()

    def begin(self) -> None:
        """Begin an epoch."""
        self._calls = 0
        self._sum, self._highest, self._samples = (
            torch.zeros(size, device=self._device) for size in (len(self.names), len(self.names), 1)
        )

    def sample(self) -> None:
        """Look at the gradients, every so many steps; to be called after backward, before they are clipped."""
        due = self.every is not None and self._calls % self.every == 0
        self._calls += 1
        if not due:
            return
        there = [(place, p.grad) for place, p in self._parameters if p.grad is not None]
        if not there:
            return
        norms = torch.stack([norm.float() for norm in torch._foreach_norm([local(gradient) for _, gradient in there])])
        squares = torch.zeros_like(self._sum).index_add_(0, self._index(tuple(place for place, _ in there)), norms**2)
        if any(hasattr(gradient, "to_local") for _, gradient in there):
            torch.distributed.all_reduce(squares)
        found = squares.sqrt()
        whole = torch.isfinite(found).all()  # a step that is skipped says nothing of the layers
        self._sum += torch.where(whole, found, 0)
        self._samples += whole
        self._highest = torch.where(whole, torch.maximum(self._highest, found), self._highest)

    def _index(self, places: tuple[int, ...]) -> Tensor:
        if places not in self._places:
            self._places[places] = torch.tensor(places, device=self._device)
        return self._places[places]

    def row(self) -> dict[str, float]:
        """Return the means of the epoch, `train/grad_norm/<layer>`; nothing without a sample."""
        samples = self._samples.item()
        if not samples:
            return {}
        means = (self._sum / samples).tolist()
        return {f"train/grad_norm/{name}": mean for name, mean in zip(self.names, means, strict=True)}

    def alarm(self, row: Mapping[str, float], state: TrainState, idle: Collection[str] = ()) -> None:
        """Warn, once for each layer, of those that are dead or explode, and enter them into the state.

        Args:
            row: what `row` returned for this epoch.
            state: with the history of the epochs before it.
            idle: tasks without labels, whose heads have no gradient and are not dead for that.
        """
        if not row:
            return
        highest = dict(zip(self.names, self._highest.tolist(), strict=True))
        median = statistics.median(highest.values())
        first = state.history[0] if state.history else row
        for name, norm in highest.items():
            if any(name == f"heads.{task}" or name.startswith(f"heads.{task}.") for task in idle):
                continue
            key = f"train/grad_norm/{name}"
            if norm <= DEAD * median and name not in state.dead_layers:
                state.dead_layers.append(name)
                log.warning(
                    "layer %r is dead: its gradient's norm was at most %.1e in a whole epoch, the median of all "
                    "layers' is %.1e",
                    name,
                    norm,
                    median,
                )
            if row[key] > EXPLODING * first.get(key, row[key]) > 0 and name not in state.exploding_layers:
                state.exploding_layers.append(name)
                log.warning(
                    "layer %r explodes: its gradient's norm was %.1e in this epoch and %.1e in the first",
                    name,
                    row[key],
                    first[key],
                )

    # -- saving -----------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the epoch under way."""
        return {"calls": self._calls, "sum": self._sum, "highest": self._highest, "samples": self._samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved sums."""
        self._calls = state["calls"]
        self._sum, self._highest, self._samples = (state[key].to(self._device) for key in ("sum", "highest", "samples"))
