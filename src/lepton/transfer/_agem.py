"""`AGEM`: no step goes against the mean gradient of remembered rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lepton.errors import is_whole, require
from lepton.evaluate import to_device
from lepton.gradients import no_balancing
from lepton.nn import Attached, MultiTaskLoss
from lepton.transfer._replay import Replay

__all__ = ["AGEM"]


class AGEM:
    """Averaged gradient episodic memory (Chaudhry et al., 2019, "Efficient Lifelong Learning with A-GEM").

        g' = g - (g^T r / r^T r) r   where g^T r < 0, otherwise g' = g

    g is the gradient that the optimiser is about to use and r that of the loss of rows drawn from a memory of the old
    tasks: g' is the nearest gradient to g along which that loss does not rise, to first order. It acts in a hook
    before the optimiser's step, so that `loss.backward()` and `optimizer.step()` stay as they are. Clipping before it
    changes nothing, since the projection of a multiple of g is that multiple of g'.

    r is the sum of the tasks' mean losses, each times its `loss_weight`, without balancing. It costs a forward and a
    backward pass over `rows` rows in each step.

    Args:
        replay: the memory; while it is empty, nothing is projected.
        rows: rows drawn for r in each step.

    Attributes:
        steps: steps so far with a memory.
        projected: how many of them were projected.

    Raises:
        ConfigurationError: a number of rows that is not allowed.

    Example:
        >>> import torch, lepton
        >>> from lepton.tasks import Classification
        >>> from lepton.transfer import AGEM, Replay
        >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())
        >>> model = lepton.LeptonModel(trunk, [Classification("old", classes=3), Classification("new", classes=2)])
        >>> replay = Replay(model.tasks.values(), capacity=100)
        >>> replay.add(torch.randn(30, 4), {"old": torch.arange(30) % 3})
        >>> criterion, optimizer = lepton.MultiTaskLoss(model), torch.optim.SGD(model.parameters(), lr=0.1)
        >>> agem = AGEM(replay, rows=16)
        >>> attached = agem.attach(criterion, optimizer)
        >>> outputs, task_weights = model(torch.randn(2, 4))
        >>> criterion(outputs, {"new": torch.tensor([0, 1])}, task_weights).backward()
        >>> optimizer.step()
        >>> agem.steps
        1
    """

    def __init__(self, replay: Replay, rows: int = 256) -> None:
        require(is_whole(rows), "AGEM", "rows", rows, "a whole number of at least 1")
        self.replay = replay
        self.rows = rows
        self.steps = 0
        self.projected = 0

    def attach(self, criterion: MultiTaskLoss, optimizer: Optimizer) -> Attached:
        """Project the gradients before every step of an optimiser.

        Args:
            criterion: that of the training; a Trainer's is `trainer.step.criterion`.
            optimizer: that of the training; a Trainer's is `trainer.optimizer`.
        """
        criterion.unlabelled.update(name for name in self.replay.tasks if name in criterion.model.task_names)

        def project(optimizer: Optimizer, arguments: Any, named: Any) -> None:
            self._project(criterion, optimizer)

        return Attached(optimizer.register_step_pre_hook(project))

    def _project(self, criterion: MultiTaskLoss, optimizer: Optimizer) -> None:
        if not len(self.replay):
            return
        self.steps += 1
        every = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        pairs = [(p, r) for p, r in zip(every, self._reference(criterion, every), strict=True) if r is not None]
        product = sum(float((p.grad * r).sum()) for p, r in pairs if p.grad is not None)
        square = sum(float(r.square().sum()) for _, r in pairs)
        if not (product < 0 < square):
            return
        self.projected += 1
        for p, r in pairs:
            change = r * (-product / square)
            p.grad = change if p.grad is None else p.grad + change

    def _reference(self, criterion: MultiTaskLoss, parameters: list[Tensor]) -> tuple[Tensor | None, ...]:
        """Return the gradient of the remembered rows' loss by every parameter."""
        model = criterion.model
        inputs, targets = to_device(self.replay.draw(self.rows), model.device)
        with torch.enable_grad(), no_balancing():
            outputs, _ = model(inputs)
            losses, _ = criterion.task_losses(outputs, targets)
            return torch.autograd.grad((losses * model.loss_weight).sum(), parameters, allow_unused=True)
