"""Rows of shards to inputs and targets: columns of tables, and rows of a torch Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from lepton.data._inputs import InputEncoder
from lepton.data._loading import Batch
from lepton.data._targets import LabelRule
from lepton.data.stream._reading import Encode
from lepton.data.stream._rows_encode import columns_of
from lepton.data.stream._shards import Shards
from lepton.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TableEncode", "encode_of"]


class TableEncode:
    """Inputs by the rules of an `InputEncoder`, targets by a `LabelRule` for each task.

    Args:
        encoder: fitted rules of the inputs, without pictures.
        rules: rules of the labels, none of masks, texts or recordings. A value that is no class counts as missing.

    Example:
        >>> from lepton.data import InputEncoder, LabelRule, describe_columns, read_table
        >>> table = read_table({"age": [20, 40], "paid": ["no", None]})
        >>> encoder = InputEncoder.fit(table, describe_columns(table.select(["age"])))
        >>> rule = LabelRule("paid", "classification", ("paid",), ("no", "yes"))
        >>> inputs, targets = TableEncode(encoder, [rule])(table)
        >>> inputs["numbers"].tolist(), targets["paid"].tolist()
        ([[-1.0], [1.0]], [0, -100])
    """

    def __init__(self, encoder: InputEncoder, rules: Sequence[LabelRule]) -> None:
        if encoder.images:
            raise ConfigurationError(
                f"TableEncode reads no pictures, but {encoder.images[0]!r} holds some: use PictureEncode."
            )
        self.encoder = encoder
        self.rules = list(rules)
        self.inputs = encoder.names
        self.columns = columns_of(encoder.names, rules)

    def __call__(self, table: pa.Table) -> Batch:
        """Return inputs and targets of N rows."""
        inputs = self.encoder.encode(table)
        if "tokens" in inputs:
            inputs["tokens"] = inputs["tokens"].long()
        return inputs, {rule.task: rule.encode(table)[0] for rule in self.rules}


class DatasetEncode:
    """The rows of a torch Dataset, by their numbers.

    Args:
        dataset: whose rows are pairs (inputs, targets), with targets a mapping.
    """

    columns = inputs = ("row",)

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, table: pa.Table) -> Batch:
        """Return inputs and targets of the rows that the column `row` names.

        Raises:
            DataError: a row is no such pair, or holds an input that is not finite.
        """
        rows = [self.dataset[row] for row in table.column("row").to_pylist()]
        if not all(isinstance(row, (tuple, list)) and len(row) == 2 and isinstance(row[1], dict) for row in rows):
            raise DataError("a row must be a pair (inputs, targets), with targets a dict from task to label")
        inputs, targets = default_collate(rows)
        for tensor in [inputs] if isinstance(inputs, Tensor) else inputs.values():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise DataError("an input is not finite")
        return inputs, targets


def encode_of(shards: Shards) -> Encode:
    """Return how the rows of a Dataset become batches.

    Raises:
        ConfigurationError: the shards hold columns, which need rules.
    """
    if shards.dataset is None:
        raise ConfigurationError("StreamLoader: encode is needed, such as a TableEncode, except for a torch Dataset.")
    return DatasetEncode(shards.dataset)
