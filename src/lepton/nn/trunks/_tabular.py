"""`TabularTrunk`: numbers, categories and short texts of a table to features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError, DataError, is_whole, require
from lepton.nn._prunable import Width
from lepton.nn.trunks._columns import CategoryColumns, NumberColumns, TextColumns
from lepton.nn.trunks._residual import ResidualMLP, check_mlp

__all__ = ["TabularTrunk"]


class TabularTrunk(nn.Module):
    """Rows of a table to features [B, width]: every column is embedded, then a residual network reads them all.

    Numbers get a piecewise-linear encoding between their knots beside the value itself and a flag for a missing
    value (Gorishniy, Rubachev, Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning", 2022).
    Every category has an embedding. A text is the mean of the embeddings of its
    hashed n-grams.

    Args:
        knots: for each of the F number columns a strictly increasing list of at least 2 values in the units of
            `numbers`, for example quantiles of the training rows; a column with 2 of them enters linearly.
        categories: for each of the G category columns the number of its indices, index 0 (unknown or missing)
            included.
        texts: number of text columns H.
        text_buckets: number of n-gram ids, the padding 0 included.
        width: number of features that the trunk gives.
        depth: number of residual blocks.
        dropout: share of the hidden features that training sets to zero, in [0, 1).
        embedding: numbers that a number column or a category column becomes.
        text_embedding: numbers that a text column becomes.
        unknown_rate: share of the categories that training replaces by the unknown, so that a category which the
            training rows do not have is met with an embedding that was trained; in [0, 1).

    Attributes:
        out_features: `width`.

    Raises:
        ConfigurationError: a size that is not allowed, or no column at all.

    Example:
        >>> import torch
        >>> trunk = TabularTrunk([[-1.0, 0.0, 1.0]], [5, 12], width=16)
        >>> trunk(numbers=torch.zeros(4, 1), categories=torch.zeros(4, 2, dtype=torch.int64)).shape
        torch.Size([4, 16])
    """

    def __init__(
        self,
        knots: Sequence[Sequence[float]] = (),
        categories: Sequence[int] = (),
        *,
        texts: int = 0,
        text_buckets: int = 4096,
        width: int = 256,
        depth: int = 3,
        dropout: float = 0.1,
        embedding: int = 16,
        text_embedding: int = 64,
        unknown_rate: float = 0.01,
    ) -> None:
        super().__init__()
        check_mlp("TabularTrunk", width, depth, dropout)
        for name, value, least in [
            ("texts", texts, 0),
            ("text_buckets", text_buckets, 2),
            ("embedding", embedding, 1),
            ("text_embedding", text_embedding, 1),
        ]:
            allowed = f"an integer >= {least}"
            require(is_whole(value, least), "TabularTrunk", name, value, allowed)
        require(0 <= unknown_rate < 1, "TabularTrunk", "unknown_rate", unknown_rate, "in [0, 1)")
        if not (knots or categories or texts):
            raise ConfigurationError("TabularTrunk: there are no columns: give knots, categories or texts.")
        self.numbers = NumberColumns(knots, embedding) if knots else None
        self.categories = CategoryColumns(categories, embedding, unknown_rate) if categories else None
        self.text = TextColumns(texts, text_buckets, text_embedding) if texts else None
        parts = [part for part in (self.numbers, self.categories, self.text) if part is not None]
        self.mlp = ResidualMLP(sum(part.out_features for part in parts), width, depth, dropout)

    @property
    def out_features(self) -> int:
        """`width`."""
        return self.mlp.width

    def prunable(self) -> list[Width]:
        """Return the width that may shrink: see `Prunable`. The columns' embeddings stay as they are."""
        return self.mlp.prunable()

    def sizes(self) -> dict[str, Any]:
        """Return the options that say the present widths: see `Prunable`."""
        return {"width": self.mlp.width}

    def forward(
        self,
        numbers: Tensor | None = None,
        missing: Tensor | None = None,
        categories: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """Return the features [B, width] of a batch of rows; what the trunk has no columns for is left out.

        Args:
            numbers: [B, F], standardised and finite; 0 where missing.
            missing: [B, F], true or 1 where a number is missing; None where none is.
            categories: int64 [B, G]; an index that a column does not have counts as unknown.
            text: int64 [B, H, L], n-gram ids; 0, and an id that is not below `text_buckets`, is padding. Any L.

        Raises:
            DataError: a tensor that the columns need is not given, or has another number of columns.
        """
        found = []
        if self.numbers is not None:
            values = _columns("numbers", numbers, self.numbers.columns, 2)
            flags = None if missing is None else _columns("missing", missing, self.numbers.columns, 2)
            found.append(self.numbers(values, flags))
        if self.categories is not None:
            found.append(self.categories(_columns("categories", categories, self.categories.columns, 2)))
        if self.text is not None:
            found.append(self.text(_columns("text", text, self.text.columns, 3)))
        return self.mlp(torch.cat(found, dim=1))  # type: ignore[no-any-return]


def _columns(name: str, tensor: Tensor | None, columns: int, ndim: int) -> Tensor:
    """Return the tensor if it has the columns that the trunk was built for."""
    if tensor is None or tensor.ndim != ndim or tensor.shape[1] != columns:
        shape = f"[B, {columns}]" if ndim == 2 else f"[B, {columns}, L]"
        got = "it is not given" if tensor is None else f"it is {list(tensor.shape)}"
        raise DataError(f"TabularTrunk: {name} must be {shape}, as the trunk was built, but {got}.")
    return tensor
