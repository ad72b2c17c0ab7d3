"""When memory runs out: micro-batches are halved, and the step is begun again as if nothing had been."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lepton.errors import TrainingError, nearest, require
from lepton.gradients import is_distributed

__all__ = ["Buffers", "MemoryPolicy", "MicroBatches", "is_out_of_memory"]

MemoryPolicy = Literal["halve", "stop"]
"""What happens when memory runs out in a step."""

_SAYINGS = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

log = logging.getLogger("lepton")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or what it came from, says that memory ran out: only CUDA's has a class of its own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


class MicroBatches:
    """Cuts the batches of a step into pieces, twice as many each time that memory runs out.

    Their gradients add up to those of the whole batches, up to rounding, in models whose rows do not see each other
    (BatchNorm) and that draw no random numbers (dropout).

    Args:
        policy: `"halve"`, or `"stop"` with an error.

    Attributes:
        pieces: into how many a batch is cut.

    Raises:
        ConfigurationError: an unknown policy.

    Example:
        >>> import torch
        >>> micro = MicroBatches("halve")
        >>> batch = torch.zeros(5, 2), {"a": torch.arange(5)}
        >>> micro.halve(MemoryError(), [batch])
        >>> [targets["a"].tolist() for _, targets in micro.cut([batch])]
        [[0, 1, 2], [3, 4]]
    """

    def __init__(self, policy: MemoryPolicy = "halve") -> None:
        names = get_args(MemoryPolicy)
        known = policy in names
        require(known, "Trainer", "on_out_of_memory", policy, f"one of {list(names)}{nearest(str(policy), names)}")
        self.policy = policy
        self.pieces = 1

    def cut(self, batches: Sequence[Any]) -> list[Any]:
        """Return the pieces of all batches, in order; a batch that cannot be cut stays whole."""
        if self.pieces == 1:
            return list(batches)
        return [piece for batch in batches for piece in _pieces(batch, self.pieces)]

    def halve(self, error: BaseException, batches: Sequence[Any]) -> None:
        """Make the pieces half as large.

        Args:
            error: that ended the attempt.
            batches: of the step.

        Raises:
            TrainingError: memory ran out, and nothing can be halved, or nothing is to be.
        """
        rows = max(_rows(batch) or 0 for batch in batches)
        now = -(-rows // self.pieces)
        reason = self._why_not(now, batches)
        if reason:
            raise TrainingError(
                f"memory ran out in a step on micro-batches of {now} rows, and {reason}. The weights are those from "
                "before the step. Lower batch_size, or shorten what a row holds."
            ) from error
        self.pieces *= 2
        log.warning(
            "memory ran out on micro-batches of %d rows: from now on a step takes pieces of %d, and adds their "
            "gradients up (with BatchNorm or dropout the result is another)",
            now,
            -(-rows // self.pieces),
        )

    def _why_not(self, rows: int, batches: Sequence[Any]) -> str:
        if self.policy == "stop":
            return "on_out_of_memory is 'stop'"
        if is_distributed():
            return "one of several processes cannot take more micro-batches than the others"
        if any(_rows(batch) is None for batch in batches):
            return "these inputs cannot be cut: not all are tensors with a row for each label"
        return "" if rows > 1 else "a single row cannot be halved"

    def state_dict(self) -> dict[str, Any]:
        """Return how small the pieces are."""
        return {"pieces": self.pieces}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with pieces of that size."""
        self.pieces = state["pieces"]


def _rows(batch: Any) -> int | None:
    """Return how many rows each tensor of a batch has; None if that differs, or something else is among them."""
    leaves = pytree.tree_leaves(batch)
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves):
        return None
    sizes = {len(leaf) for leaf in leaves}
    return sizes.pop() if len(sizes) == 1 else None


def _pieces(batch: Any, count: int) -> list[Any]:
    rows = _rows(batch)
    if rows is None:
        return [batch]
    size = max(1, -(-rows // count))
    return [
        pytree.tree_map(lambda leaf, first=first: leaf[first : first + size], batch) for first in range(0, rows, size)
    ]


class Buffers:
    """The buffers of modules, such as BatchNorm's statistics, from before a step: a step that is left out leaves none.

    Args:
        modules: whose buffers are kept.
    """

    def __init__(self, *modules: nn.Module) -> None:
        every = [part for module in modules for part in module.modules()]
        self._places = [(part, name) for part in every for name, buffer in part._buffers.items() if buffer is not None]
        self._kept: list[Tensor] = []

    def _now(self) -> list[Tensor]:
        """Return the buffers, which a module may have exchanged meanwhile."""
        return [buffer for part, name in self._places if (buffer := part._buffers[name]) is not None]

    @torch.no_grad()
    def keep(self) -> None:
        """Note what the buffers hold."""
        if self._kept:
            torch._foreach_copy_(self._kept, self._now())
        else:
            self._kept = [buffer.clone() for buffer in self._now()]

    @torch.no_grad()
    def restore(self, where: Tensor | None = None) -> None:
        """Put back what was noted; where a flag on the device says so, if there is one."""
        for buffer, kept in zip(self._now(), self._kept, strict=True):
            buffer.copy_(kept if where is None else torch.where(where, kept, buffer))
