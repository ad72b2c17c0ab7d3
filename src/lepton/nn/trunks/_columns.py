"""Columns of a table to vectors: numbers, categories and texts, each kind for all its columns at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.errors import ConfigurationError, is_whole

__all__ = ["CategoryColumns", "NumberColumns", "TextColumns"]


class NumberColumns(nn.Module):
    """Piecewise-linear encodings of F number columns, each with a linear embedding of its own.

    With the knots b_0 < ... < b_K of a column, its value x becomes the K numbers

        e_t = min(max((x - b_(t-1)) / (b_t - b_(t-1)), 0), 1),    t = 1 .. K,

    beside x itself, which goes on linearly outside the knots, and the flag of a missing value. A column with K = 1
    is x and the flag alone. Columns with fewer knots are padded with intervals that are zero everywhere.

    Source: Gorishniy, Rubachev, Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning", 2022; there
    the first and the last number are not bounded, which makes them large where the outer interval is narrow.

    Args:
        knots: for each column its strictly increasing knots.
        size: numbers that each column becomes.
    """

    low: Tensor
    rate: Tensor

    def __init__(self, knots: Sequence[Sequence[float]], size: int) -> None:
        super().__init__()
        intervals = max(len(column) - 1 if len(column) > 2 else 0 for column in knots)
        low, rate = torch.zeros(2, len(knots), intervals, dtype=torch.float64)
        for place, column in enumerate(knots):
            found = _check_knots(place, column)
            if len(found) > 2:
                low[place, : len(found) - 1] = found[:-1]
                rate[place, : len(found) - 1] = 1 / found.diff()
        # In double until here: knots that differ by less than float32 can tell still have a finite rate.
        self.register_buffer("low", low.float())
        self.register_buffer("rate", rate.float())
        self.columns = len(knots)
        self.out_features = len(knots) * size
        bound = torch.tensor([1 / math.sqrt(len(column) + 1) for column in knots])[:, None, None]
        self.weight = nn.Parameter(bound * torch.empty(len(knots), intervals + 2, size).uniform_(-1, 1))

    def forward(self, numbers: Tensor, missing: Tensor | None) -> Tensor:
        """Return the embeddings [B, F * size] of values [B, F], of which `missing` [B, F] flags some."""
        values = numbers.to(self.weight.dtype)[..., None]
        flags = torch.zeros_like(values) if missing is None else missing.to(values.dtype)[..., None]
        pieces = ((values - self.low) * self.rate).clamp(0, 1)
        encoded = torch.cat([pieces, values, flags], dim=-1)
        return torch.bmm(encoded.transpose(0, 1), self.weight).transpose(0, 1).flatten(1)


def _check_knots(place: int, column: Sequence[float]) -> Tensor:
    found = torch.tensor(list(column), dtype=torch.float64)
    if len(found) < 2 or not bool(torch.isfinite(found).all()) or not bool((found.diff() > 0).all()):
        raise ConfigurationError(
            f"TabularTrunk: the knots of number column {place} must be at least 2 finite numbers, each larger than the "
            f"one before, but they are {list(column)}."
        )
    return found


class CategoryColumns(nn.Module):
    """Embeddings of G category columns in one table.

    One look-up takes some 0.6 of the time that a module per column takes, which is why all embeddings have one size.
    An index that a column does not have is read as 0, the unknown: in a shared table it would otherwise be a category
    of another column.

    Args:
        counts: number of categories of each column, the unknown included.
        size: numbers that each column becomes.
        unknown_rate: share of the categories that training replaces by the unknown.
    """

    counts: Tensor
    offsets: Tensor

    def __init__(self, counts: Sequence[int], size: int, unknown_rate: float) -> None:
        super().__init__()
        for place, count in enumerate(counts):
            _check_count(place, count)
        self.unknown_rate = unknown_rate
        self.columns = len(counts)
        self.out_features = len(counts) * size
        self.register_buffer("counts", torch.tensor(list(counts)))
        self.register_buffer("offsets", torch.tensor([0, *counts]).cumsum(0)[:-1])
        self.table = nn.Parameter(0.1 * torch.randn(sum(counts), size))

    def forward(self, categories: Tensor) -> Tensor:
        """Return the embeddings [B, G * size] of indices [B, G]."""
        known = (categories >= 0) & (categories < self.counts)
        if self.training and self.unknown_rate > 0:
            known = known & (torch.rand(categories.shape, device=categories.device) >= self.unknown_rate)
        return F.embedding(categories * known + self.offsets, self.table).flatten(1)


def _check_count(place: int, count: object) -> None:
    if not is_whole(count):
        raise ConfigurationError(
            f"TabularTrunk: category column {place} must have a whole number of at least 1 category, the unknown "
            f"included, but it has {count!r}."
        )


class TextColumns(nn.Module):
    """Means of the embeddings of hashed n-grams; every text column has embeddings of its own.

    Args:
        texts: number of text columns H.
        buckets: ids per column, the padding 0 included.
        size: numbers that each column becomes.
    """

    offsets: Tensor

    def __init__(self, texts: int, buckets: int, size: int) -> None:
        super().__init__()
        self.columns = texts
        self.buckets = buckets
        self.out_features = texts * size
        self.register_buffer("offsets", torch.arange(texts)[:, None] * buckets)
        # Small, since an n-gram that training does not meet keeps what it begins with.
        self.table = nn.Parameter(0.1 * torch.randn(texts * buckets, size))

    def forward(self, text: Tensor) -> Tensor:
        """Return the means [B, out_features] over the ids [B, H, L] that are no padding; zero where all are."""
        inside = (text > 0) & (text < self.buckets)
        rows = (text + self.offsets) * inside  # row 0 is the padding of the first column, and of every other
        if torch.compiler.is_exporting():  # ONNX has no bags
            found = F.embedding(rows, self.table) * inside[..., None]
            return (found.sum(2) / inside.sum(2, keepdim=True).clamp(min=1)).flatten(1)
        if not rows.shape[-1]:
            return self.table.new_zeros(len(rows), self.out_features)
        bags: Tensor = F.embedding_bag(rows.flatten(0, 1), self.table, mode="mean", padding_idx=0)
        return bags.reshape(len(rows), -1)
