"""Rows of shards to inputs and targets: columns of tables, and rows of a torch Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from lepton.data._audio_rows import AudioRows
from lepton.data._image_rows import ImageRows
from lepton.data._input_rows import table_rows
from lepton.data._inputs import InputEncoder
from lepton.data._loading import Batch
from lepton.data._targets import LabelRule
from lepton.data.stream._reading import Encode
from lepton.data.stream._shards import Shards
from lepton.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PictureEncode", "SoundEncode", "TableEncode", "encode_of"]


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
        self.columns = list(dict.fromkeys([*encoder.names, *(name for rule in rules for name in rule.columns)]))

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


class PictureEncode:
    """Pictures, what else an `InputEncoder` reads beside them, and targets.

    Args:
        encoder: fitted rules of the inputs, with at least one column of pictures.
        rules: rules of the labels, none of masks, texts or recordings.
        size: height and width of all pictures.
        one_image: whether the model takes one picture for each row, [C, H, W]; otherwise K of them, [K, C, H, W].
    """

    def __init__(
        self, encoder: InputEncoder, rules: Sequence[LabelRule], *, size: tuple[int, int], one_image: bool = True
    ) -> None:
        self.encoder = encoder
        self.rules = list(rules)
        self.size = size
        self.one_image = one_image
        self.inputs = encoder.names
        self.columns = list(dict.fromkeys([*encoder.names, *(name for rule in rules for name in rule.columns)]))

    def __call__(self, table: pa.Table) -> Batch:
        """Return inputs and targets of N rows.

        Raises:
            DataError: a picture is not there or broken.
        """
        targets = {rule.task: rule.encode(table)[0] for rule in self.rules}
        rows = table_rows(self.encoder, table, targets, image_size=self.size, one_image=self.one_image)
        assert isinstance(rows, ImageRows)
        found: Batch = default_collate([rows[row] for row in range(len(rows))])
        return found


class SoundEncode:
    """Recordings, brought to one rate and padded to the longest of their window, and targets.

    Args:
        column: the column of their paths.
        rules: rules of the labels, none of masks, texts or recordings.
        sample_rate: samples a second.
        max_seconds: longest recording; longer ones are cut.
    """

    def __init__(self, column: str, rules: Sequence[LabelRule], *, sample_rate: int, max_seconds: float = 20.0) -> None:
        self.rules = list(rules)
        self.sample_rate = sample_rate
        self.max_seconds = max_seconds
        self.inputs = (column,)
        self.columns = list(dict.fromkeys([column, *(name for rule in rules for name in rule.columns)]))

    def __call__(self, table: pa.Table) -> Batch:
        """Return `waveform` [N, S] and `samples` [N], and targets.

        Raises:
            DataError: a recording is not there or broken.
        """
        paths = table.column(self.inputs[0]).to_pylist()
        if None in paths:
            raise DataError("there is no path of a recording")
        targets = {rule.task: rule.encode(table)[0] for rule in self.rules}
        rows = AudioRows(paths, sample_rate=self.sample_rate, max_seconds=self.max_seconds, targets=targets)
        return rows.batch(torch.arange(len(rows)))
