"""Averages of the weights over the training, which are evaluated and kept instead of the last ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from lepton.errors import nearest, require
from lepton.evaluate import to_device
from lepton.nn import LeptonModel
from lepton.train._batches import usable_batch
from lepton.train._step import Batch

__all__ = ["AverageName", "WeightAverage"]

AverageName = Literal["none", "ema", "swa"]
"""Which average of the weights is evaluated and kept."""


class WeightAverage:
    """An average a of the weights w of trunk and heads, updated after each step; the balancer is not averaged.

        ema:  a <- d a + (1 - d) w          exponential, decay d (Polyak and Juditsky 1992; as in torch.optim.swa_utils)
        swa:  a <- a + (w - a) / (n + 1)    uniform over the n steps of the last part of the training
                                            (Izmailov 2018, which averages once in an epoch)

    The statistics of BatchNorm follow the weights: `"ema"` averages them too; for `"swa"` they are computed anew over
    the training batches before each evaluation, because an average over so many steps has statistics of its own.

    Args:
        model: the model.
        kind: `"none"`, `"ema"` or `"swa"`.
        decay: d of `"ema"`. In the first steps it is at most (1 + n) / (10 + n), so that the first weights are soon
            forgotten.
        start: share of the steps after which `"swa"` begins.

    Raises:
        ConfigurationError: an unknown kind or a number out of range.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Regression
        >>> model = lepton.LeptonModel(torch.nn.Linear(2, 4), [Regression("size")])
        >>> average = WeightAverage(model, "swa", start=0.0)
        >>> weight = model.trunk.weight
        >>> for value in (1.0, 3.0):
        ...     _ = torch.nn.init.constant_(weight, value)
        ...     average.update(done=1.0)
        >>> with average.applied():
        ...     weight[0, 0].item()
        2.0
        >>> weight[0, 0].item()
        3.0
    """

    def __init__(
        self, model: LeptonModel, kind: AverageName = "none", *, decay: float = 0.999, start: float = 0.75
    ) -> None:
        names = get_args(AverageName)
        require(kind in names, "Trainer", "average", kind, f"one of {list(names)}{nearest(str(kind), names)}")
        require(0 < decay < 1, "Trainer", "average_decay", decay, "between 0 and 1")
        require(0 <= start < 1, "Trainer", "average_start", start, "at least 0 and below 1")
        self.model = model
        self.kind = kind
        self.decay = decay
        self.start = start
        self.count = 0
        self._mean: list[Tensor] = []

    def restart(self) -> None:
        """Forget the average."""
        self.count, self._mean = 0, []

    @property
    def running(self) -> bool:
        """Whether there is an average yet."""
        return self.count > 0

    def _tensors(self) -> list[Tensor]:
        """Return what is averaged, without the versions that tell the fork of an optimiser's step."""
        skip = {id(parameter) for parameter in self.model.fork.parameters()}
        found: list[Tensor] = [p.data for p in self.model.parameters() if p.is_floating_point() and id(p) not in skip]
        return found + [buffer.data for buffer in self._statistics()]

    def _statistics(self) -> list[Tensor]:
        buffers = [*self.model.trunk.buffers(), *self.model.heads.buffers()]
        return [buffer for buffer in buffers if buffer.is_floating_point()]

    @torch.no_grad()
    def update(self, done: float) -> None:
        """Take the weights after a step into the average.

        Args:
            done: share of the training's steps that is done.
        """
        if self.kind == "none" or (self.kind == "swa" and done <= self.start):
            return
        now = self._tensors()
        if not self.count:
            self._mean = [tensor.clone() for tensor in now]
        else:
            self._multi_average()(self._mean, now, self.count)
        self.count += 1

    def _multi_average(self) -> Any:
        if self.kind == "swa":
            return get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        return get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @contextmanager
    def applied(self, train: Iterable[Batch] | None = None) -> Iterator[None]:
        """Put the average into the model meanwhile; does nothing while there is none.

        Args:
            train: training batches, for BatchNorm's statistics after `"swa"`.
        """
        if not self.running:
            yield
            return
        kept = [tensor.clone() for tensor in self._tensors()]
        # Counters of batches are no average, but computing the statistics anew moves them.
        counters = [b for b in self.model.buffers() if not b.is_floating_point()]
        counted = [counter.clone() for counter in counters]
        try:
            self.apply(train)
            yield
        finally:
            _copy(self._tensors(), kept)
            _copy([counter.data for counter in counters], counted)

    @torch.no_grad()
    def apply(self, train: Iterable[Batch] | None = None) -> None:
        """Put the average into the model for good."""
        _copy(self._tensors(), self._mean)
        if self.kind == "swa" and train is not None:
            self._renew_statistics(train)

    def _renew_statistics(self, train: Iterable[Batch]) -> None:
        """Compute the statistics of the norms in training anew, with everything else as in evaluation.

        Not by torch's `update_bn`, which resets frozen norms as well and leaves dropout on.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
        momenta = [norm.momentum for norm in norms]
        self.model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum, norm.training = None, True  # without a momentum: the mean over all batches
        try:
            for batch in train if norms else ():
                usable, _ = usable_batch(batch)
                if usable is not None:
                    self.model(to_device(usable[0], self.model.device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for module, training in modes:
                module.training = training

    # -- saving -----------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return the average and how many steps went into it."""
        return {"kind": self.kind, "count": self.count, "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved average.

        Raises:
            ValueError: it is of another kind.
        """
        if state["kind"] != self.kind:
            raise ValueError(f"average was {state['kind']!r} and is {self.kind!r}")
        self.restart()
        if state["count"]:
            self.count = state["count"]
            self._mean = [tensor.to(now) for tensor, now in zip(state["mean"], self._tensors(), strict=True)]


@torch.no_grad()
def _copy(into: list[Tensor], values: list[Tensor]) -> None:
    if into:
        torch._foreach_copy_(into, values)
