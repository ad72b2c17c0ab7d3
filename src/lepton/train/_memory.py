"""When memory runs out: micro-batches are halved, and the step is begun again as if nothing had been."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lepton.errors import TrainingError, nearest, require
from lepton.train._processes import Processes

__all__ = ["Buffers", "MemoryPolicy", "MicroBatches", "Sparing", "is_out_of_memory", "is_process_lost", "without_rows"]

MemoryPolicy = Literal["halve", "stop"]
"""What happens when memory runs out in a step."""

_SAYINGS = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

_FAREWELLS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")

log = logging.getLogger("lepton")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or what it came from, says that memory ran out: only CUDA's has a class of its own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def is_process_lost(error: BaseException) -> bool:
    """Return whether an error says that another process, which this one waited for, has ended."""
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _FAREWELLS)


class Sparing(nn.Module):
    """A forward pass in one of several processes: where memory runs out it goes on without rows.

    The others wait for this process's part in their sums over all. So it takes part to the end of a step that none of
    them will use, and all begin it again together.

    Args:
        model: whose forward pass it is.

    Attributes:
        error: that memory ran out in this step; None if it did not.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.error: BaseException | None = None

    def forward(self, inputs: Any) -> Any:
        """Return what the model does: for all rows, or for none."""
        if self.error is None:
            try:
                return self.model(inputs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or _rows(inputs) is None:
                    raise
                self.error = error.with_traceback(None)  # which holds on to the tensors of the attempt
        return self.model(without_rows(inputs))


class MicroBatches:
    """Cuts the batches of a step into pieces, twice as many each time that memory runs out.

    Their gradients add up to those of the whole batches, up to rounding, in models whose rows do not see each other
    (BatchNorm) and that draw no random numbers (dropout).

    Args:
        policy: `"halve"`, or `"stop"` with an error.
        processes: those that train together, which all take equally many pieces; None for this one alone.

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

    def __init__(self, policy: MemoryPolicy = "halve", processes: Processes | None = None) -> None:
        names = get_args(MemoryPolicy)
        known = policy in names
        require(known, "Trainer", "on_out_of_memory", policy, f"one of {list(names)}{nearest(str(policy), names)}")
        self.policy = policy
        self.processes = Processes() if processes is None else processes
        self.pieces = 1

    def cut(self, batches: Sequence[Any]) -> list[Any]:
        """Return the pieces of all batches, in order; a batch that cannot be cut stays whole."""
        if self.pieces == 1:
            return list(batches)
        together = self.processes.together
        return [piece for batch in batches for piece in _pieces(batch, self.pieces, all_of_them=together)]

    def halve(self, error: BaseException | None, batches: Sequence[Any]) -> None:
        """Make the pieces half as large, in all processes.

        Args:
            error: that ended the attempt; None if that was another process's.
            batches: of the step.

        Raises:
            TrainingError: memory ran out, and nothing can be halved, or nothing is to be.
        """
        sizes = [size for found in self.processes.gather([_rows(batch) for batch in batches]) for size in found]
        rows = max(size or 0 for size in sizes)
        now = -(-rows // self.pieces)
        reason = self._why_not(now, sizes)
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

    def _why_not(self, rows: int, sizes: Sequence[int | None]) -> str:
        if self.policy == "stop":
            return "on_out_of_memory is 'stop'"
        if None in sizes:
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


def _pieces(batch: Any, count: int, *, all_of_them: bool) -> list[Any]:
    """Return the pieces of a batch that have rows, or all of them."""
    rows = _rows(batch)
    if rows is None:
        return [batch]
    size = max(1, -(-rows // count))
    firsts = range(0, size * count if all_of_them else rows, size)
    return [pytree.tree_map(lambda leaf, first=first: leaf[first : first + size], batch) for first in firsts]


def without_rows(batch: Any) -> Any:
    """Return a nest of tensors with a row each in the same shapes, but without rows."""
    return pytree.tree_map(lambda leaf: leaf[:0], batch)


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
