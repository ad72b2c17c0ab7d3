"""Rows of shards whose reading costs: texts, pictures and recordings, of different lengths and changed by chance."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, final

import torch
from torch import Tensor

from lepton.data._audio_rows import AudioRows
from lepton.data._batches import joined, n_rows
from lepton.data._image_loader import image_batch
from lepton.data._image_rows import ImageRows
from lepton.data._input_rows import table_rows
from lepton.data._inputs import InputEncoder
from lepton.data._loading import Batch
from lepton.data._sequence_data import SequenceData, pooled_order
from lepton.data._targets import LabelRule
from lepton.data._tensors import TensorData
from lepton.errors import DataError, is_whole, require

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.data._augment import Augment
    from lepton.data._augment_audio import AugmentAudio

__all__ = ["PictureEncode", "RowsEncode", "SoundEncode", "columns_of"]

HeldRows: TypeAlias = TensorData | SequenceData | ImageRows | AudioRows

LENGTHS = "lengths of "
"""How the lengths of a padded input or target are called among the targets, until a batch is cut."""

PICTURES, RECORDINGS = 64, 256
"""Rows that are decoded at a time: some megabytes, and with recordings enough to put those of like length together."""


class RowsEncode(abc.ABC):
    """Turns rows of a table into inputs and targets, so many at a time, where that is the work and not their reading.

    A `StreamLoader` shuffles the rows of a window as they are in the table, as paths and texts; then this makes inputs
    and targets of some of them at a time, in a worker if there are some. So a window may be large where a row is a
    picture. Rows of like length come together in a batch, which is cut to its longest, as in `LengthLoader`.

    Args:
        columns: names of the columns that are read.
        inputs: those of them that the inputs are made of.
        at_once: rows that are made at a time; None for those of a window.
        pads: input -> what fills the places beyond the end of a text; by default 0.
        augment: changes pictures, or recordings, where the order is shuffled.
    """

    def __init__(
        self,
        columns: Sequence[str],
        inputs: Sequence[str],
        *,
        at_once: int | None,
        pads: Mapping[str, float] | None = None,
        augment: Augment | AugmentAudio | None = None,
    ) -> None:
        least = "a whole number of at least 1"
        require(at_once is None or is_whole(at_once), type(self).__name__, "at_once", at_once, least)
        self.columns = list(columns)
        self.inputs = list(inputs)
        self.at_once = at_once
        self.pads = dict(pads or {})
        self.augment: Any = augment

    @abc.abstractmethod
    def rows(self, table: pa.Table) -> HeldRows:
        """Return the rows of a table.

        Raises:
            LeptonError: a row cannot be used; OSError and ValueError likewise.
        """

    def __call__(self, table: pa.Table) -> Batch:
        """Return inputs and targets of N rows, as a batch of them."""
        return self.trimmed(self.read(table, None))

    def read(self, table: pa.Table, generator: torch.Generator | None) -> Batch:
        """Return inputs and targets of N rows, with the lengths of those that are padded among the targets.

        Args:
            table: the rows.
            generator: draws how they are changed; without one they are not.
        """
        rows = self.rows(table)
        every = torch.arange(len(rows))
        augment = None if generator is None else self.augment
        if isinstance(rows, ImageRows):
            return image_batch(rows, augment, every, generator)
        if isinstance(rows, AudioRows):
            return _with_lengths(rows, rows.batch(every, augment=augment, generator=generator))
        found = {LENGTHS + name: held for name, held in rows.lengths.items()} if isinstance(rows, SequenceData) else {}
        return rows.inputs, {**rows.targets, **found}

    def joined(self, batches: Sequence[Batch]) -> Batch:
        """Return the rows that `read` gave, one after the other."""
        return joined(batches, pads=self.pads)

    def order(self, batch: Batch, size: int, generator: torch.Generator) -> Tensor:
        """Return an order of rows [N]: by chance, and where they have lengths, like ones in batches of one size."""
        inputs, targets = batch
        lengths = [targets[key] for key in targets if key.startswith(LENGTHS) and key[len(LENGTHS) :] in inputs]
        if not lengths:
            return torch.randperm(n_rows(batch), generator=generator)
        total = sum((held.flatten(1).amax(1) if held.ndim > 1 else held) for held in lengths)
        return pooled_order(torch.as_tensor(total).numpy(), size, drop_last=False, generator=generator)

    def trimmed(self, batch: Batch) -> Batch:
        """Return a batch without the padding that its rows share, its whole numbers as int64, and without lengths."""
        inputs, targets = batch
        lengths = {key[len(LENGTHS) :]: held for key, held in targets.items() if key.startswith(LENGTHS)}
        if not lengths:
            return batch
        own = {name: target for name, target in targets.items() if not name.startswith(LENGTHS)}
        data = SequenceData(inputs, own, lengths)
        return data.batch(torch.arange(len(data)))


@final
class AsTheyAre(RowsEncode):
    """What an `Encode` says of rows, all of a window at a time."""

    def __init__(self, encode: Any) -> None:
        super().__init__(encode.columns, encode.inputs, at_once=None)
        self.encode: Callable[[pa.Table], Batch] = encode

    def rows(self, table: pa.Table) -> HeldRows:
        """Return the rows of a table."""
        return TensorData(*self.encode(table))

    def read(self, table: pa.Table, generator: torch.Generator | None) -> Batch:
        """Return inputs and targets of N rows; nothing is drawn."""
        del generator
        return self.encode(table)


def columns_of(inputs: Sequence[str], rules: Sequence[LabelRule]) -> list[str]:
    """Return the columns of inputs and labels, each once."""
    return list(dict.fromkeys([*inputs, *(name for rule in rules for name in rule.columns)]))


def _with_lengths(rows: AudioRows, batch: Batch) -> Batch:
    """Return a batch of recordings with the lengths of what is padded in it."""
    inputs, targets = batch
    found = {"waveform": inputs["samples"]}
    found |= {name: _filled(inputs[name], 0) for name, held in rows.inputs.items() if _is_text(held)}
    found |= {name: _filled(targets[name], -100) for name, held in rows.targets.items() if _is_text(held)}
    found |= {task: torch.as_tensor(front.frames(inputs["samples"])) for task, front in rows.front_ends.items()}
    return inputs, {**targets, **{LENGTHS + name: lengths for name, lengths in found.items()}}


def _is_text(held: Tensor) -> bool:
    return held.ndim == 2 and not held.is_floating_point() and held.dtype != torch.bool


def _filled(texts: Tensor, pad: int) -> Tensor:
    """Return how many places of each text [B, U] there are up to its last one that is no padding [B]."""
    return ((texts != pad) * torch.arange(1, texts.shape[1] + 1)).amax(1)


@final
class PictureEncode(RowsEncode):
    """Pictures, what else an `InputEncoder` reads beside them, labels and masks.

    Args:
        encoder: fitted rules of the inputs, with at least one column of pictures.
        rules: rules of the labels; a segmentation's are masks, whose column holds their paths.
        size: height and width of all pictures.
        one_image: whether the model takes one picture for each row, [C, H, W]; otherwise K of them, [K, C, H, W].
        at_once: rows that are decoded at a time.
        augment: changes pictures and masks where the order is shuffled.

    Example:
        >>> from PIL import Image
        >>> from lepton.data import describe_columns, read_table
        >>> for colour in ("red", "blue"):
        ...     Image.new("RGB", (8, 8), colour).save(f"{colour}.png")
        >>> Image.new("L", (8, 8), 1).save("mask.png")
        >>> table = read_table({"image": ["red.png", "blue.png"], "mask": ["mask.png", None]})
        >>> encoder = InputEncoder.fit(table, describe_columns(table.select(["image"])))
        >>> rule = LabelRule("parts", "segmentation", ("mask",), ("0", "1"))
        >>> inputs, targets = PictureEncode(encoder, [rule], size=(4, 6))(table)
        >>> inputs["image"].shape, targets["parts"].shape
        (torch.Size([2, 3, 4, 6]), torch.Size([2, 4, 6]))
    """

    def __init__(
        self,
        encoder: InputEncoder,
        rules: Sequence[LabelRule],
        *,
        size: tuple[int, int],
        one_image: bool = True,
        at_once: int = PICTURES,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(columns_of(encoder.names, rules), encoder.names, at_once=at_once, augment=augment)
        self.encoder = encoder
        self.rules = list(rules)
        self.size = size
        self.one_image = one_image

    def rows(self, table: pa.Table) -> HeldRows:
        """Return the rows of a table.

        Raises:
            DataError: when they are read, a picture or a mask is not there or broken.
        """
        masked = [rule for rule in self.rules if rule.kind == "segmentation"]
        targets = {rule.task: rule.encode(table)[0] for rule in self.rules if rule not in masked}
        masks: dict[str, Any] = {
            "masks": {rule.task: table.column(rule.columns[0]).to_pylist() for rule in masked},
            "classes": {rule.task: len(rule.classes) for rule in masked},
            "missing": masked[0].missing if masked else 255,
        }
        return table_rows(self.encoder, table, targets, image_size=self.size, one_image=self.one_image, **masks)


@final
class SoundEncode(RowsEncode):
    """Recordings, brought to one rate and padded to the longest of their batch, and targets.

    Args:
        column: the column of their paths.
        rules: rules of the labels, none of masks, texts or recordings.
        sample_rate: samples a second.
        max_seconds: longest recording; longer ones are cut.
        at_once: rows that are decoded at a time.
        augment: changes recordings where the order is shuffled.
    """

    def __init__(
        self,
        column: str,
        rules: Sequence[LabelRule],
        *,
        sample_rate: int,
        max_seconds: float = 20.0,
        at_once: int = RECORDINGS,
        augment: AugmentAudio | None = None,
    ) -> None:
        super().__init__(columns_of([column], rules), [column], at_once=at_once, augment=augment)
        self.rules = list(rules)
        self.sample_rate = sample_rate
        self.max_seconds = max_seconds

    def rows(self, table: pa.Table) -> HeldRows:
        """Return the rows of a table.

        Raises:
            DataError: a recording is not there or broken.
        """
        paths = table.column(self.inputs[0]).to_pylist()
        if None in paths:
            raise DataError("there is no path of a recording")
        targets = {rule.task: rule.encode(table)[0] for rule in self.rules}
        return AudioRows(paths, sample_rate=self.sample_rate, max_seconds=self.max_seconds, targets=targets)
