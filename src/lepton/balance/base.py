"""What a balancer is: the two sides of a step that it may act on, and the state it may keep."""

from __future__ import annotations

import itertools
import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError

__all__ = ["VIEWS", "Balancer", "GradientBalancer", "LossBalancer"]

VIEWS = frozenset({"features", "fork_layer", "parameters"})
"""The views of a task's gradient from which a Gramian can be formed."""

_live: weakref.WeakValueDictionary[int, Balancer] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


class Balancer(nn.Module):
    """Turns what is known of the tasks into weights, on the side of the losses, of the gradients, or both.

    A step calls the hooks in this order. Each has a default that leaves the tasks as they are, so that a
    method writes only the side it acts on, and compositions pass the others through.

    1. `task_weights()` before the batch: the weights [T] that the model returns beside its outputs;
    2. `combine(losses, weights, present)` in the criterion: the scalar that is differentiated;
    3. `observe(losses, present)` when backward begins: state that follows the losses;
    4. `weights(gramian, losses=...)` at the fork, only where `uses_gramian`: the weights [T] of the trunk's
       gradient; or `masks(pulls)` in its place, where `uses_signs`: a weight for each task and feature; or
       `track(jacobian)`, where `uses_jacobian`: weights, and what they combine.

    Hooks 3 and 4 run eagerly, also under `torch.compile`, without recording gradients, once per backward.
    They keep their state in buffers of this module and may update them in place: the fork restores them for a
    step that did not happen (a step that `GradScaler` skipped) and for all but the last micro-batch of an
    accumulation window. A task that is absent from the batch is a zero row of the Gramian and `False` in
    `present`: it must not change what the others get, nor its own state.

    Attributes:
        aliases: other names that people know the method by, which a configuration takes as well; upper and lower case,
            `_` and `-` do not matter there.
        task_names: the tasks' names, in the order of every tensor [T]; empty where they are not known.
        wants_losses: `weights` needs the keyword `losses`; the criterion provides them.
        logarithmic: `combine` takes the logarithms of the losses itself, so they must be positive and `Log` refuses.
        reevaluates: `reobserve` wants the losses of the same batch after the optimiser's step; the Trainer
            provides them, a plain loop need not.
        uses_signs: the fork gives the balancer what each task wants of each feature, and no Gramian.
        uses_jacobian: the fork gives the balancer the gradients themselves, [T, P], in the view `parameters`.
        replaces_gradient: what `track` combines is not this batch's gradients.
        views: the views of the gradient that the method can be given.
    """

    aliases: ClassVar[tuple[str, ...]] = ()
    wants_losses: bool = False
    reevaluates: bool = False
    logarithmic: bool = False
    uses_signs: bool = False
    uses_jacobian: bool = False
    replaces_gradient: bool = False
    views: frozenset[str] = VIEWS
    _ones: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.n_tasks: int | None = None
        self.task_names: tuple[str, ...] = ()
        self._register()

    # -- identity ---------------------------------------------------------------------------------------------
    def _register(self) -> None:
        number = next(_numbers)
        # A CPU tensor and not an int: torch.compile would guard on the int and recompile for every model.
        self.handle = torch.tensor(number, dtype=torch.int64)
        self.passes = torch.zeros((), dtype=torch.int64)  # compiled forward passes through the fork
        _live[number] = self

    @staticmethod
    def of(handle: Tensor) -> Balancer:
        """Return the balancer that owns `handle`, a CPU tensor."""
        return _live[int(handle)]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Reached by copy.deepcopy and by unpickling: a copy must not drive the original's state.
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._register()

    def check_view(self, gradients: str) -> None:
        """Refuse a view of the gradients that the method cannot be given.

        Raises:
            ConfigurationError: with the views that it can.
        """
        if (self.uses_gramian or self.uses_jacobian) and gradients not in self.views:
            raise ConfigurationError(
                f"{type(self).__name__} works in the views {sorted(self.views)}, not in {gradients!r}: "
                f"choose gradients={min(self.views)!r}.",
                where=("gradients",),
            )

    # -- state ------------------------------------------------------------------------------------------------
    def bind(self, n_tasks: int, names: Sequence[str] = ()) -> Self:
        """Fix the number of tasks and create the state that depends on it.

        The model calls it; calling it again with the same number changes nothing.

        Args:
            n_tasks: T.
            names: the tasks' names, where they are known.

        Raises:
            ConfigurationError: the balancer already serves another number of tasks, or tasks of other names.
        """
        if self.n_tasks is None:
            self.n_tasks = n_tasks
            self.task_names = tuple(names)
            self.register_buffer("_ones", torch.ones(n_tasks), persistent=False)
            self._build(n_tasks)
        elif self.n_tasks != n_tasks:
            raise ConfigurationError(
                f"{type(self).__name__} serves {self.n_tasks} tasks and was given {n_tasks}: "
                "create one balancer for each model."
            )
        elif names and self.task_names and tuple(names) != self.task_names:
            raise ConfigurationError(
                f"{type(self).__name__} serves the tasks {list(self.task_names)} and was given {list(names)}: create "
                "one balancer for each model, and keep the order of its tasks."
            )
        self.task_names = self.task_names or tuple(names)
        return self

    def _build(self, n_tasks: int) -> None:
        """Register the parameters and buffers whose shape depends on the number of tasks."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.n_tasks is None:  # state that depends on the tasks has them as its last dimension
            sizes = [value.shape[-1] for key, value in state_dict.items() if key.startswith(prefix) and value.ndim]
            if sizes:
                self.bind(sizes[0])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if tensor.is_floating_point() and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)  # model.bfloat16() must not round a balancer's state
            return moved

        super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]
        return self

    # -- hooks ------------------------------------------------------------------------------------------------
    @property
    def uses_gramian(self) -> bool:
        """Whether the fork must form the Gramian for this balancer."""
        return False

    @property
    def acts_at_fork(self) -> bool:
        """Whether the fork does anything for this balancer."""
        return self.uses_gramian or self.uses_signs or self.uses_jacobian

    def takes_logarithms(self, present: Tensor) -> Tensor:
        """Return of which of the present tasks [T] bool the logarithm of the loss is taken: it must not be negative."""
        return present if self.logarithmic else torch.zeros_like(present)

    def task_weights(self) -> Tensor:
        """Return the weights [T] on the losses that are known before the batch; ones by default."""
        assert self.n_tasks is not None, "bind() comes first"
        return self._ones

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            losses: [T], each multiplied by its task's `loss_weight`; zero where absent.
            weights: [T], what `task_weights` gave, as the user passed it on.
            present: [T] bool, the tasks that have labels in this batch.
        """
        del present
        return (losses * weights).sum()

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Update state that follows the losses; `losses` [T] is detached and covers all processes."""

    def reobserve(self, losses: Tensor, present: Tensor) -> None:
        """Update state from the losses [T] of the same batch after the optimiser's step."""

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return the weights [T] of the tasks' gradients on the trunk.

        Args:
            gramian: [T, T], inner products of the task gradients, float32 or float64, finite, scaled back to
                the user's loss; the row and column of an absent task are zero.
            losses: [T], detached losses; given if `wants_losses`.
        """
        del losses
        return torch.ones_like(gramian[0])

    def masks(self, pulls: Tensor) -> Tensor:
        """Return for each task and feature the weight [T, D] of the task's gradient there, where `uses_signs`.

        Args:
            pulls: [T, D], sum over the batch's rows of sign(z) c_k, z the features and c_k the task's gradient there;
                the row of an absent task is zero.
        """
        return torch.ones_like(pulls)

    def bind_parameters(self, number: int, device: torch.device) -> None:
        """Create the state for `number` P of numbers in the shared parameters, where `uses_jacobian`.

        Called in every forward pass; with the same number it changes nothing.

        Raises:
            ConfigurationError: the balancer already follows another number.
        """

    def track(self, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights [T] and rows [T, P]: the trunk gets the weighted sum of the rows, where `uses_jacobian`.

        Args:
            jacobian: [T, P], the tasks' gradients over the shared parameters, averaged over the processes and over
                the accumulation window so far, in the scale of the user's loss; finite, an absent task's row is zero.
        """
        return torch.ones_like(jacobian[:, 0]), jacobian


class LossBalancer(Balancer):
    """A balancer that acts on the losses alone: the fork is an identity and costs nothing."""


class GradientBalancer(Balancer):
    """A balancer that weighs the tasks' gradients on the trunk from their Gramian."""

    @property
    def uses_gramian(self) -> bool:
        """Always true."""
        return True

    @abstractmethod
    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return the weights [T] of the tasks' gradients on the trunk; see `Balancer.weights`."""
