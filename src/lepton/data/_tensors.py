"""A table held in memory, and a loader that cuts it into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lepton.data._loading import Batch, OrderedLoader
from lepton.errors import DataError

__all__ = ["TensorData", "TensorLoader"]


@dataclass(frozen=True)
class TensorData:
    """Inputs and targets of N rows in memory.

    Args:
        inputs: [N, ...], or a mapping from names to such tensors, for a trunk that takes several.
        targets: name -> tensor [N, ...].

    Example:
        >>> import torch
        >>> data = TensorData(torch.zeros(4, 2), {"a": torch.arange(4)})
        >>> len(data), data.rows(torch.tensor([1, 3])).targets["a"].tolist()
        (4, [1, 3])
    """

    inputs: Tensor | Mapping[str, Tensor]
    targets: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if isinstance(self.inputs, Mapping):
            if not self.inputs:
                raise DataError("there are no inputs.")
            sizes = {name: len(tensor) for name, tensor in self.inputs.items()}
            if len(set(sizes.values())) > 1:
                raise DataError(f"the inputs have different numbers of rows: {sizes}.")
        for name, target in self.targets.items():
            if len(target) != len(self):
                raise DataError(f"the inputs have {len(self)} rows, but the target {name!r} has {len(target)}.")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())) if isinstance(self.inputs, Mapping) else self.inputs)

    def rows(self, index: Tensor) -> TensorData:
        """Return the rows named by `index` [M]."""
        if isinstance(self.inputs, Mapping):
            inputs: Tensor | Mapping[str, Tensor] = {name: tensor[index] for name, tensor in self.inputs.items()}
        else:
            inputs = self.inputs[index]
        return TensorData(inputs, {name: target[index] for name, target in self.targets.items()})

    def batch(self, index: Tensor) -> tuple[Tensor | Mapping[str, Tensor], dict[str, Tensor]]:
        """Return inputs and targets of the rows named by `index` [M], as a loader yields them."""
        rows = self.rows(index)
        return rows.inputs, dict(rows.targets)

    def only(self, *names: str) -> TensorData:
        """Return the same rows with the targets of the named tasks."""
        return TensorData(self.inputs, {name: self.targets[name] for name in names})


class TensorLoader(OrderedLoader):
    """Iterates over `TensorData` in batches; one pass is an epoch, in an order fixed by the seed and the epoch.

    Indexing whole batches out of tensors costs a small part of what a DataLoader spends on collating rows. The
    position, also within an epoch, is in `state_dict`.

    Args:
        data: the rows.
        batch_size: rows per batch.
        shuffle: whether every epoch has a new order.
        seed: with the epoch's number, fixes the order.
        drop_last: leave out a last batch that is not full.
        rank: number of this process among those that share the rows, from 0.
        world_size: how many processes share the rows: batch g of all together is that of one process with so many
            times the batch size.

    Example:
        >>> import torch
        >>> data = TensorData(torch.arange(5.0)[:, None], {"a": torch.arange(5)})
        >>> [len(inputs) for inputs, targets in TensorLoader(data, batch_size=2)]
        [2, 2, 1]
    """

    def __init__(
        self,
        data: TensorData,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        order: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "drop_last": drop_last}
        super().__init__(len(data), batch_size, **order, rank=rank, world_size=world_size)
        self.data = data

    def _read(self, batches: Sequence[Tensor], first: int) -> Iterable[Batch]:
        return map(self.data.batch, batches)

    def _generator(self) -> torch.Generator:
        # Of its own: recorded results depend on the orders that it draws.
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
