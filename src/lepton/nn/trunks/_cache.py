"""What a decoder remembers of the tokens that it has read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Cache"]

ROOM = 1.5
"""Room that new storage has, in multiples of what it must hold at once."""


class Cache:
    """Keys and values of every layer, so that one more token costs the computation of one position.

    All layers lie in one storage, one token behind the other: a new token is written behind the last one, and a beam
    that is reordered copies the rows into a second storage, which the next time is the first. Storage anew for each
    token would take longer, in page faults, than the network.

    Args:
        layers: for each block the keys and the values of the tokens so far, [B, H, L, d] each.
        filled: [B, L] bool, which places hold a token: texts of unlike length leave places empty.

    Attributes:
        filled: [B, L] bool, likewise, with the tokens that were added.
        lengths: [B], number of tokens that were read, which is the position of the next one.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], filled: Tensor) -> None:
        self.filled = filled
        self.lengths = filled.sum(1)
        kept = torch.stack([torch.stack(pair) for pair in layers])
        self._kept = kept.permute(4, 2, 0, 1, 3, 5).contiguous()  # [L, B, layers, 2, H, d]
        self._storage = self._kept.flatten()
        self._spare = self._storage[:0]

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in their order.

        Args:
            rows: int64 [B'], numbers of rows; one may be given several times, or not at all.
        """
        shape = (self._kept.shape[0], len(rows), *self._kept.shape[2:])
        if self._spare.numel() < math.prod(shape):
            self._spare = self._kept.new_empty(int(ROOM * math.prod(shape)))
        moved = self._spare[: math.prod(shape)].view(shape)
        torch.index_select(self._kept, 1, rows, out=moved)
        self._kept, self._storage, self._spare = moved, self._spare, self._storage
        self.filled, self.lengths = self.filled[rows], self.lengths[rows]

    def add(self) -> None:
        """Make a place for one more token in every row, of which `extend` then stores the keys and values."""
        self.filled = torch.cat([self.filled, torch.ones_like(self.filled[:, :1])], 1)
        self.lengths = self.lengths + 1
        shape = (self._kept.shape[0] + 1, *self._kept.shape[1:])
        if self._storage.numel() < math.prod(shape):
            self._storage = self._kept.new_empty(int(ROOM * math.prod(shape)))
            self._storage[: self._kept.numel()] = self._kept.flatten()
        self._kept = self._storage[: math.prod(shape)].view(shape)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values [B, H, 1, d] of the newest token, and return those of all, [B, H, L, d]."""
        self._kept[-1, :, layer, 0] = keys[:, :, 0]
        self._kept[-1, :, layer, 1] = values[:, :, 0]
        return self._kept[:, :, layer, 0].permute(1, 2, 0, 3), self._kept[:, :, layer, 1].permute(1, 2, 0, 3)
