"""Batches of new rows with rows out of a memory behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lepton.errors import ConfigurationError, is_whole, require
from lepton.evaluate import checked_batch

if TYPE_CHECKING:
    from lepton.transfer._replay import Replay

__all__ = ["MixedBatches"]


class MixedBatches:
    """Iterates over batches of new rows and puts rows of a memory behind each; see `Replay.mix`.

    A task that a row has no label of gets the task's missing value there: one batch, and every loss is a mean over
    its own labels.

    Args:
        replay: the memory; while it is empty, the batches pass as they are.
        batches: of the new rows.
        rows: old rows in each batch.
    """

    def __init__(self, replay: Replay, batches: Iterable[tuple[Any, Mapping[str, Tensor]]], rows: int) -> None:
        require(is_whole(rows), "Replay", "rows", rows, "a whole number of at least 1")
        self.replay = replay
        self.batches = batches
        self.rows = rows

    def __len__(self) -> int:
        if not isinstance(self.batches, Sized):
            raise ConfigurationError("these batches have no length: pass max_steps to the Trainer.")
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        for batch in self.batches:
            inputs, targets = checked_batch(batch)
            yield (inputs, dict(targets)) if not len(self.replay) else self._joined(inputs, targets)

    def _joined(self, inputs: Any, targets: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        old_inputs, old_targets = self.replay.draw(self.rows)
        size = len(pytree.tree_leaves(inputs)[0])
        both = pytree.tree_map(lambda new, old: torch.cat([new, old.to(new.device)]), inputs, old_inputs)
        found = {}
        for name in dict.fromkeys([*targets, *old_targets]):
            new, old = targets.get(name), old_targets.get(name)
            like = new if new is not None else old
            assert like is not None
            missing = self.replay.missing(name)
            new = like.new_full((size, *like.shape[1:]), missing) if new is None else new
            old = like.new_full((self.rows, *like.shape[1:]), missing) if old is None else old.to(new.device)
            found[name] = torch.cat([new, old])
        return both, found
