"""Rows of a table as what a loader cuts into batches: tensors, or files that are read when they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from lepton.data._audio_encoder import AudioEncoder
from lepton.data._audio_loader import AudioLoader
from lepton.data._audio_rows import AudioRows
from lepton.data._encoders import Encoder
from lepton.data._image_loader import ImageLoader
from lepton.data._image_rows import ImageRows
from lepton.data._inputs import InputEncoder
from lepton.data._sequence_data import LengthLoader, SequenceData
from lepton.data._sequences import SequenceEncoder
from lepton.data._tensors import TensorData, TensorLoader

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.data.stream import StreamLoader, StreamRows

__all__ = ["Loader", "Rows", "input_loader", "input_rows", "rows_at_once", "table_rows", "token_lengths"]

Rows: TypeAlias = "TensorData | SequenceData | ImageRows | AudioRows | StreamRows"
Loader: TypeAlias = "TensorLoader | ImageLoader | AudioLoader | StreamLoader"

EVALUATION_BATCH = 1024
_AT_ONCE: dict[type, int] = {ImageRows: 64, SequenceData: 64, AudioRows: 64}
"""Rows at a time where each is large: of sequences too, since a vocabulary of scores for every token is large."""


def rows_at_once(rows: Rows) -> int:
    """Return how many rows go through a model at a time where none is told."""
    rows = getattr(rows, "sample", rows)  # of streamed rows, some that are in memory
    return next((size for kind, size in _AT_ONCE.items() if isinstance(rows, kind)), EVALUATION_BATCH)


def table_rows(
    encoder: InputEncoder,
    table: pa.Table,
    targets: Mapping[str, Tensor],
    *,
    image_size: Sequence[int] | None = None,
    one_image: bool = True,
    **masks: Any,
) -> TensorData | SequenceData | ImageRows:
    """Return the rows of a table with its inputs.

    Args:
        encoder: fitted rules of the inputs.
        table: the rows.
        targets: the labels that are no masks, name -> [N, ...]; may be empty.
        image_size: height and width of pictures; needed where there are some.
        one_image: whether the model takes one picture for each row, [C, H, W]; otherwise K of them, [K, C, H, W].
        masks: what `ImageRows` takes of masks and memory.
    """
    inputs = encoder.encode(table)
    if not encoder.images:
        if not encoder.tokens:
            return TensorData(inputs, targets)
        return SequenceData(inputs, targets, token_lengths(inputs))
    assert image_size is not None, "resolved"
    columns = list(encoder.image_paths(table).values())
    images: list[Any] = columns[0] if one_image else [list(row) for row in zip(*columns, strict=True)]
    size = (image_size[0], image_size[1])
    return ImageRows(images, size=size, inputs=inputs, targets=targets, **masks)


def token_lengths(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return for inputs with `tokens` how many each text of a row has: `tokens` -> [N, H]."""
    return {"tokens": (inputs["tokens"] != 0).sum(2)}


def input_rows(
    encoder: Encoder,
    table: pa.Table,
    *,
    image_size: Sequence[int] | None = None,
    one_image: bool = True,
    next_tokens: bool = False,
) -> Rows:
    """Return the rows of a table as they are predicted: with inputs and without labels.

    Args:
        encoder: fitted rules of the inputs.
        table: the rows.
        image_size: height and width of pictures; needed where there are some.
        one_image: whether the model takes one picture for each row; see `table_rows`.
        next_tokens: whether `next_tokens`, the token after each of a text, are among the inputs.

    Raises:
        DataError: a column is missing.
    """
    if isinstance(encoder, InputEncoder):
        return table_rows(encoder, table, {}, image_size=image_size, one_image=one_image)
    if isinstance(encoder, SequenceEncoder):
        if encoder.target in table.column_names:
            table = table.drop_columns([encoder.target])  # it is what is to be found
        inputs, lengths = encoder.encode(table)
        if next_tokens:
            inputs["next_tokens"], lengths["next_tokens"] = encoder.language_labels(table), lengths["tokens"]
        return SequenceData(inputs, {}, lengths)
    assert isinstance(encoder, AudioEncoder)
    return AudioRows(
        encoder.paths(table),
        sample_rate=encoder.sample_rate,
        max_seconds=encoder.max_seconds,
        trim=encoder.trim,
        lengths=encoder.samples(table),
    )


def input_loader(rows: Rows, batch_size: int | None = None) -> Loader:
    """Return a loader of rows in their order, read in this process.

    Args:
        rows: the rows.
        batch_size: rows at a time; by default `rows_at_once`.
    """
    size = min(batch_size or rows_at_once(rows), len(rows))
    if isinstance(rows, ImageRows):
        return ImageLoader(rows, size)
    if isinstance(rows, AudioRows):
        return AudioLoader(rows, size)
    if isinstance(rows, TensorData):
        return LengthLoader(rows, size) if isinstance(rows, SequenceData) else TensorLoader(rows, size)
    return rows.loader(size)
