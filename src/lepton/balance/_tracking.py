"""Balancers that follow every task's gradient over time."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lepton.balance.base import Balancer
from lepton.errors import ConfigurationError

__all__ = ["TrackingBalancer", "scale_of_rows"]


class TrackingBalancer(Balancer):
    """A balancer with a state for every task and shared parameter, so only for the view `parameters`.

    The state `_tracked` is [P, T]: P numbers in the shared parameters, T tasks last. It is created in the first
    forward pass, when P is known, or when a state is loaded.
    """

    uses_jacobian = True
    views = frozenset({"parameters"})
    _tracked: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_tracked", None)

    def bind_parameters(self, number: int, device: torch.device) -> None:
        """Create the state for `number` shared parameters; see `Balancer.bind_parameters`."""
        assert self.n_tasks is not None, "bind() comes first"
        if self._tracked is None:
            # Transposed, so that a task's numbers lie side by side.
            self._tracked = torch.zeros(self.n_tasks, number, device=device).T
        if len(self._tracked) != number:
            raise ConfigurationError(
                f"{type(self).__name__} follows {len(self._tracked)} numbers in the shared parameters and was given "
                f"{number}: the trunk, or shared=, has changed. Create a new balancer."
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = state_dict.get(prefix + "_tracked")
        if found is not None and self.n_tasks in (None, found.shape[-1]):
            self.bind(found.shape[-1])
            if self._tracked is None or self._tracked.shape != found.shape:
                # Not like `found`, which a file holds the other way round: sums in another order would round otherwise.
                self._tracked = torch.zeros(*reversed(found.shape), device=self._ones.device).T
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def tracked(self) -> Tensor:
        """The state as a matrix [T, P]."""
        assert self._tracked is not None, "bind_parameters() comes first"
        return self._tracked.T

    @abstractmethod
    def track(self, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights [T] and the rows [T, P] that they combine; see `Balancer.track`."""


def scale_of_rows(jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the norm of each task's gradient [T], and which tasks are present: those with a gradient."""
    norms = torch.linalg.vector_norm(jacobian, dim=1)
    return norms, norms > 0
